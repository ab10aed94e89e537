"""The parameter-free shortcut of CIFAR ResNets."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras as keras

from keras_relu.errors import UserError

__all__ = ["ZeroPadShortcut", "zero_pad_shortcut"]


def zero_pad_shortcut(x: tf.Tensor, filters: int, strides: int) -> tf.Tensor:
    """Every `strides`-th row and column from 0, with zero channels before and after: [B,H,W,C] -> [B,H/s,W/s,filters].

    Option A of He et al. (2015, arXiv 1512.03385) section 4.2. Where the width doubles this is filters/4 zero channels
    on each side; an odd difference puts the extra channel last.
    """
    missing = filters - x.shape[-1]
    before = missing // 2
    return tf.pad(x[:, ::strides, ::strides, :], [[0, 0], [0, 0], [0, 0], [before, missing - before]])


@keras.saving.register_keras_serializable(package="keras_relu")
class ZeroPadShortcut(keras.layers.Layer):
    """Layer form of `zero_pad_shortcut`; no parameters, no multiplications.

    Args:
        filters: channels of the output, at least those of the input.
        strides: spatial step, the same for rows and columns.
    """

    def __init__(self, filters: int, strides: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if filters < 1 or strides < 1:
            raise UserError(f"ZeroPadShortcut needs filters >= 1 and strides >= 1, received {filters} and {strides}.")
        self.filters = filters
        self.strides = strides

    def build(self, input_shape: tuple) -> None:
        """Raises UserError when the input has more channels than the output."""
        if input_shape[-1] > self.filters:
            raise UserError(
                f"Layer {self.name!r} cannot shorten {input_shape[-1]} channels to {self.filters}: "
                "a zero-padding shortcut only widens. Use shortcut='B'."
            )
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return zero_pad_shortcut(inputs, self.filters, self.strides)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        batch, height, width, _ = input_shape
        return batch, _steps(height, self.strides), _steps(width, self.strides), self.filters

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "filters": self.filters, "strides": self.strides}


def _steps(size: int | None, strides: int) -> int | None:
    return None if size is None else -(-size // strides)
