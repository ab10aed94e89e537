"""Activations rounded to a few levels, as the predictors of a ReLU read them."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf
import tf_keras as keras

from keras_relu.errors import UserError

__all__ = ["FakeQuant", "rounded"]


def rounded(x: tf.Tensor, step: float, lowest: int, highest: int) -> tf.Tensor:
    """`x` rounded to the nearest of step * (lowest .. highest), halves up; gradient 1 between the outermost, else 0.

    TensorFlow's own operation for this becomes a 4-bit tensor in TFLite, which no kernel there takes.
    """

    @tf.custom_gradient
    def apply(values: tf.Tensor) -> Any:
        inside = tf.logical_and(values >= lowest * step, values <= highest * step)
        nearest = tf.clip_by_value(tf.floor(values / step + 0.5), float(lowest), float(highest)) * step
        return nearest, lambda upstream: tf.where(inside, upstream, tf.zeros_like(upstream))

    return apply(x)


@keras.saving.register_keras_serializable(package="keras_relu")
class FakeQuant(keras.layers.Layer):
    """x rounded to one of 2^bits levels, still as a float.

    The range is moved until 0 is a level: bits 4 and [-6, 6] give -6.4 to 5.6 in steps of 0.8, bits 4 and [0, 6] give
    0 to 6 in steps of 0.4. Halves are rounded up. Gradient: 1 inside the moved range, 0 outside.

    Args:
        minimum, maximum: the range; it must hold 0.
        bits: 2 to 16.
        pass_gradient: False: no gradient reaches the input.

    Raises:
        UserError: a range without 0 or a number of bits out of range.

    Source: spec `fusion`, section 4.1; the values of TensorFlow's `fake_quant_with_min_max_args`.
    """

    def __init__(
        self, minimum: float = -6.0, maximum: float = 6.0, *, bits: int = 4, pass_gradient: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if not minimum <= 0.0 <= maximum or minimum == maximum:
            raise UserError(f"FakeQuant needs a range that holds 0, received {minimum} to {maximum}.")
        if not 2 <= bits <= 16:
            raise UserError(f"FakeQuant takes 2 to 16 bits, received {bits}.")
        self.minimum, self.maximum, self.bits = float(minimum), float(maximum), bits
        self.pass_gradient = pass_gradient
        steps = 2**bits - 1
        self._step = (self.maximum - self.minimum) / steps
        zero = min(max(math.floor(0.5 - self.minimum / self._step), 0), steps)
        self._indices = -zero, steps - zero

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        inputs = inputs if self.pass_gradient else tf.stop_gradient(inputs)
        return rounded(inputs, self._step, *self._indices)

    def levels(self) -> list[float]:
        """The values it can return, ascending."""
        return [index * self._step for index in range(self._indices[0], self._indices[1] + 1)]

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        own = {"minimum": self.minimum, "maximum": self.maximum, "bits": self.bits, "pass_gradient": self.pass_gradient}
        return {**super().get_config(), **own}
