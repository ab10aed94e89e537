#!/bin/bash
# Step 4.2: accuracy of the structured network.
source "$(dirname "$0")/steps.sh"
kr evaluate "$(structured_model)" --dataset "$DATASET" --data-dir "$DATA_DIR"
