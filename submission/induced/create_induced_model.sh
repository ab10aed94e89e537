#!/bin/bash
# Step 5: the mapping checked against the network, and the comparisons that will be left.
source "$(dirname "$0")/steps.sh"
kr induce plan "$BASELINE_FLATTENED_CHECKPOINT_PATH" --mapping "$INDUCER_TO_INDUCED_MAPPING" \
    --prototypes "$PROTOTYPES_COUNTS" --save "$BASE_INDUCED_MODEL_CONFIG_FILE"
