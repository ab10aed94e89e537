#!/bin/bash
# All steps in order. Options go to the fine-tuning.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
for step in flatten_resnet cache_relu_activations convert_structured_checkpoint inference_original_model \
    inference_flattened_model create_induced_model create_permutation_matrices create_induced_configs; do
    "$here/$step.sh"
done
"$here/finetune_v2.sh" "$@"
