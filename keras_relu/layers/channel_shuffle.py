"""The channel shuffle of ShuffleNet (Zhang et al. 2018, arXiv 1707.01083, section 3.1)."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras as keras

from keras_relu.errors import UserError

__all__ = ["ChannelShuffle", "channel_shuffle"]


def channel_shuffle(x: tf.Tensor, groups: int) -> tf.Tensor:
    """Channels seen as (groups, C / groups), transposed and flattened again: [B, H, W, C] -> [B, H, W, C].

    Output channel j * groups + i is input channel i * C / groups + j, so every group of the next grouped convolution
    sees channels of every group of the last one.
    """
    height, width, channels = x.shape[1:]
    split = tf.reshape(x, [-1, height, width, groups, channels // groups])
    return tf.reshape(tf.transpose(split, [0, 1, 2, 4, 3]), [-1, height, width, channels])


@keras.saving.register_keras_serializable(package="keras_relu")
class ChannelShuffle(keras.layers.Layer):
    """Layer form of `channel_shuffle`; no parameters, no arithmetic.

    Args:
        groups: a divisor of the number of channels.

    Raises:
        UserError: fewer than one group.
    """

    def __init__(self, groups: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if groups < 1:
            raise UserError(f"ChannelShuffle needs at least one group, received {groups}.")
        self.groups = groups

    def build(self, input_shape: tuple) -> None:
        """Raises UserError when the channels cannot be divided into the groups."""
        if input_shape[-1] % self.groups:
            raise UserError(
                f"Layer {self.name!r} cannot divide {input_shape[-1]} channels into {self.groups} equal groups."
            )
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return channel_shuffle(inputs, self.groups)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "groups": self.groups}
