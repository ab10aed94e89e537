#!/bin/bash
# Several nodes, one task per node over all its GPUs (strategy "multiworker", which "auto" chooses in a step of several tasks):
#   sbatch --nodes=4 submission/many_nodes.sh train --arch resnet50 --dataset imagenet --data-dir D --output run/base
# The output directory must be on a file system that all nodes see. Worker i listens on port KERAS_RELU_BASE_PORT + i.
# Without Slurm it is one process:  bash submission/many_nodes.sh train ...
#SBATCH --job-name=keras-relu
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
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

kr_main --tasks "$@"
