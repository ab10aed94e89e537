#!/bin/bash
# Step 8: fine-tune the induced network and test it once. Further options go to the command, --epochs 20 for example.
source "$(dirname "$0")/steps.sh"
kr induce finetune "$FINETUNE_INDUCED_MODEL_CONFIG_FILE" --preset "$PRESET" "${IMAGES[@]}" \
    --output "$FINETUNE_WORK_DIR" --resume "$@"
