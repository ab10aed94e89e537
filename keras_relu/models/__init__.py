"""Networks by name: one builder per family, a registry, and PyTorch weights.

All are functional models on NHWC float images that end in logits. Each ReLU is a layer of its own with a stable name
(`stem_relu`, `stage2_block1_relu1`, ...), which is what masks, counts and reports refer to.
"""

from keras_relu.models import (
    dense,
    fusionet,
    inception,
    lenet,
    mnasnet,
    mobilenet_v2,
    resnet,
    resnet20_wide,
    resnet_cifar,
    shufflenet,
    tiny10,
    torch_weights,
    wide_resnet,
)
from keras_relu.models.registry import build, check_options, describe, list_models, register

__all__ = [
    "build",
    "check_options",
    "dense",
    "describe",
    "fusionet",
    "inception",
    "lenet",
    "list_models",
    "mnasnet",
    "mobilenet_v2",
    "register",
    "resnet",
    "resnet20_wide",
    "resnet_cifar",
    "shufflenet",
    "tiny10",
    "torch_weights",
    "wide_resnet",
]
