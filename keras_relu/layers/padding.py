"""Padding that a max-pool cannot see."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras as keras

from keras_relu.errors import UserError

__all__ = ["EdgePadding2D"]


@keras.saving.register_keras_serializable(package="keras_relu")
class EdgePadding2D(keras.layers.Layer):
    """Mirrors the border outwards (the edge row itself first): [B,H,W,C] -> [B,H+2p,W+2p,C].

    In front of a `valid` max-pool of size k >= 2p this equals padding with minus infinity, exactly: a window that
    reaches the mirrored rows also holds the originals. Zeros would be wrong once an activation before the pool may be
    negative, "same" pads the other side than PyTorch on even sizes, and a literal infinity ruins quantisation ranges.

    Args:
        padding: rows and columns added on each side.
    """

    def __init__(self, padding: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if padding < 1:
            raise UserError(f"EdgePadding2D needs padding >= 1, received {padding}.")
        self.padding = padding

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        sides = [self.padding, self.padding]
        return tf.pad(inputs, [[0, 0], sides, sides, [0, 0]], mode="SYMMETRIC")

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        batch, height, width, channels = input_shape
        return batch, _wider(height, self.padding), _wider(width, self.padding), channels

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "padding": self.padding}


def _wider(size: int | None, padding: int) -> int | None:
    return None if size is None else size + 2 * padding
