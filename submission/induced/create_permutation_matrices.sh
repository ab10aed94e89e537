#!/bin/bash
# Step 6: prototypes, assignment and choosing matrices (channel-first, as the original's).
source "$(dirname "$0")/steps.sh"
# shellcheck disable=SC2046 # no option at all, or one
kr induce cluster "$CACHE_DIR" --mapping "$INDUCER_TO_INDUCED_MAPPING" --prototypes "$PROTOTYPES_COUNTS" \
    --preset "$PRESET" --data-dir "$DATA_DIR" --output "$CACHE_DIR/$NEW_INDUCED_MODEL_NAME.npz" \
    --matrices "$CACHE_DIR/layer_name_to_choosing_matrix/$NEW_INDUCED_MODEL_NAME.npz" $(recluster_options)
