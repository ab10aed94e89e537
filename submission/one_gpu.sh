#!/bin/bash
# One GPU:  sbatch submission/one_gpu.sh train --arch resnet20 --dataset cifar10 --data-dir D --output run/base
# Without Slurm:  bash submission/one_gpu.sh train ...
#SBATCH --job-name=keras-relu
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --gres=gpu:1
#SBATCH --mem=32G
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
