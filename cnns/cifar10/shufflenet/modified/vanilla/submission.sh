#!/bin/bash
#SBATCH --job-name=cifar10-shufflenet-modified-vanilla --ntasks-per-node=1 --cpus-per-task=8 --gres=gpu:1 --mem=32G --time=24:00:00 --requeue --open-mode=append --signal=B:USR1@120
if [ -e "${0%/*}/experiment.yaml" ]; then cd "${0%/*}" || exit; fi; source "${KERAS_RELU_ROOT:-../../../../..}/submission/experiment.sh"
