# The settings of the steps beside this file; source it first:  source ./induced_config.sh
# The names are the original's. Every value may be set before; paths are relative to where the steps are started,
# and directories are created.

: "${NETWORK_TYPE:=ResNet18}" # ResNet18, ResNet20, ... or the name of any architecture of `keras-relu models list`
: "${INDUCER_TO_INDUCED_MAPPING:=$(dirname "${BASH_SOURCE[0]}")/json_configs/flattened_resnet18_one_layer_induces_ten_layers.json}"
: "${PROTOTYPES_COUNTS:=1000}" # one number per inducer, separated by spaces, in the mapping's order
: "${IS_RECLUSTER:=TRUE}"      # TRUE selects prototypes; anything else takes those of an earlier clustering in CACHE_DIR
: "${NEW_INDUCED_MODEL_NAME:=resnet18_one_layer_induces_ten_layers}"

# The original keeps class definitions and configurations in files of their own; here a model's file holds its graph, and
# a run's config.yaml its settings. So the variables name runs and files that the steps write, and MMCLS_BACKBONE_DIR,
# NEW_INDUCED_MODEL_CONFIG_FILE_NAME and the *_MODEL_CONFIG_FILE of the structured and flattened network are not needed.
: "${WORK_DIR:=run/induced}"
: "${BASELINE_STRUCTURED_CHECKPOINT_PATH:=$WORK_DIR/baseline}"                # a run, a .keras file or PyTorch weights (.pth)
: "${BASELINE_FLATTENED_CHECKPOINT_PATH:=$WORK_DIR/flattened}"                # written by convert_structured_checkpoint.sh
: "${CACHE_DIR:=$WORK_DIR/cache}"                                             # sign bits, prototypes, choosing matrices
: "${BASE_INDUCED_MODEL_CONFIG_FILE:=$WORK_DIR/$NEW_INDUCED_MODEL_NAME.json}" # the checked plan and its comparisons
: "${FINETUNE_INDUCED_MODEL_CONFIG_FILE:=$WORK_DIR/$NEW_INDUCED_MODEL_NAME}"  # the induced network before fine-tuning
: "${FINETUNE_WORK_DIR:=$WORK_DIR/finetune}"

: "${DATASET:=cifar100}"
: "${DATA_DIR:=data}"
: "${VALIDATION_FRACTION:=0.2}" # the original trains on 40,000 images and keeps 10,000 for choices
: "${CACHE_IMAGES:=10000}"
: "${CACHE_SPLIT:=validation}"
: "${PRESET:=default}" # `original` is the original's recipe: Hamming distance, no re-estimated statistics, lr 8e-4

export NETWORK_TYPE INDUCER_TO_INDUCED_MAPPING PROTOTYPES_COUNTS IS_RECLUSTER NEW_INDUCED_MODEL_NAME WORK_DIR
export BASELINE_STRUCTURED_CHECKPOINT_PATH BASELINE_FLATTENED_CHECKPOINT_PATH CACHE_DIR
export BASE_INDUCED_MODEL_CONFIG_FILE FINETUNE_INDUCED_MODEL_CONFIG_FILE FINETUNE_WORK_DIR
export DATASET DATA_DIR VALIDATION_FRACTION CACHE_IMAGES CACHE_SPLIT PRESET
