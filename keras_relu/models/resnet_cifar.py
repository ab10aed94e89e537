"""ResNets for 32x32 images with three stages (He et al. 2015, arXiv 1512.03385, section 4.2).

Depth 6n+2: a 3x3 stem of 16 filters, then three stages of n basic blocks with 16, 32 and 64 filters. Parameters and
activation sites agree with the widely used PyTorch version whose ResNet-20 has 269,722 parameters.
"""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras

from keras_relu.errors import unknown_key
from keras_relu.layers.shortcut import ZeroPadShortcut
from keras_relu.models.blocks import Blocks
from keras_relu.models.registry import register

__all__ = ["build_resnet_cifar"]

_SHORTCUTS = ("A", "B")


def build_resnet_cifar(
    name: str, input_shape: tuple[int, int, int], classes: int, seed: int | None, *, depth: int, shortcut: str
) -> keras.Model:
    """A CIFAR ResNet.

    Args:
        depth: 6n+2.
        shortcut: where the size changes, "A" is a strided slice with zero channels (no parameters), "B" a 1x1
            convolution with batch normalisation.

    Raises:
        UserError: another shortcut.
    """
    if shortcut not in _SHORTCUTS:
        raise unknown_key("shortcut", shortcut, _SHORTCUTS)
    blocks = Blocks(seed)
    inputs = keras.Input(input_shape, name="image")
    x = blocks.conv(inputs, 16, 3, name="stem_conv")
    x = blocks.relu(blocks.bn(x, name="stem_bn"), name="stem_relu")
    for stage in (1, 2, 3):
        for block in range(1, (depth - 2) // 6 + 1):
            strides = 2 if stage > 1 and block == 1 else 1
            prefix = f"stage{stage}_block{block}"
            x = _basic_block(blocks, x, 8 * 2**stage, strides=strides, shortcut=shortcut, prefix=prefix)
    return keras.Model(inputs, blocks.head(x, classes), name=name)


def _basic_block(blocks: Blocks, x: tf.Tensor, filters: int, *, strides: int, shortcut: str, prefix: str) -> tf.Tensor:
    y = blocks.conv(x, filters, 3, strides=strides, name=f"{prefix}_conv1")
    y = blocks.relu(blocks.bn(y, name=f"{prefix}_bn1"), name=f"{prefix}_relu1")
    y = blocks.conv(y, filters, 3, name=f"{prefix}_conv2")
    y = blocks.bn(y, name=f"{prefix}_bn2")
    if strides > 1 and shortcut == "A":
        x = ZeroPadShortcut(filters, strides, name=f"{prefix}_shortcut")(x)
    elif strides > 1:
        x = blocks.conv(x, filters, 1, strides=strides, name=f"{prefix}_shortcut_conv")
        x = blocks.bn(x, name=f"{prefix}_shortcut_bn")
    y = keras.layers.Add(name=f"{prefix}_add")([y, x])
    return blocks.relu(y, name=f"{prefix}_relu2")


for _depth in (20, 32, 44, 56, 110):
    register(f"resnet{_depth}", family="resnet_cifar", fixed={"depth": _depth}, options={"shortcut": "A"})(
        build_resnet_cifar
    )
