"""From an encoded image (JPEG or PNG bytes) to uint8 `[H, W, C]`, inside a `tf.data` graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import tensorflow as tf

__all__ = ["Decoder", "FixedSizeDecoder", "ResizedCropDecoder"]


class Decoder(Protocol):
    """Decodes one image."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the result."""

    @property
    def random(self) -> bool:
        """Whether `augment` changes the result, so that decoded images must not be cached."""

    def __call__(self, data: tf.Tensor, *, augment: bool, seed: tf.Tensor) -> tf.Tensor: ...


def _decode(data: tf.Tensor, channels: int) -> tf.Tensor:
    image = tf.io.decode_image(data, channels, expand_animations=False)
    return tf.ensure_shape(image, [None, None, channels])


@dataclass(frozen=True)
class FixedSizeDecoder:
    """Images that all have the same size on disk; any other size stops the pipeline."""

    image_shape: tuple[int, int, int]

    @property
    def random(self) -> bool:
        return False

    def __call__(self, data: tf.Tensor, *, augment: bool, seed: tf.Tensor) -> tf.Tensor:
        image = _decode(data, self.image_shape[2])
        height, width = self.image_shape[:2]
        size = tf.shape(image)[:2]
        right = tf.reduce_all(size == (height, width))
        with tf.control_dependencies([tf.Assert(right, [f"expected an image of {height}x{width}, received", size])]):
            return tf.reshape(image, self.image_shape)


@dataclass(frozen=True)
class ResizedCropDecoder:
    """The ImageNet recipe: random resized crop for training, resize and centre crop otherwise.

    The random crop covers 8 to 100 % of the image at an aspect ratio of 3/4 to 4/3 and is resized to `size`; otherwise
    the shorter side is resized to `resize` and the centre `size` x `size` is cut. Both bilinear with antialiasing.
    """

    size: int = 224
    resize: int = 256

    @property
    def random(self) -> bool:
        return True

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (self.size, self.size, 3)

    def __call__(self, data: tf.Tensor, *, augment: bool, seed: tf.Tensor) -> tf.Tensor:
        if not augment:
            return self._centre(_decode(data, 3))
        # JPEG can decode a region alone, which is about twice as fast; ImageNet also holds a PNG in disguise.
        crop = tf.cond(tf.io.is_jpeg(data), lambda: self._crop_jpeg(data, seed), lambda: self._crop_any(data, seed))
        return self._resized(crop, (self.size, self.size))

    def _resized(self, image: tf.Tensor, size: tuple[int, int] | tf.Tensor) -> tf.Tensor:
        resized = tf.image.resize(image, size, antialias=True)
        return tf.saturate_cast(tf.round(tf.ensure_shape(resized, [*resized.shape[:2], 3])), tf.uint8)

    def _centre(self, image: tf.Tensor) -> tf.Tensor:
        size = tf.cast(tf.shape(image)[:2], tf.float32)
        scaled = tf.cast(tf.round(size * (self.resize / tf.reduce_min(size))), tf.int32)
        top, left = tf.unstack((scaled - self.size) // 2)
        centre = self._resized(image, scaled)[top : top + self.size, left : left + self.size]
        return tf.ensure_shape(centre, self.image_shape)

    def _window(self, image_size: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """int32 `[top, left, height, width]` of a random crop."""
        begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
            image_size,
            tf.zeros([1, 0, 4]),
            seed,
            min_object_covered=0.0,
            aspect_ratio_range=(3 / 4, 4 / 3),
            area_range=(0.08, 1.0),
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        return tf.concat([begin[:2], size[:2]], 0)

    def _crop_jpeg(self, data: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return tf.image.decode_and_crop_jpeg(data, self._window(tf.image.extract_jpeg_shape(data), seed), channels=3)

    def _crop_any(self, data: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        image = _decode(data, 3)
        top, left, height, width = tf.unstack(self._window(tf.shape(image), seed))
        return image[top : top + height, left : left + width]
