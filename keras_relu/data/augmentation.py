"""Augmentation of whole uint8 batches, a pure function of the images and a seed."""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf

__all__ = ["Augmentation", "step_seed"]


def step_seed(key: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
    """The stateless seed (shape `[2]`) of one step, from the epoch's key (shape `[2]`) and the step's number."""
    return tf.random.experimental.stateless_fold_in(key, tf.cast(step, key.dtype), alg="philox")


@dataclass(frozen=True)
class Augmentation:
    """Random horizontal flip (probability 1/2) and random crop after zero padding, drawn per image.

    Padding is black in the raw 0..255 image, before any normalisation, as the published CIFAR recipes do.

    Args:
        pad: pixels added on every side before cropping back to the original size; 0 means no crop.
        flip: whether images may be mirrored left-right.
    """

    pad: int = 0
    flip: bool = False

    def __call__(self, images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """uint8 `[B, H, W, C]` and a stateless seed `[2]` to uint8 `[B, H, W, C]`.

        One gather of rows and one of columns for the whole batch; a mirrored image reads its columns backwards.
        """
        if not (self.pad or self.flip):
            return images
        batch = tf.shape(images)[0]
        height, width = images.shape[1:3]
        shift = tf.random.stateless_uniform([2, batch, 1], step_seed(seed, 0), 0, 2 * self.pad + 1, tf.int32, "philox")
        columns = shift[1] + tf.range(width)
        if self.flip:
            mirrored = tf.random.stateless_uniform([batch, 1], step_seed(seed, 1), alg="philox") < 0.5
            columns = tf.where(mirrored, columns[:, ::-1], columns)
        if self.pad:
            edge = [self.pad, self.pad]
            padded = tf.pad(images, [[0, 0], edge, edge, [0, 0]])
            images = tf.gather(padded, shift[0] + tf.range(height), axis=1, batch_dims=1)
        return tf.gather(images, columns, axis=2, batch_dims=1)
