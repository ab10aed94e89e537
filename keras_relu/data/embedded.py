"""Datasets that need no files: scikit-learn's real handwritten digits, and seeded synthetic patterns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_relu.data import class_names
from keras_relu.data.source import Source
from keras_relu.data.splits import ArraySplit
from keras_relu.data.stratified import stratified_cut
from keras_relu.errors import UserError, unknown_key

__all__ = ["SyntheticOptions", "digits", "synthetic"]

_DIGITS_TEST = 360
_DIGITS_SEED = 1797


def digits(data_dir: Path | None) -> Source:
    """The 1,797 real 8x8 images of the UCI handwritten digits that ship with scikit-learn.

    Values 0..16 are scaled to 0..255. The test split is always the same 360 images (20 %, stratified).
    """
    return Source("scikit-learn's load_digits", class_names.DIGITS, (8, 8, 1), _read_digits)


def _read_digits(split: str) -> ArraySplit:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255.0 / 16.0)).astype(np.uint8)[..., None]
    train, test = stratified_cut(bunch.target, _DIGITS_TEST, seed=(_DIGITS_SEED,))
    chosen = test if split == "test" else train
    return ArraySplit(images=images[chosen], labels=bunch.target[chosen], name=split)


@dataclass(frozen=True)
class SyntheticOptions:
    """What `load("synthetic", options={...})` takes.

    Args:
        classes: number of classes, one pattern each.
        image_shape: (height, width, channels).
        train_size: number of training images (before the validation split is cut).
        test_size: number of test images.
        noise: standard deviation of the pixel noise on the 0..255 scale; more noise, a harder task.
    """

    classes: int = 10
    image_shape: tuple[int, int, int] = (32, 32, 3)
    train_size: int = 2000
    test_size: int = 500
    noise: float = 48.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_shape", tuple(self.image_shape))
        positive = (self.classes, *self.image_shape, self.train_size, self.test_size)
        if len(self.image_shape) != 3 or min(positive) < 1 or self.noise < 0:
            raise UserError(f"The synthetic dataset received {self}; allowed are positive sizes and a shape (H, W, C).")


def synthetic(data_dir: Path | None, **options: Any) -> Source:
    """Smooth random patterns, one per class, plus noise. Always the same images for the same options.

    Raises:
        UserError: an unknown option or a size that is not positive.
    """
    for key in options:
        if key not in SyntheticOptions.__dataclass_fields__:
            raise unknown_key("option of the synthetic dataset", key, SyntheticOptions.__dataclass_fields__)
    chosen = SyntheticOptions(**options)
    names = tuple(f"pattern_{index}" for index in range(chosen.classes))
    return Source(
        f"{chosen.classes} synthetic patterns", names, chosen.image_shape, lambda split: _synthetic_split(chosen, split)
    )


def _synthetic_split(options: SyntheticOptions, split: str) -> ArraySplit:
    patterns = _patterns(options.classes, options.image_shape)
    size, stream = (options.test_size, 1) if split == "test" else (options.train_size, 0)
    rng = np.random.default_rng((2017, stream))
    labels = rng.permutation(np.arange(size) % options.classes)
    images = np.empty((size, *options.image_shape), np.uint8)
    for start in range(0, size, 1024):
        part = patterns[labels[start : start + 1024]]
        noisy = part + options.noise * rng.standard_normal(part.shape, np.float32)
        images[start : start + 1024] = np.clip(np.rint(noisy), 0, 255)
    return ArraySplit(images=images, labels=labels, name=split)


def _patterns(classes: int, image_shape: tuple[int, int, int]) -> np.ndarray:
    """float32 `[classes, H, W, C]` around 128: sums of four plane waves of low frequency with random phase."""
    height, width, channels = image_shape
    rng = np.random.default_rng(2016)
    frequency = rng.uniform(-3.0, 3.0, (2, classes, 4, channels, 1, 1))
    phase = rng.uniform(0.0, 2.0 * np.pi, (classes, 4, channels, 1, 1))
    rows, columns = np.mgrid[0:height, 0:width] / max(height, width)
    waves = np.sin(2.0 * np.pi * (frequency[0] * rows + frequency[1] * columns) + phase)
    return (128.0 + 40.0 * waves.sum(axis=1)).transpose(0, 2, 3, 1).astype(np.float32)
