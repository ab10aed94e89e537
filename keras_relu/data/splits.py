"""A split of a dataset: its labels and its `tf.data` pipelines, each a pure function of (seed, epoch, step)."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import tensorflow as tf

from keras_relu.data.augmentation import Augmentation, step_seed
from keras_relu.errors import UserError

__all__ = ["PREFETCH", "ArraySplit", "Split"]

# Batches held ready; a fixed number, because the automatic one may grow to a large part of the memory.
PREFETCH = 8


def _whole_number(what: str, value: int, low: int, high: int | None = None) -> None:
    allowed = f"a whole number of at least {low}" if high is None else f"a whole number from {low} to {high}"
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < low or (high or value) < value:
        raise UserError(f"{what} is {value!r}; allowed is {allowed}.")


@dataclass(frozen=True, eq=False, kw_only=True)
class Split(abc.ABC):
    """One part of a dataset. Order and augmentation depend on the arguments of `epoch` only, never on hidden state.

    Args:
        labels: int32 `[N]`.
        name: "train", "validation" or "test", for messages.
        augmentation: what `epoch(augment=True)` does to a batch.
        parallel_calls: threads of the pipeline; changes its speed, never its content or order.
    """

    labels: np.ndarray
    name: str = "train"
    augmentation: Augmentation = field(default_factory=Augmentation)
    parallel_calls: int = tf.data.AUTOTUNE

    @property
    def size(self) -> int:
        """Number of images."""
        return len(self.labels)

    def steps_per_epoch(self, batch_size: int) -> int:
        """Number of full batches in one pass.

        Raises:
            UserError: the batch size is not positive, or larger than the split.
        """
        _whole_number("batch_size", batch_size, 1)
        if batch_size > self.size:
            raise UserError(
                f"The {self.name} split has {self.size} image(s), fewer than one batch of {batch_size}; "
                f"allowed is a batch_size from 1 to {self.size}."
            )
        return self.size // batch_size

    def epoch(
        self, batch_size: int, *, seed: int, epoch: int, start_step: int = 0, augment: bool = False
    ) -> tf.data.Dataset:
        """The shuffled full batches of one epoch from `start_step` on; the last partial batch is dropped.

        Elements are (uint8 `[B, H, W, C]`, int32 `[B]`). Each batch is a function of seed, epoch and its step, so a
        pass that starts at step s yields exactly what an uninterrupted pass yields from step s on.

        Raises:
            UserError: the split is smaller than a batch, or an argument is out of range.
        """
        steps = self.steps_per_epoch(batch_size)
        _whole_number("seed", seed, 0)
        _whole_number("epoch", epoch, 0)
        _whole_number("start_step", start_step, 0, steps)
        order = np.random.default_rng((seed, epoch)).permutation(self.size)[: steps * batch_size]
        with tf.device("/CPU:0"):
            key = tf.constant(np.random.SeedSequence((seed, epoch, 1)).generate_state(2), tf.int64)
        rows = order.reshape(steps, batch_size)[start_step:]
        return self._shuffled(rows, np.arange(start_step, steps), key, augment)

    def batches(self, batch_size: int) -> tf.data.Dataset:
        """All images once, in order, without augmentation; the last batch may be smaller. Elements as in `epoch`.

        Raises:
            UserError: the split is empty or the batch size not positive.
        """
        _whole_number("batch_size", batch_size, 1)
        if not self.size:
            raise UserError(f"The {self.name} split is empty; received 0 images, at least 1 is needed.")
        return self._ordered(batch_size)

    @abc.abstractmethod
    def subset(self, indices: np.ndarray, *, name: str) -> Split:
        """The images at `indices` as a split of its own."""

    @abc.abstractmethod
    def _shuffled(self, rows: np.ndarray, steps: np.ndarray, key: tf.Tensor, augment: bool) -> tf.data.Dataset:
        """Batches of the images at `rows[i]`, augmented with the seed of step `steps[i]`."""

    @abc.abstractmethod
    def _ordered(self, batch_size: int) -> tf.data.Dataset:
        """What `batches` returns, after its checks."""

    def _augmented(self, images: tf.Tensor, key: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        return self.augmentation(images, step_seed(key, step))


@dataclass(frozen=True, eq=False, kw_only=True)
class ArraySplit(Split):
    """Images held in memory as one uint8 array `[N, H, W, C]`.

    Raises:
        UserError: the images are not uint8 `[N, H, W, C]`, or there is not one label per image.
    """

    images: np.ndarray

    def __post_init__(self) -> None:
        shape, dtype = np.shape(self.images), np.asarray(self.images).dtype
        if len(shape) != 4 or dtype != np.uint8:
            raise UserError(f"The {self.name} images are {dtype} {list(shape)}; allowed is uint8 [N, H, W, C].")
        if np.shape(self.labels) != shape[:1]:
            raise UserError(
                f"The {self.name} labels have the shape {list(np.shape(self.labels))}; allowed is [{shape[0]}]."
            )
        object.__setattr__(self, "labels", np.asarray(self.labels, np.int32))

    def subset(self, indices: np.ndarray, *, name: str) -> ArraySplit:
        return replace(self, images=self.images[indices], labels=self.labels[indices], name=name)

    @cached_property
    def _tensors(self) -> tuple[tf.Tensor, tf.Tensor]:
        # init_scope: a dataset may be asked for while a graph is being built; the copy must outlive that graph.
        with tf.init_scope(), tf.device("/CPU:0"):
            return tf.constant(self.images), tf.constant(self.labels)

    def _shuffled(self, rows: np.ndarray, steps: np.ndarray, key: tf.Tensor, augment: bool) -> tf.data.Dataset:
        images, labels = self._tensors

        def read(row: tf.Tensor, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            batch = tf.gather(images, row)
            return self._augmented(batch, key, step) if augment else batch, tf.gather(labels, row)

        return self._mapped(tf.data.Dataset.from_tensor_slices((rows, steps)), read)

    def _ordered(self, batch_size: int) -> tf.data.Dataset:
        images, labels = self._tensors

        def read(start: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return images[start : start + batch_size], labels[start : start + batch_size]

        return self._mapped(tf.data.Dataset.range(0, self.size, batch_size), read)

    def _mapped(self, dataset: tf.data.Dataset, read: Callable[..., tuple[tf.Tensor, tf.Tensor]]) -> tf.data.Dataset:
        return dataset.map(read, self.parallel_calls, deterministic=True).prefetch(PREFETCH)
