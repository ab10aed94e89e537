#!/bin/bash
# Step 4.2: accuracy of the flattened network; it must equal that of inference_original_model.sh.
source "$(dirname "$0")/steps.sh"
kr evaluate "$BASELINE_FLATTENED_CHECKPOINT_PATH" --dataset "$DATASET" --data-dir "$DATA_DIR"
