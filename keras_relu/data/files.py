"""Splits whose images stay encoded on disk and are decoded in the pipeline, with bounded memory."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import tensorflow as tf

from keras_relu.data.augmentation import step_seed
from keras_relu.data.decoding import Decoder
from keras_relu.data.splits import PREFETCH, ArraySplit, Split
from keras_relu.errors import UserError

__all__ = ["EncodedSplit", "FileSplit", "RecordSplit"]

_IMAGE_STREAM = -1
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PN")


@dataclass(frozen=True, eq=False, kw_only=True)
class EncodedSplit(Split):
    """Images decoded on the way: same interface, order and augmentation as `ArraySplit`.

    When the decoded images have a fixed content and fit into `cache_bytes`, they are decoded once, on first use, and
    kept in memory.

    Args:
        decoder: encoded bytes to uint8 `[H, W, C]`.
        cache_bytes: decoded splits up to this size are kept in memory; 0 never caches.
    """

    decoder: Decoder
    cache_bytes: int = 2 * 2**30

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", np.asarray(self.labels, np.int32))

    @abc.abstractmethod
    def _encoded(self, index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The encoded image number `index` and the name of its file, both scalar strings."""

    @cached_property
    def _memory(self) -> ArraySplit | None:
        """All images decoded, or None when they are random or do not fit."""
        if self.decoder.random or self.size * int(np.prod(self.decoder.image_shape)) > self.cache_bytes:
            return None
        images = np.empty((self.size, *self.decoder.image_shape), np.uint8)
        try:
            for start, (batch, _) in zip(range(0, self.size, 256), self._decoded_in_order(256), strict=True):
                images[start : start + 256] = batch
        except tf.errors.InvalidArgumentError as error:
            raise UserError(f"An image of the {self.name} split cannot be decoded: {error.message}") from error
        return ArraySplit(
            images=images,
            labels=self.labels,
            name=self.name,
            augmentation=self.augmentation,
            parallel_calls=self.parallel_calls,
        )

    def _shuffled(self, rows: np.ndarray, steps: np.ndarray, key: tf.Tensor, augment: bool) -> tf.data.Dataset:
        if self._memory:
            return self._memory._shuffled(rows, steps, key, augment)
        batch_size = rows.shape[1]
        # The seed of an image depends on its place in the epoch, so a later start draws the same crops.
        places = np.arange(rows.size) + (steps[0] * batch_size if len(steps) else 0)
        read = self._reader(augment, step_seed(key, _IMAGE_STREAM))
        images = tf.data.Dataset.from_tensor_slices((rows.ravel(), places)).map(
            read, self.parallel_calls, deterministic=True
        )
        batches = images.batch(batch_size, drop_remainder=True)
        if augment:
            numbered = tf.data.Dataset.zip((tf.data.Dataset.from_tensor_slices(steps), batches))
            batches = numbered.map(lambda step, batch: (self._augmented(batch[0], key, step), batch[1]))
        return batches.prefetch(PREFETCH)

    def _ordered(self, batch_size: int) -> tf.data.Dataset:
        if self._memory:
            return self._memory._ordered(batch_size)
        return self._decoded_in_order(batch_size)

    def _decoded_in_order(self, batch_size: int) -> tf.data.Dataset:
        read = self._reader(False, tf.zeros([2], tf.int64))
        images = tf.data.Dataset.range(self.size).map(
            lambda index: read(index, index), self.parallel_calls, deterministic=True
        )
        return images.batch(batch_size).prefetch(PREFETCH)

    def _reader(self, augment: bool, key: tf.Tensor) -> Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
        with tf.init_scope(), tf.device("/CPU:0"):
            labels = tf.constant(self.labels)

        def read(index: tf.Tensor, place: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            data, file = self._encoded(index)
            known = tf.reduce_any(tf.strings.substr(data, 0, 3) == _SIGNATURES)
            with tf.control_dependencies([tf.Assert(known, ["not a JPEG or PNG image:", file])]):
                image = self.decoder(tf.identity(data), augment=augment, seed=step_seed(key, place))
            return image, labels[index]

        return read


@dataclass(frozen=True, eq=False, kw_only=True)
class FileSplit(EncodedSplit):
    """One file per image.

    Args:
        paths: strings `[N]`.
    """

    paths: np.ndarray

    def subset(self, indices: np.ndarray, *, name: str) -> FileSplit:
        return replace(self, paths=self.paths[indices], labels=self.labels[indices], name=name)

    @cached_property
    def _path_tensor(self) -> tf.Tensor:
        with tf.init_scope():
            return tf.constant(self.paths)

    def _encoded(self, index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        path = self._path_tensor[index]
        return tf.io.read_file(path), path


@dataclass(frozen=True, eq=False, kw_only=True)
class RecordSplit(EncodedSplit):
    """Images inside TFRecord files of `tf.train.Example`, read at random by their byte offset.

    Args:
        files: paths of the TFRecord files, strings `[F]`.
        places: int64 `[N, 2]`: for every image its file's number and its byte offset there.
        key: the feature that holds the encoded image.
    """

    files: np.ndarray
    places: np.ndarray
    key: str = "image"

    def subset(self, indices: np.ndarray, *, name: str) -> RecordSplit:
        return replace(self, places=self.places[indices], labels=self.labels[indices], name=name)

    @cached_property
    def _tensors(self) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.init_scope(), tf.device("/CPU:0"):
            return tf.constant(self.files), tf.constant(self.places)

    def _encoded(self, index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        files, places = self._tensors
        number, offset = tf.unstack(places[index])
        variant = tf.raw_ops.TFRecordDatasetV2(
            filenames=files[number][None], compression_type="", buffer_size=2**18, byte_offsets=offset[None]
        )
        records = tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string))
        example = records.take(1).get_single_element()
        data = tf.io.parse_single_example(example, {self.key: tf.io.FixedLenFeature([], tf.string)})[self.key]
        return data, tf.strings.join([files[number], tf.strings.as_string(offset)], " at byte ")
