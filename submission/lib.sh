# shellcheck shell=bash
# Shared by the templates beside it; source it, do not run it. Works under Slurm and without.
#
# Slurm warns the batch shell with USR1 two minutes before the time limit (#SBATCH --signal=B:USR1@120), and when it preempts
# the job where the site asks for that (SlurmctldParameters=preempt_send_user_signal). The shell hands that to keras-relu,
# which saves a checkpoint and exits with 75; the job, and of an array only this task, is then requeued and goes on from
# there. A job that is preempted without a warning goes on from its last periodic checkpoint; a cancelled one does not.
#
# Environment: KERAS_RELU (the command), MODULES ("cuda/12 python/3.11", loaded with `module`), CONTAINER (an image for
# Apptainer or Singularity), CONTAINER_OPTIONS (more options of its exec), DATA_DIR (also bound into the container).

set -u

KR_INTERRUPTED=75 # keras_relu.errors.EXIT_INTERRUPTED

# The keras-relu command: $KERAS_RELU, the container's, the repository's environment, or the one on PATH.
kr_find() {
    if [ -n "${KERAS_RELU:-}" ]; then
        echo "$KERAS_RELU"
    elif [ -n "${CONTAINER:-}" ]; then
        echo keras-relu
    elif [ -x "$KR_ROOT/.venv/bin/keras-relu" ]; then
        echo "$KR_ROOT/.venv/bin/keras-relu"
    elif ! command -v keras-relu; then
        echo "keras-relu was not found: run 'make venv' in $KR_ROOT, or set KERAS_RELU to the command." >&2
        return 127
    fi
}

# Commands that write a run can be requeued only if they resume it; `experiment` always does.
kr_arguments() {
    KR_ARGUMENTS=("$@")
    local command=${1:-}
    case "$command" in
    decompose | induce | stitch) command="$1 ${2:-}" ;;
    esac
    case "$command" in
    train | prune | quantize | predict-relus | reduce | sweep | "decompose finetune" | "decompose train-csg" | \
        "induce run" | "induce finetune" | "stitch train" | "stitch grid")
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

kr_modules() {
    local module
    [ -n "${MODULES:-}" ] || return 0
    if ! command -v module >/dev/null; then
        echo "MODULES is set, but this shell has no command 'module'; source your site's set-up before." >&2
        return 127
    fi
    for module in $MODULES; do
        module load "$module" || return
    done
}

# KR_CONTAINER becomes what stands before the command: empty, or apptainer exec ... IMAGE.
kr_container() {
    local engine folder
    KR_CONTAINER=()
    [ -n "${CONTAINER:-}" ] || return 0
    if ! engine=$(command -v apptainer || command -v singularity); then
        echo "CONTAINER is set, but neither apptainer nor singularity was found." >&2
        return 127
    fi
    case "$CONTAINER" in
    *://*) ;;
    *) if [ ! -e "$CONTAINER" ]; then
        echo "The container $CONTAINER does not exist." >&2
        return 2
    fi ;;
    esac
    KR_CONTAINER=("$engine" exec --nv)
    for folder in "$KR_ROOT" "$PWD" ${DATA_DIR:+"$DATA_DIR"}; do
        case "$folder" in
        *[:,]*)
            echo "The folder $folder cannot be bound into a container: its name has a colon or a comma." >&2
            return 2
            ;;
        esac
        KR_CONTAINER+=(--bind "$folder")
    done
    # Several options in one variable: splitting at spaces is meant.
    # shellcheck disable=SC2206
    KR_CONTAINER+=(${CONTAINER_OPTIONS:-} "$CONTAINER")
}

# kr_run COMMAND...: run it, pass stop signals on, requeue the job when it was interrupted, return its exit code.
kr_run() {
    local child code=0 status
    KR_STOP=
    "$@" &
    child=$!
    trap 'KR_STOP=USR1; KR_SIGNALLED=1; kill -USR1 "$child" 2>/dev/null' USR1
    trap 'KR_STOP=${KR_STOP:-TERM}; KR_SIGNALLED=1; kill -USR1 "$child" 2>/dev/null' TERM
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
    if [ "$code" = "$KR_INTERRUPTED" ] || { [ -n "$KR_STOP" ] && [ "$code" -gt 128 ]; }; then
        kr_requeue
        code=$KR_INTERRUPTED
    fi
    return "$code"
}

# The job's own name for scontrol: the plain number of an array's last task would mean the whole array.
kr_job() {
    if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
        echo "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
    else
        echo "${SLURM_JOB_ID:-}"
    fi
}

kr_requeue() {
    local job state=
    job=$(kr_job)
    if [ -z "$job" ]; then
        echo "interrupted; the same command goes on from its checkpoint" >&2
        return
    fi
    if [ "$KR_STOP" = TERM ]; then
        # scancel sends TERM too, and who cancels a job does not want it back.
        state=$(scontrol show job --oneliner "$job" 2>/dev/null | grep -o 'JobState=[A-Z_]*')
    fi
    case "$state" in
    "" | JobState=RUNNING | JobState=PREEMPTED)
        echo "interrupted; requeueing job $job" >&2
        scontrol requeue "$job"
        ;;
    *) echo "interrupted; job $job was stopped (${state#JobState=}) and is not requeued; submit it again to go on" >&2 ;;
    esac
}

# kr_log FOLDER: under Slurm, from here on everything goes to FOLDER/slurm-<job>.log.
kr_log() {
    local job
    job=$(kr_job)
    [ -n "$job" ] || return 0
    mkdir -p "$1" || return
    exec >>"$1/slurm-$job.log" 2>&1
    # Slurm's own log, which this one replaces, is kept where something was written to it.
    [ -s "slurm-$job.out" ] || rm -f "slurm-$job.out"
}

# kr_main [--tasks] ARGUMENTS...: what every template does. --tasks starts one task per node with srun, where there is one.
kr_main() {
    local launcher=() command
    if [ "${1:-}" = --tasks ]; then
        shift
        # -K: a task that fails must not leave the others waiting for it.
        if [ -n "${SLURM_JOB_ID:-}" ]; then launcher=(srun --kill-on-bad-exit=1); fi
        # Two jobs on one node must not meet on a port; each has 32 of its own, below those the system hands out.
        export KERAS_RELU_BASE_PORT=${KERAS_RELU_BASE_PORT:-$((10000 + ${SLURM_JOB_ID:-0} % 700 * 32))}
    fi
    if [ $# = 0 ]; then
        echo "usage: $(basename "$0") train|reduce|sweep|evaluate ... (the arguments of keras-relu)" >&2
        return 2
    fi
    kr_modules || return
    command=$(kr_find) || return
    kr_container || return
    kr_arguments "$@"
    kr_environment
    kr_run ${launcher[@]+"${launcher[@]}"} ${KR_CONTAINER[@]+"${KR_CONTAINER[@]}"} "$command" "${KR_ARGUMENTS[@]}"
}
