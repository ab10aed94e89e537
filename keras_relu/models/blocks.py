"""The pieces all families share: convolution, normalisation and activation with the conventions of PyTorch."""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras

from keras_relu.layers.padding import EdgePadding2D

__all__ = ["Blocks"]

# PyTorch's defaults; its momentum 0.1 is the complement of Keras' 0.9.
_BATCH_NORM = {"epsilon": 1e-5, "momentum": 0.9}


class Blocks:
    """Makes the layers of one network and hands each kernel its own seed.

    Kernels start Kaiming-normal (fan-in, gain sqrt 2; He et al. 2015, arXiv 1502.01852), biases at zero.

    Args:
        seed: seed of the whole network; None starts all kernels at zero, for counting without drawing millions of
            numbers.
    """

    def __init__(self, seed: int | None) -> None:
        self._seed = seed
        self._drawn = 0

    def _kernel(self) -> keras.initializers.Initializer:
        if self._seed is None:
            return keras.initializers.Zeros()
        self._drawn += 1
        # Two kernels of one shape and one seed would be equal; 1009 exceeds the kernels of the deepest network.
        seed = (self._seed * 1009 + self._drawn) % 2**31
        return keras.initializers.VarianceScaling(2.0, "fan_in", "untruncated_normal", seed=seed)

    def conv(self, x: tf.Tensor, filters: int, kernel: int, *, strides: int = 1, name: str) -> tf.Tensor:
        """Bias-free convolution padded by kernel//2 on both sides.

        A strided one is padded by a layer of its own (`<name>_pad`): "same" pads even sizes at the bottom and right
        only, where PyTorch's symmetric padding in effect uses the top and left.
        """
        padding = "same"
        if strides > 1 and kernel > 1:
            x = keras.layers.ZeroPadding2D(kernel // 2, name=f"{name}_pad")(x)
            padding = "valid"
        layer = keras.layers.Conv2D(
            filters, kernel, strides, padding, use_bias=False, kernel_initializer=self._kernel(), name=name
        )
        return layer(x)

    def bn(self, x: tf.Tensor, *, name: str) -> tf.Tensor:
        """Batch normalisation with PyTorch's constants."""
        return keras.layers.BatchNormalization(**_BATCH_NORM, name=name)(x)

    def relu(self, x: tf.Tensor, *, name: str) -> tf.Tensor:
        """One activation site."""
        return keras.layers.ReLU(name=name)(x)

    def max_pool(self, x: tf.Tensor, *, name: str) -> tf.Tensor:
        """3x3 max-pool, stride 2, padding 1 of minus infinity."""
        x = EdgePadding2D(1, name=f"{name}_pad")(x)
        return keras.layers.MaxPooling2D(3, 2, "valid", name=name)(x)

    def head(self, x: tf.Tensor, classes: int) -> tf.Tensor:
        """Mean over the image, then logits in float32 whatever the precision of the network."""
        x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
        dense = keras.layers.Dense(classes, kernel_initializer=self._kernel(), name="classifier", dtype="float32")
        return dense(x)
