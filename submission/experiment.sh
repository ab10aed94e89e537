# shellcheck shell=bash
# What every submission.sh below cnns/ does: it runs the experiment of the current directory. Source it there.
#
# Environment, as in the original scripts: TRAINING and PRE_TRAINED (true or false; without either the stage is trained
# until it has a finished run, and evaluated from then on), GPUS (how many; default all), DATA_DIR (folder of the data
# set), EXP_PATH (another folder that holds cifar10/ and cifar100/, for runs outside the repository), PYTHONPATH, and what
# lib.sh names: CONTAINER, CONTAINER_OPTIONS, MODULES, KERAS_RELU. Arguments are settings: bash submission.sh epochs=3.

KR_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=submission/lib.sh
source "$KR_ROOT/submission/lib.sh" || exit 2

if [ -n "${EXP_PATH:-}" ]; then
    cd "$EXP_PATH/${PWD##*/cnns/}" || exit 2
fi
kr_log run/logs || exit 2

KR_TASKS=()
if [ "${SLURM_JOB_NUM_NODES:-1}" -gt 1 ]; then KR_TASKS=(--tasks); fi
kr_main ${KR_TASKS[@]+"${KR_TASKS[@]}"} experiment run "$PWD" \
    ${TRAINING:+--training "$TRAINING"} ${PRE_TRAINED:+--pre-trained "$PRE_TRAINED"} \
    ${GPUS:+--gpus "$GPUS"} ${DATA_DIR:+--data-dir "$DATA_DIR"} "$@"
