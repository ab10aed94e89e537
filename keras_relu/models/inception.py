"""GoogLeNet in the version of Lucid's Inception5h, with the layer names of the stitching work (arXiv 2110.14633).

Szegedy et al. (2015, arXiv 1409.4842). All convolutions have biases. The original creates batch normalisation behind
every convolution and uses it only under names with "bn"; here `batch_norm=True` adds it, and its parameters are counted
only then.
"""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras

from keras_relu.layers.response_norm import LocalResponseNormalization
from keras_relu.models.registry import register
from keras_relu.models.torch_defaults import TorchDefaults

__all__ = ["build_inception"]

# Name: 1x1; 3x3 bottleneck, 3x3; 5x5 bottleneck, 5x5; behind the pool.
_MIXED: dict[str, tuple[int, int, int, int, int, int]] = {
    "mixed3a": (64, 96, 128, 16, 32, 32),
    "mixed3b": (128, 128, 192, 32, 96, 64),
    "mixed4a": (192, 96, 204, 16, 48, 64),
    "mixed4b": (160, 112, 224, 24, 64, 64),
    "mixed4c": (128, 128, 256, 24, 64, 64),
    "mixed4d": (112, 144, 288, 32, 64, 64),
    "mixed4e": (256, 160, 320, 32, 128, 128),
    "mixed5a": (256, 160, 320, 48, 128, 128),
    "mixed5b": (384, 192, 384, 48, 128, 128),
}
_POOL_BEFORE = {"mixed4a": "pool3", "mixed5a": "pool4"}


class _Inception(TorchDefaults):
    def __init__(self, seed: int | None, batch_norm: bool) -> None:
        super().__init__(seed)
        self.batch_norm = batch_norm

    def unit(self, x: tf.Tensor, filters: int, kernel: int, *, strides: int = 1, name: str) -> tf.Tensor:
        """Convolution as "same" padding in TensorFlow has it, normalised where asked; no activation."""
        x = self.biased_conv(x, filters, kernel, strides=strides, padding="same", name=name)
        return self.bn(x, name=f"{name}_bn") if self.batch_norm else x

    def mixed(self, x: tf.Tensor, widths: tuple[int, int, int, int, int, int], name: str) -> tf.Tensor:
        """Four branches, concatenated before their common ReLU."""
        direct, bottleneck3, wide3, bottleneck5, wide5, pooled = widths
        branches = [self.unit(x, direct, 1, name=f"{name}_1x1")]
        for size, narrow, wide in ((3, bottleneck3, wide3), (5, bottleneck5, wide5)):
            y = self.unit(x, narrow, 1, name=f"{name}_{size}x{size}_bottleneck")
            y = self.relu(y, name=f"{name}_{size}x{size}_bottleneck_relu")
            branches.append(self.unit(y, wide, size, name=f"{name}_{size}x{size}"))
        y = keras.layers.MaxPooling2D(3, 1, "same", name=f"{name}_pool")(x)
        branches.append(self.unit(y, pooled, 1, name=f"{name}_pool_reduce"))
        x = keras.layers.Concatenate(name=f"{name}_pre_relu")(branches)
        return self.relu(x, name=name)


@register(
    "inceptionv1",
    family="inception",
    input_shape=(224, 224, 3),
    classes=40,
    options={"batch_norm": False},
)
def build_inception(
    name: str, input_shape: tuple[int, int, int], classes: int, seed: int | None, *, batch_norm: bool
) -> keras.Model:
    """GoogLeNet with a final mean over the image.

    Args:
        batch_norm: normalise behind every convolution.
    """
    blocks = _Inception(seed, batch_norm)
    inputs = keras.Input(input_shape, name="image")
    x = blocks.relu(blocks.unit(inputs, 64, 7, strides=2, name="conv2d0"), name="conv2d0_relu")
    x = keras.layers.MaxPooling2D(3, 2, "same", name="pool0")(x)
    x = LocalResponseNormalization(size=9, alpha=1e-4, beta=0.5, name="localresponsenorm0")(x)
    x = blocks.relu(blocks.unit(x, 64, 1, name="conv2d1"), name="conv2d1_relu")
    x = blocks.relu(blocks.unit(x, 192, 3, name="conv2d2"), name="conv2d2_relu")
    x = LocalResponseNormalization(size=9, alpha=1e-4, beta=0.5, name="localresponsenorm1")(x)
    x = keras.layers.MaxPooling2D(3, 2, "same", name="pool1")(x)
    for mixed, widths in _MIXED.items():
        if mixed in _POOL_BEFORE:
            x = keras.layers.MaxPooling2D(3, 2, "same", name=_POOL_BEFORE[mixed])(x)
        x = blocks.mixed(x, widths, mixed)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, blocks.logits(x, classes, name="logits"), name=name)
