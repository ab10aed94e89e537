"""Leaves out the one batch in thousands that would undo a training of polynomials."""

from __future__ import annotations

from collections.abc import Iterable

import tensorflow as tf

from keras_relu.training.losses import replica_count
from keras_relu.training.optimizers import reduce_gradients

__all__ = ["SpikeGuard"]


class SpikeGuard:
    """Decides whether a step may change the network, and undoes what its forward pass has changed already.

    Quadratics that follow each other multiply what exceeds the range they were fitted to: a single odd image can turn a
    loss of 2 into 1e5, and the update that follows, the running statistics of batch normalisation included, into a
    network that has to be learnt again. A step is left out when its loss is `factor` times the running mean of the losses
    before it, or not finite. After `patience` such steps in a row it is no spike but where the training has gone, and
    steps count again: a loss that stays NaN then stops the run as everywhere else.

    Args:
        statistics: variables that a forward pass in training changes (moving means and variances).
        factor: largest loss admitted, in units of the running mean.
        decay: of the running mean.
        patience: most steps in a row that are left out.
    """

    def __init__(
        self, statistics: Iterable[tf.Variable], *, factor: float = 10.0, decay: float = 0.98, patience: int = 5
    ) -> None:
        self.statistics = list(statistics)
        self.factor, self.decay, self.patience = factor, decay, patience
        same = {"trainable": False, "aggregation": tf.VariableAggregation.ONLY_FIRST_REPLICA}
        self.level = tf.Variable(0.0, dtype=tf.float32, name="loss_level", **same)
        self.in_a_row = tf.Variable(0, dtype=tf.int32, name="skipped_in_a_row", **same)

    @property
    def variables(self) -> list[tf.Variable]:
        """What a checkpoint needs."""
        return [self.level, self.in_a_row]

    def read(self) -> list[tf.Tensor]:
        """The statistics as they are; call it before the forward pass."""
        return [tf.identity(variable) for variable in self.statistics]

    def admits(self, loss: tf.Tensor) -> tf.Tensor:
        """Whether the step with this replica's mean `loss` counts (bool scalar, the same on every replica)."""
        loss = tf.cast(reduce_gradients([loss])[0], tf.float32) / float(replica_count())
        level, in_a_row = tf.identity(self.level), tf.identity(self.in_a_row)
        # The first step has nothing to be measured by.
        calm = tf.math.is_finite(loss) & ((level <= 0.0) | (loss <= self.factor * level))
        admitted = calm | (in_a_row >= self.patience)
        moved = tf.where(level > 0.0, self.decay * level + (1.0 - self.decay) * loss, loss)
        # A step that is admitted for want of patience starts the mean anew.
        self.level.assign(tf.where(calm, moved, tf.where(admitted, loss, level)))
        self.in_a_row.assign(tf.where(admitted, 0, in_a_row + 1))
        return admitted

    def restore(self, before: list[tf.Tensor], *, unless: tf.Tensor) -> None:
        """Put the statistics of `before` back, where `unless` is false."""
        for variable, value in zip(self.statistics, before, strict=True):
            variable.assign(tf.where(unless, tf.identity(variable), value))

    def logged(self, loss: tf.Tensor, admitted: tf.Tensor) -> dict[str, tf.Tensor]:
        """`loss` for the metrics, with the running mean in place of one left out, and `skipped`, 1 for such a step."""
        return {"loss": tf.where(admitted, loss, self.level), "skipped": 1.0 - tf.cast(admitted, tf.float32)}
