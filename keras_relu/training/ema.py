"""Exponential moving average of weights, for evaluation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import tensorflow as tf

from keras_relu.errors import UserError
from keras_relu.training.optimizers import for_each_replica

__all__ = ["ExponentialMovingAverage"]


class ExponentialMovingAverage:
    """shadow <- shadow + (1 - d) (w - shadow), d = min(decay, (1 + n) / (10 + n)) at the n-th update (n from 0).

    The smaller d of the first updates keeps the initial weights out of the average (TensorFlow's `num_updates` rule).

    Args:
        variables: what to average; give `model.weights`, so that batch norm statistics fit the averaged weights.
        decay: in (0, 1).

    Raises:
        UserError: decay is outside (0, 1).
    """

    def __init__(self, variables: Sequence[tf.Variable], decay: float = 0.999) -> None:
        if not 0 < decay < 1:
            raise UserError(f"The decay of the moving average must be in (0, 1), received {decay}.")
        self.decay = decay
        self.averaged = [v for v in variables if v.dtype.is_floating]
        self._updates = tf.Variable(0, dtype=tf.int64, trainable=False, name="ema_updates")
        self._shadows = [
            tf.Variable(v.read_value(), trainable=False, name=f"ema_{i}", aggregation=tf.VariableAggregation.MEAN)
            for i, v in enumerate(self.averaged)
        ]

    @property
    def variables(self) -> list[tf.Variable]:
        """Everything a checkpoint needs."""
        return [self._updates, *self._shadows]

    def update(self, *, when: tf.Tensor | None = None) -> None:
        """Take the current weights into the average; graph-safe, to be called after the optimizer."""
        done = tf.cast(self._updates.read_value(), tf.float32)
        rate = 1.0 - tf.minimum(self.decay, (1.0 + done) / (10.0 + done))

        def blend(shadow: tf.Variable, weight: tf.Tensor, rate: tf.Tensor) -> None:
            shadow.assign_add(tf.cast(rate, shadow.dtype) * (tf.cast(weight, shadow.dtype) - shadow))

        pairs = [(s, (w, rate)) for s, w in zip(self._shadows, self.averaged, strict=True)]
        for_each_replica(blend, pairs, when=when)
        for_each_replica(lambda count: count.assign_add(1), [(self._updates, ())], when=when)

    @contextlib.contextmanager
    def swapped(self) -> Iterator[None]:
        """The averaged values in place of the weights; the weights come back on leaving, whatever happened."""
        kept = [tf.identity(v) for v in self.averaged]
        try:
            self.copy_to_weights()
            yield
        finally:
            for variable, value in zip(self.averaged, kept, strict=True):
                variable.assign(value)

    def copy_to_weights(self) -> None:
        """Overwrite the weights by their averages, for the end of a training."""
        for variable, shadow in zip(self.averaged, self._shadows, strict=True):
            variable.assign(shadow.read_value())
