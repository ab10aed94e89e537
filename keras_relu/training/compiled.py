"""The compiled part of the training loop: one update over all replicas, and sums that stay on the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import tensorflow as tf

from keras_relu.errors import UserError
from keras_relu.training.strategy import is_distributed

__all__ = ["MAX_METRICS", "CompiledStep", "TrainStep"]

# The running sums are one vector of fixed length, so that the step compiles once and needs no variable of its own.
MAX_METRICS = 32


class TrainStep(Protocol):
    """What `fit` trains."""

    def __call__(self, images: tf.Tensor, labels: tf.Tensor, step_index: tf.Tensor, /) -> dict[str, tf.Tensor]:
        """One update, graph-safe without AutoGraph (`tf.cond` instead of `if` on tensors).

        Args:
            images: uint8 [B, H, W, C]; B is this replica's part of the batch.
            labels: int32 [B].
            step_index: int32 scalar, counted from 0 over the whole phase.

        Returns:
            Scalars to log, `loss` among them, as means over this replica's examples; `fit` averages them over replicas.
        """

    def variables(self) -> dict[str, list[tf.Variable]]:
        """Everything that must be in a checkpoint, by group."""


class CompiledStep:
    """A `TrainStep` as one `tf.function`, through `strategy.run` where there is a distribution strategy.

    Attributes:
        keys: names of the step's metrics; known after the first call.
        replicas: how many replicas share a batch.
        many_workers: whether other processes take part.
    """

    def __init__(self, step: TrainStep, strategy: tf.distribute.Strategy | None) -> None:
        self.step = step
        self.strategy = strategy if is_distributed(strategy) else None
        self.replicas = 1 if self.strategy is None else self.strategy.num_replicas_in_sync
        self.many_workers = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
        self.keys: list[str] = []
        # Without AutoGraph errors of the step reach the user as they are, and tracing is faster.
        self._function = tf.function(self._advance, autograph=False)

    def __call__(
        self, batch: tuple[Any, Any], index: int, sums: tf.Tensor, bad_step: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """One update with step number `index`.

        Args:
            sums: float64 [1 + MAX_METRICS]: number of steps, then the sums of the metrics over them.
            bad_step: int32: first step whose loss was not finite, -1 when there was none.

        Returns:
            The new sums and bad step; nothing waits for the device.
        """
        return self._function(*batch, tf.constant(index, tf.int32), sums, bad_step)

    def _advance(
        self, images: Any, labels: Any, index: tf.Tensor, sums: tf.Tensor, bad_step: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        if self.strategy is None:
            logs = self.step(images, labels, index)
        else:
            logs = self.strategy.run(self.step, args=(images, labels, index))
            logs = {k: self.strategy.reduce(tf.distribute.ReduceOp.MEAN, v, axis=None) for k, v in logs.items()}
        self.keys = _metric_keys(logs)
        values = tf.stack([tf.ones([], tf.float64)] + [tf.cast(logs[key], tf.float64) for key in self.keys])
        newly_bad = tf.logical_and(bad_step < 0, tf.logical_not(tf.math.is_finite(logs["loss"])))
        padded = tf.pad(values, [[0, MAX_METRICS - len(self.keys)]])
        return sums + padded, tf.where(newly_bad, index, bad_step)

    def feed(self, batches: tf.data.Dataset) -> Any:
        """The batches as the strategy takes them: every replica gets its share of each."""
        if self.strategy is None:
            return batches
        options = tf.data.Options()
        # Every worker reads the same batches and takes its share of each, so the global batch is that of one device.
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
        return self.strategy.experimental_distribute_dataset(batches.with_options(options))

    def any_worker(self, vote: bool) -> bool:
        """Whether any worker votes yes; every worker waits here for the others."""
        if self.strategy is None:
            return vote
        votes = self.strategy.run(lambda vote: vote, args=(tf.constant(int(vote)),))
        return bool(self.strategy.reduce(tf.distribute.ReduceOp.SUM, votes, axis=None) > 0)


def _metric_keys(logs: Mapping[str, Any]) -> list[str]:
    if "loss" not in logs or len(logs) > MAX_METRICS:
        raise UserError(
            f"A training step must return 'loss' and at most {MAX_METRICS} numbers, received {sorted(logs)}."
        )
    return list(logs)
