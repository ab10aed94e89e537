"""Mixed precision: the Keras policy by name, and the loss scale that float16 gradients need.

Set the policy before the model is built. bfloat16 has the exponent range of float32 and needs no loss scale.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf
import tf_keras as keras

from keras_relu.errors import unknown_key
from keras_relu.training.optimizers import for_each_replica

__all__ = ["PRECISIONS", "LossScale", "all_finite", "set_precision"]

PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


def set_precision(name: str) -> LossScale | None:
    """Make `name` ("float32", "bfloat16", "float16") the policy of layers built from now on.

    Returns:
        The loss scale that float16 training needs, None for the others.

    Raises:
        UserError: unknown name.
    """
    if name not in PRECISIONS:
        raise unknown_key("precision", name, PRECISIONS)
    keras.mixed_precision.set_global_policy(PRECISIONS[name])
    return LossScale() if name == "float16" else None


def all_finite(gradients: Sequence[tf.Tensor | None]) -> tf.Tensor:
    """Whether every element of every gradient is finite, bool scalar."""
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(g)) for g in gradients if g is not None])


class LossScale:
    """Dynamic loss scale (Micikevicius et al., 2018).

    It is halved, and the update skipped, when a gradient overflows; it is doubled after `growth_steps` good steps.

    Args:
        initial: first scale, a power of two.
    """

    def __init__(self, initial: float = 2.0**15, *, growth_steps: int = 2000) -> None:
        self.growth_steps = growth_steps
        self._scale = tf.Variable(initial, dtype=tf.float32, trainable=False, name="loss_scale")
        self._good_steps = tf.Variable(0, dtype=tf.int64, trainable=False, name="loss_scale_good_steps")

    @property
    def variables(self) -> list[tf.Variable]:
        """Everything a checkpoint needs."""
        return [self._scale, self._good_steps]

    @property
    def value(self) -> tf.Tensor:
        """The current scale, float32 scalar."""
        return self._scale.read_value()

    def update(self, finite: tf.Tensor) -> None:
        """Adapt the scale after a step whose gradients were all finite, or not (bool scalar)."""
        grown = self._good_steps.read_value() + 1 >= self.growth_steps
        good = tf.where(grown, 2.0 * self.value, self.value)
        scale = tf.where(finite, good, tf.maximum(1.0, 0.5 * self.value))
        count = tf.where(tf.logical_and(finite, tf.logical_not(grown)), self._good_steps.read_value() + 1, 0)
        pairs = [(self._scale, (scale,)), (self._good_steps, (count,))]
        for_each_replica(lambda variable, value: variable.assign(value), pairs)
