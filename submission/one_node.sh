#!/bin/bash
# All GPUs of one node, one process (strategy "mirrored", which "auto" chooses):
#   sbatch --gres=gpu:8 submission/one_node.sh train --arch resnet50 --dataset imagenet --data-dir D --output run/base
# The batch size is the global one, shared among the GPUs. Without Slurm:  bash submission/one_node.sh train ...
#SBATCH --job-name=keras-relu
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=32
#SBATCH --gres=gpu:4
#SBATCH --mem=128G
#SBATCH --time=24:00:00
#SBATCH --output=slurm-%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120

# Slurm runs a copy of this script, so the repository is where the job was submitted.
KR_ROOT=${KERAS_RELU_ROOT:-${SLURM_SUBMIT_DIR:-$(cd "$(dirname "$0")/.." && pwd)}}
# shellcheck source=submission/lib.sh
source "$KR_ROOT/submission/lib.sh" || exit 2

kr_main "$@"
