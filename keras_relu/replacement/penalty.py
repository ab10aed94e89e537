"""The weight of the ReLU penalty, steered so that the kept count follows a falling curve."""

from __future__ import annotations

import tensorflow as tf

__all__ = ["PenaltyControl"]

_RANGE = (1e-3, 1e3)


class PenaltyControl:
    """Where more ReLUs are kept than the curve allows, every score gets the penalty gradient

        weight * rms(data gradient) * softplus(score)

    and the weight grows by `growth`; elsewhere it shrinks by the same factor and there is no penalty. Measured in units of
    the data gradient, the weight needs no tuning to the network or the budget (the original's lambda had to be set anew
    for each, 7 to 240 in its scripts).

    Args:
        weight: to start with.
        growth: factor of each adaptation; 1 = a constant weight.
    """

    def __init__(self, weight: float, growth: float) -> None:
        self.growth = growth
        self.weight = tf.Variable(weight, trainable=False, dtype=tf.float32, name="penalty_weight")
        self.active = tf.Variable(0.0, trainable=False, dtype=tf.float32, name="penalty_active")

    @property
    def variables(self) -> list[tf.Variable]:
        """What a checkpoint needs."""
        return [self.weight, self.active]

    def follow(self, kept: int, wanted: int) -> None:
        """Switch the penalty by the count `kept` against `wanted`, and adapt its weight."""
        over = kept > wanted
        self.active.assign(float(over))
        factor = self.growth if over else 1.0 / self.growth
        self.weight.assign(tf.clip_by_value(self.weight * factor, *_RANGE))

    def gradient(self, scores: list[tf.Variable], data: list[tf.Tensor]) -> list[tf.Tensor]:
        """`data` gradients plus the penalty's."""
        count = sum(gradient.shape.num_elements() for gradient in data)
        rms = tf.sqrt(tf.add_n([tf.reduce_sum(tf.square(gradient)) for gradient in data]) / float(count))
        scale = self.active * self.weight * rms
        return [gradient + scale * tf.math.softplus(score) for gradient, score in zip(data, scores, strict=True)]
