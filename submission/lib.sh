# Shared by the templates beside it; source it, do not run it. Works under Slurm and without.
#
# Slurm warns the batch shell with USR1 two minutes before the time limit (#SBATCH --signal=B:USR1@120). The shell hands
# the signal to keras-relu, which saves a checkpoint and exits with 75; the job is then requeued and goes on with --resume.

set -u

KR_INTERRUPTED=75 # keras_relu.errors.EXIT_INTERRUPTED

# The keras-relu command: $KERAS_RELU, the repository's environment, or the one on PATH.
kr_find() {
    if [ -n "${KERAS_RELU:-}" ]; then
        echo "$KERAS_RELU"
    elif [ -x "$KR_ROOT/.venv/bin/keras-relu" ]; then
        echo "$KR_ROOT/.venv/bin/keras-relu"
    elif ! command -v keras-relu; then
        echo "keras-relu was not found: run 'make venv' in $KR_ROOT, or set KERAS_RELU to the command." >&2
        return 127
    fi
}

# Commands that write a run can be requeued only if they resume it.
kr_arguments() {
    KR_ARGUMENTS=("$@")
    case "${1:-}" in
    train | reduce | sweep)
        case " $* " in
        *" --resume "*) ;;
        *) KR_ARGUMENTS+=(--resume) ;;
        esac
        ;;
    esac
}

# TensorFlow starts one thread per core of the node unless it is told what the job was given.
kr_environment() {
    if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then
        export OMP_NUM_THREADS="$SLURM_CPUS_PER_TASK"
        export TF_NUM_INTRAOP_THREADS="$SLURM_CPUS_PER_TASK"
    fi
    echo "host $(hostname), job ${SLURM_JOB_ID:-none}, restart ${SLURM_RESTART_COUNT:-0}, GPUs ${CUDA_VISIBLE_DEVICES:-all there are}"
}

# kr_run COMMAND...: run it, pass stop signals on, requeue the job when it was interrupted, return its exit code.
kr_run() {
    local child code=0 status
    KR_STOP=0
    "$@" &
    child=$!
    trap 'KR_STOP=1; KR_SIGNALLED=1; kill -USR1 "$child" 2>/dev/null' USR1 TERM
    while :; do
        KR_SIGNALLED=0
        status=0
        wait "$child" || status=$?
        # 127: the command had ended while the signal came in, and its code is known already.
        [ "$status" = 127 ] || code=$status
        # A signal ends `wait`, not the command.
        [ "$KR_SIGNALLED" = 1 ] || break
    done
    trap - USR1 TERM
    # When one task of a step stops, srun ends the others, and its code may be that of a killed one.
    if [ "$code" = "$KR_INTERRUPTED" ] || { [ "$KR_STOP" = 1 ] && [ "$code" -gt 128 ]; }; then
        kr_requeue
        code=$KR_INTERRUPTED
    fi
    return "$code"
}

kr_requeue() {
    if [ -z "${SLURM_JOB_ID:-}" ]; then
        echo "interrupted; the same command goes on from its checkpoint" >&2
    else
        echo "interrupted; requeueing job $SLURM_JOB_ID" >&2
        scontrol requeue "$SLURM_JOB_ID"
    fi
}

# kr_main [--tasks] ARGUMENTS...: what every template does. --tasks starts one task per node with srun, where there is one.
kr_main() {
    local launcher=() command
    if [ "${1:-}" = --tasks ]; then
        shift
        # -K: a task that fails must not leave the others waiting for it.
        if [ -n "${SLURM_JOB_ID:-}" ]; then launcher=(srun --kill-on-bad-exit=1); fi
    fi
    if [ $# = 0 ]; then
        echo "usage: $(basename "$0") train|reduce|sweep|evaluate ... (the arguments of keras-relu)" >&2
        return 2
    fi
    command=$(kr_find) || return
    kr_arguments "$@"
    kr_environment
    kr_run ${launcher[@]+"${launcher[@]}"} "$command" "${KR_ARGUMENTS[@]}"
}
