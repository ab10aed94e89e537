"""Layers that start as PyTorch's do by default, for families whose originals never chose an initialisation."""

from __future__ import annotations

import math

import tensorflow as tf
import tf_keras as keras

from keras_relu.models.blocks import Blocks

__all__ = ["TorchDefaults"]


class TorchDefaults(Blocks):
    """`Blocks` whose convolutions and dense layers have biases.

    Weights and biases start uniform in +-1/sqrt(fan_in): Kaiming-uniform with a = sqrt 5, PyTorch's default. Convolutions
    are not padded unless asked.

    Args:
        seed: seed of the whole network; None starts all weights at zero.
    """

    def biased_conv(
        self, x: tf.Tensor, filters: int, kernel: int, *, strides: int = 1, padding: str = "valid", name: str
    ) -> tf.Tensor:
        """Convolution with bias."""
        weights = self._weights(kernel * kernel * x.shape[-1])
        return keras.layers.Conv2D(filters, kernel, strides, padding, **weights, name=name)(x)

    def dense(self, x: tf.Tensor, units: int, *, name: str) -> tf.Tensor:
        """Dense layer on [B, F]."""
        return keras.layers.Dense(units, **self._weights(x.shape[-1]), name=name)(x)

    def logits(self, x: tf.Tensor, classes: int, *, name: str) -> tf.Tensor:
        """Dense layer that gives float32 whatever the precision of the network."""
        return keras.layers.Dense(classes, **self._weights(x.shape[-1]), name=name, dtype="float32")(x)

    def flat(self, x: tf.Tensor) -> tf.Tensor:
        """[B, H, W, C] -> [B, C * H * W], channels first as PyTorch flattens, so that its dense weights fit."""
        return keras.layers.Flatten(name="flatten")(keras.layers.Permute((3, 1, 2), name="channels_first")(x))

    def _weights(self, fan_in: int) -> dict[str, keras.initializers.Initializer]:
        return {"kernel_initializer": self._uniform(fan_in), "bias_initializer": self._uniform(fan_in)}

    def _uniform(self, fan_in: int) -> keras.initializers.Initializer:
        seed = self._next_seed()
        if seed is None:
            return keras.initializers.Zeros()
        bound = 1.0 / math.sqrt(fan_in)
        return keras.initializers.RandomUniform(-bound, bound, seed=seed)

    def _next_seed(self) -> int | None:
        if self._seed is None:
            return None
        self._drawn += 1
        return (self._seed * 1009 + self._drawn) % 2**31
