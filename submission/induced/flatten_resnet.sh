#!/bin/bash
# Step 2: the network under the original's flattened names. Written once; a second start finds it there.
source "$(dirname "$0")/steps.sh"
model=$(structured_model)
if [ ! -e "$BASELINE_FLATTENED_CHECKPOINT_PATH/result.json" ]; then
    kr induce flatten "$model" --output "$BASELINE_FLATTENED_CHECKPOINT_PATH"
fi
