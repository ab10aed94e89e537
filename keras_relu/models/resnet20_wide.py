"""CIFAR ResNet-20 with widths 16K, 32K, 64K and convolutions on the shortcuts, as in the stitching work.

Csiszarik et al. (2021, arXiv 2110.14633). `resnet20_wK` and, as its README has it, `resnet_wK`. Differs from the family
`resnet_cifar` in the width, in the shortcut (a 1x1 convolution with batch normalisation wherever the shape changes) and
in the start values: Kaiming-normal by fan-out. The original's layer names (`layer1.0.add`, ...) are understood
wherever a layer is asked for, see `keras_relu.splitting`.
"""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras

from keras_relu.models.registry import register
from keras_relu.models.torch_defaults import TorchDefaults

__all__ = ["build_resnet20_wide"]


class _FanOut(TorchDefaults):
    """Kernels of convolutions Kaiming-normal by fan-out; the classifier as PyTorch's default."""

    def _kernel(self) -> keras.initializers.Initializer:
        seed = self._next_seed()
        if seed is None:
            return keras.initializers.Zeros()
        return keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal", seed=seed)


def build_resnet20_wide(
    name: str, input_shape: tuple[int, int, int], classes: int, seed: int | None, *, width: int
) -> keras.Model:
    """A ResNet-20 with `width` times the usual filters."""
    blocks = _FanOut(seed)
    inputs = keras.Input(input_shape, name="image")
    x = blocks.conv(inputs, 16 * width, 3, name="stem_conv")
    x = blocks.relu(blocks.bn(x, name="stem_bn"), name="stem_relu")
    for stage in (1, 2, 3):
        for block in (1, 2, 3):
            strides = 2 if stage > 1 and block == 1 else 1
            x = _block(blocks, x, 8 * 2**stage * width, strides, f"stage{stage}_block{block}")
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, blocks.logits(x, classes, name="classifier"), name=name)


def _block(blocks: TorchDefaults, x: tf.Tensor, filters: int, strides: int, prefix: str) -> tf.Tensor:
    y = blocks.conv(x, filters, 3, strides=strides, name=f"{prefix}_conv1")
    y = blocks.relu(blocks.bn(y, name=f"{prefix}_bn1"), name=f"{prefix}_relu1")
    y = blocks.bn(blocks.conv(y, filters, 3, name=f"{prefix}_conv2"), name=f"{prefix}_bn2")
    if strides > 1:
        x = blocks.conv(x, filters, 1, strides=strides, name=f"{prefix}_shortcut_conv")
        x = blocks.bn(x, name=f"{prefix}_shortcut_bn")
    y = keras.layers.Add(name=f"{prefix}_add")([y, x])
    return blocks.relu(y, name=f"{prefix}_relu2")


for _width in (1, 2, 3, 4, 5):
    for _name in (f"resnet20_w{_width}", f"resnet_w{_width}"):
        register(_name, family="resnet20_wide", fixed={"width": _width})(build_resnet20_wide)
