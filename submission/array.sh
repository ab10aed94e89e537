#!/bin/bash
# One array task per cell of a sweep (budgets x replacements), one GPU each; 4 budgets and 3 replacements are cells 0 to 11:
#   sbatch --array=0-11 submission/array.sh sweep run/base --dataset cifar10 --data-dir D --output run/sweep
# Without Slurm the cells run one after another:  bash submission/array.sh sweep ...
#SBATCH --job-name=keras-relu
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --gres=gpu:1
#SBATCH --mem=32G
#SBATCH --time=24:00:00
#SBATCH --output=slurm-%x-%A-%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120

# Slurm runs a copy of this script, so the repository is where the job was submitted.
KR_ROOT=${KERAS_RELU_ROOT:-${SLURM_SUBMIT_DIR:-$(cd "$(dirname "$0")/.." && pwd)}}
# shellcheck source=submission/lib.sh
source "$KR_ROOT/submission/lib.sh" || exit 2

if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
    set -- "$@" --cell "$SLURM_ARRAY_TASK_ID"
fi
kr_main "$@"
