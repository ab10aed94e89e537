"""Networks by name: one builder per family, a registry, and PyTorch weights.

All are functional models on NHWC float images that end in logits. Each ReLU is a layer of its own with a stable name
(`stem_relu`, `stage2_block1_relu1`, ...), which is what masks, counts and reports refer to.
"""

from keras_relu.models import (
    dense,
    inception,
    lenet,
    resnet,
    resnet20_wide,
    resnet_cifar,
    tiny10,
    torch_weights,
    wide_resnet,
)
from keras_relu.models.registry import build, describe, list_models, register

__all__ = [
    "build",
    "dense",
    "describe",
    "inception",
    "lenet",
    "list_models",
    "register",
    "resnet",
    "resnet20_wide",
    "resnet_cifar",
    "tiny10",
    "torch_weights",
    "wide_resnet",
]
