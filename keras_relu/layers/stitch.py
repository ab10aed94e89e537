"""The affine layer that joins the front of one network to the back of another."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from keras_relu.errors import UserError

__all__ = ["Stitch", "stitch_map"]


def stitch_map(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """x [..., in] with kernel [in, out] and bias [out] to [..., out]: on maps [B, H, W, in] a 1x1 convolution."""
    if x.shape.rank == 4:
        return tf.nn.conv2d(x, kernel[tf.newaxis, tf.newaxis], 1, "VALID") + bias
    return tf.linalg.matmul(x, kernel) + bias


@keras.saving.register_keras_serializable(package="keras_relu")
class Stitch(keras.layers.Layer):
    """The same affine map at every pixel, y = W x + b: [B, H, W, in] -> [B, H, W, units], or [B, in] -> [B, units].

    Csiszarik et al. (2021, arXiv 2110.14633). W is `kernel` transposed, [units, in], times the mask where there is one; with
    a rank it is (first second)^T and never above that rank. Weights and bias start uniform in +-1/sqrt(in), low-rank
    factors orthogonal with zero bias.

    Args:
        units: channels of the output.
        rank: bound of the rank of W, or None.
        masked: whether a fixed 0/1 mask of W, all ones at first, decides which entries exist; b is free.
        seed: of the start values.

    Raises:
        UserError: units below 1, a rank below 1 or above the number of channels, a mask on low-rank factors.
    """

    def __init__(
        self, units: int, *, rank: int | None = None, masked: bool = False, seed: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if units < 1:
            raise UserError(f"Stitch needs units of at least 1, received {units}.")
        if rank is not None and masked:
            raise UserError(
                "Stitch takes a rank or a mask, not both: the product of two factors has no entries to mask."
            )
        self.units, self.rank, self.masked, self.seed = units, rank, masked, seed

    def build(self, input_shape: tuple) -> None:
        channels = int(input_shape[-1])
        if self.rank is not None and not 1 <= self.rank <= min(channels, self.units):
            raise UserError(f"Stitch received rank {self.rank}; allowed is 1 to {min(channels, self.units)}.")
        bound = 1.0 / np.sqrt(channels)
        starts = [keras.initializers.RandomUniform(-bound, bound, seed=2 * self.seed + i) for i in (0, 1)]
        self.mask = None
        if self.rank is None:
            self.kernel = self.add_weight("kernel", (channels, self.units), initializer=starts[0])
            self.bias = self.add_weight("bias", (self.units,), initializer=starts[1])
            if self.masked:
                self.mask = self.add_weight("mask", (channels, self.units), initializer="ones", trainable=False)
        else:
            factors = [keras.initializers.Orthogonal(seed=2 * self.seed + i) for i in (0, 1)]
            self.first = self.add_weight("first", (channels, self.rank), initializer=factors[0])
            self.second = self.add_weight("second", (self.rank, self.units), initializer=factors[1])
            self.bias = self.add_weight("bias", (self.units,), initializer="zeros")
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return stitch_map(inputs, tf.cast(self.effective_kernel(), inputs.dtype), tf.cast(self.bias, inputs.dtype))

    def effective_kernel(self) -> tf.Tensor:
        """[in, units], mask and factors multiplied out."""
        if self.rank is not None:
            return tf.linalg.matmul(self.first, self.second)
        return self.kernel if self.mask is None else self.kernel * self.mask

    def matrix(self) -> np.ndarray:
        """W as it acts, [units, in]."""
        return self.effective_kernel().numpy().T.copy()

    def assign(self, weight: np.ndarray, bias: np.ndarray, mask: np.ndarray | None = None) -> None:
        """Set W [units, in], b [units] and, on a masked layer, the mask [units, in].

        With a rank, W is replaced by its best approximation of that rank.

        Raises:
            UserError: a mask for a layer without one.
        """
        if mask is not None:
            if self.mask is None:
                raise UserError(f"Layer {self.name!r} has no mask; make it with masked=True.")
            self.mask.assign(mask.T)
        self.bias.assign(bias)
        if self.rank is None:
            self.kernel.assign(weight.T)
            return
        left, values, right = np.linalg.svd(weight.T, full_matrices=False)
        root = np.sqrt(values[: self.rank])
        self.first.assign(left[:, : self.rank] * root)
        self.second.assign(root[:, None] * right[: self.rank])

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return (*input_shape[:-1], self.units)

    def get_config(self) -> dict[str, Any]:
        own = {"units": self.units, "rank": self.rank, "masked": self.masked, "seed": self.seed}
        return {**super().get_config(), **own}
