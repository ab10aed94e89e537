"""The images a map is fitted on, and the second moments of both representations over them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from keras_relu.data import Dataset
from keras_relu.errors import UserError
from keras_relu.similarity import Moments
from keras_relu.stitching.pair import Joint

__all__ = ["fit_batches", "fit_moments"]

_BATCH = 500


def fit_batches(
    dataset: Dataset, split: str, *, images: int | None = None, batch_size: int = _BATCH, seed: int = 0
) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
    """(uint8 images, labels) of a split, at most `images` of them.

    Args:
        split: "train", "validation" or "test" in order; "augmented" is one pass over the training images with random
            flips and crops, in the order of `Split.epoch`.

    Raises:
        UserError: an empty split.
    """
    if split == "augmented":
        batch_size = min(batch_size, dataset.train.size)
        batches = dataset.train.epoch(batch_size, seed=seed, epoch=0, augment=True)
    else:
        batches = getattr(dataset, split).batches(batch_size)
    left = np.inf if images is None else images
    for pictures, labels in batches:
        if left <= 0:
            return
        yield (pictures, labels) if len(labels) <= left else (pictures[: int(left)], labels[: int(left)])
        left -= len(labels)


def fit_moments(
    joint: Joint, dataset: Dataset, split: str, *, images: int | None = None, seed: int = 0, batch_size: int = _BATCH
) -> Moments:
    """Moments of what the stitch gets (x) and should give (y), in one pass; both networks see the same images.

    Raises:
        UserError: fewer images than asked for.
        DegenerateError: one of the layers is dead on these images.
    """
    pair, normalization = joint.pair, dataset.normalization

    images_spec = tf.TensorSpec([None, *pair.front.input_shape[1:]], tf.uint8)

    @tf.function(input_signature=[images_spec], autograph=False)
    def representations(pictures: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x = normalization.apply(pictures)
        a1, a2 = pair.front(x, training=False), pair.end_start(x, training=False)
        return joint.prepare(a1), joint.target(a2)

    moments = Moments(*joint.channels)
    seen = 0
    for pictures, _ in fit_batches(dataset, split, images=images, batch_size=batch_size, seed=seed):
        x, y = (_rows(tensor) for tensor in representations(pictures))
        moments.update(x, y)
        seen += len(pictures)
    if images is not None and seen < images:
        raise UserError(f"fit_images is {images}, the split {split!r} has {seen}.")
    return moments.alive()


def _rows(tensor: Any) -> np.ndarray:
    array = tensor.numpy()
    return array.reshape(-1, array.shape[-1])
