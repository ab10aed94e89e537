#!/bin/bash
# Step 3: the sign bits of every ReLU of the flattened network over the held-out images.
source "$(dirname "$0")/steps.sh"
kr induce cache "$BASELINE_FLATTENED_CHECKPOINT_PATH" --dataset "$DATASET" "${IMAGES[@]}" \
    --images "$CACHE_IMAGES" --split "$CACHE_SPLIT" --output "$CACHE_DIR"
