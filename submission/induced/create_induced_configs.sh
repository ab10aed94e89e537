#!/bin/bash
# Step 7: the induced network from which the fine-tuning starts, counted and evaluated.
source "$(dirname "$0")/steps.sh"
kr induce build "$BASELINE_FLATTENED_CHECKPOINT_PATH" "$CACHE_DIR/$NEW_INDUCED_MODEL_NAME.npz" --preset "$PRESET" \
    "${IMAGES[@]}" --output "$FINETUNE_INDUCED_MODEL_CONFIG_FILE"
