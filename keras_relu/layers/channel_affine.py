"""What is left of a normalisation at inference where no convolution can take it in."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras as keras

__all__ = ["ChannelAffine"]


@keras.saving.register_keras_serializable(package="keras_relu")
class ChannelAffine(keras.layers.Layer):
    """y = scale x + shift per channel of the last axis; both are weights [C], not trained.

    In a private-inference protocol an inference-time BatchNormalization computes an inverse square root of a secret in
    every forward pass; this is one product per element.
    """

    def build(self, input_shape: Any) -> None:
        """Creates `scale` (ones) and `shift` (zeros)."""
        channels = (int(input_shape[-1]),)
        self.scale = self.add_weight("scale", channels, initializer="ones", trainable=False)
        self.shift = self.add_weight("shift", channels, initializer="zeros", trainable=False)
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return inputs * self.scale + self.shift

    def get_config(self) -> dict[str, Any]:
        """Those of the base class; the default refuses layers without an `__init__` of their own."""
        return super().get_config()
