# Shared by the steps beside it; source it, do not run it.
set -eu

STEPS_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
KR_ROOT=${KERAS_RELU_ROOT:-$(cd "$STEPS_DIR/../.." && pwd)}
source "$KR_ROOT/submission/lib.sh"
source "$STEPS_DIR/induced_config.sh"

KERAS_RELU_COMMAND=$(kr_find)
# What every command that reads images is told about them.
IMAGES=(--data-dir "$DATA_DIR" --validation-fraction "$VALIDATION_FRACTION")
ARCH=$(printf '%s' "$NETWORK_TYPE" | tr '[:upper:]' '[:lower:]')

kr() { "$KERAS_RELU_COMMAND" "$@"; }

# The structured network as a run: PyTorch weights are converted once, everything else is taken as it is.
structured_model() {
    case "$BASELINE_STRUCTURED_CHECKPOINT_PATH" in
    *.pth | *.pt | *.th)
        local run="$WORK_DIR/structured"
        if [ ! -e "$run/result.json" ]; then
            kr convert "$BASELINE_STRUCTURED_CHECKPOINT_PATH" --arch "$ARCH" --output "$run" >&2
        fi
        echo "$run"
        ;;
    *) echo "$BASELINE_STRUCTURED_CHECKPOINT_PATH" ;;
    esac
}

# Prototypes of an earlier clustering are reused unless IS_RECLUSTER is exactly TRUE.
recluster_options() { if [ "$IS_RECLUSTER" != TRUE ]; then echo --reuse-prototypes; fi; }
