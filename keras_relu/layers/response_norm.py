"""Normalisation across neighbouring channels, of networks from before batch normalisation."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras as keras

from keras_relu.errors import UserError

__all__ = ["LocalResponseNormalization"]


@keras.saving.register_keras_serializable(package="keras_relu")
class LocalResponseNormalization(keras.layers.Layer):
    """x_c / (k + alpha / size * sum over the `size` channels around c of x^2)^beta: [B, H, W, C] -> the same shape.

    Krizhevsky et al. (2012), with alpha divided by the size as in PyTorch. No parameters.

    Args:
        size: channels in the sum, an odd number.
        alpha, beta, k: constants of the formula.
    """

    def __init__(self, size: int = 9, alpha: float = 1e-4, beta: float = 0.5, k: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if size < 1 or size % 2 == 0:
            raise UserError(f"LocalResponseNormalization needs an odd size of at least 1, received {size}.")
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.nn.local_response_normalization(
            inputs, depth_radius=self.size // 2, bias=self.k, alpha=self.alpha / self.size, beta=self.beta
        )

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "size": self.size, "alpha": self.alpha, "beta": self.beta, "k": self.k}
