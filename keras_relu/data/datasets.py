"""Datasets by name: `load` finds the files, cuts a validation split, and reads each split when it is first touched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from keras_relu.data.augmentation import Augmentation
from keras_relu.data.embedded import digits, synthetic
from keras_relu.data.locate import locate
from keras_relu.data.normalization import Normalization, get_normalization
from keras_relu.data.source import Source
from keras_relu.data.splits import Split
from keras_relu.data.stratified import stratified_choice, stratified_cut
from keras_relu.errors import UserError, unknown_key

__all__ = ["Dataset", "list_datasets", "load"]

_SHIFT_1 = Augmentation(pad=1)
_SHIFT_2 = Augmentation(pad=2)
_FLIP = Augmentation(flip=True)
_SHIFT_2_FLIP = Augmentation(pad=2, flip=True)
_SHIFT_4_FLIP = Augmentation(pad=4, flip=True)


@dataclass(frozen=True)
class _Entry:
    find: Callable[..., Source]
    augmentation: Augmentation


# A mirrored digit is another sign, so digits shift only; clothes, animals and things may be mirrored.
# ImageNet's random resized crop happens while decoding.
_DATASETS = {
    "cifar10": _Entry(partial(locate, "cifar10"), _SHIFT_4_FLIP),
    "cifar100": _Entry(partial(locate, "cifar100"), _SHIFT_4_FLIP),
    "digits": _Entry(digits, _SHIFT_1),
    "fashion_mnist": _Entry(partial(locate, "fashion_mnist"), _SHIFT_2_FLIP),
    "imagenet": _Entry(partial(locate, "imagenet"), _FLIP),
    "mnist": _Entry(partial(locate, "mnist"), _SHIFT_2),
    "synthetic": _Entry(synthetic, _SHIFT_1),
    "tiny_imagenet": _Entry(partial(locate, "tiny_imagenet"), _SHIFT_4_FLIP),
}


def list_datasets() -> list[str]:
    """The names `load` takes."""
    return sorted(_DATASETS)


@dataclass(frozen=True, eq=False, kw_only=True)
class Dataset:
    """A dataset with a training, a validation and a test split.

    A split is read when it is first touched. Only final numbers may touch `test`; choices are made on `validation`,
    which is cut from the training images (stratified, by `seed`) and is the same whatever `limit` is.

    Args:
        name: the name given to `load`.
        source: where the images come from.
        augmentation: what `epoch(augment=True)` does to a training batch.
        normalization: the constants networks are trained with.
        validation_fraction: part of the training images that becomes the validation split.
        seed: chooses the validation images, and the training images kept by `limit`.
        limit: number of training images kept, or None for all.
    """

    name: str
    source: Source
    augmentation: Augmentation
    normalization: Normalization
    validation_fraction: float
    seed: int
    limit: int | None

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.source.class_names)

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per label."""
        return self.source.class_names

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of every batch."""
        return self.source.image_shape

    @property
    def train(self) -> Split:
        """The training images without the validation images, at most `limit` of them."""
        return self._parts[0]

    @property
    def validation(self) -> Split:
        """Images cut from the training set; empty when `validation_fraction` is 0."""
        return self._parts[1]

    @cached_property
    def test(self) -> Split:
        """The official test images, read on first use."""
        return self._read("test")

    @cached_property
    def _parts(self) -> tuple[Split, Split]:
        whole = self._read("train")
        count = round(self.validation_fraction * whole.size)
        if self.validation_fraction and not 0 < count < whole.size:
            raise UserError(
                f"validation_fraction {self.validation_fraction} of {whole.size} images gives {count} validation "
                "image(s); at least 1 must be left for each split."
            )
        train, validation = stratified_cut(whole.labels, count, seed=(self.seed, 0))
        if self.limit is not None:
            if self.limit > len(train):
                raise UserError(f"limit is {self.limit}; allowed is 1 to {len(train)}, the number of training images.")
            train = train[stratified_choice(whole.labels[train], self.limit, seed=(self.seed, 1))]
        return whole.subset(train, name="train"), whole.subset(validation, name="validation")

    def _read(self, split: str) -> Split:
        return replace(self.source.read(split), augmentation=self.augmentation)


def load(
    name: str,
    *,
    data_dir: str | Path | None = None,
    validation_fraction: float = 0.1,
    seed: int = 0,
    normalization: str | Normalization | None = None,
    limit: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> Dataset:
    """The dataset `name`; see `list_datasets`. Images are uint8 until `normalization.apply`.

    Args:
        name: cifar10, cifar100, digits, fashion_mnist, imagenet, mnist, synthetic or tiny_imagenet.
        data_dir: the folder with the files, or its parent; `keras_relu.data.locate` documents the search order.
            Not needed for digits and synthetic.
        validation_fraction: 0 up to, not including, 1.
        seed: chooses the validation images and those kept by `limit`.
        normalization: a preset's name or an instance; None takes the dataset's default.
        limit: keep only so many training images (stratified).
        options: for `synthetic`: see `keras_relu.data.embedded.SyntheticOptions`.

    Raises:
        UserError: an unknown name, missing or damaged files, or an argument out of range.
    """
    if name not in _DATASETS:
        raise unknown_key("dataset", name, _DATASETS)
    _check_arguments(validation_fraction, seed, limit)
    if options and name != "synthetic":
        raise UserError(f"The dataset {name!r} received the options {sorted(options)}; it takes none.")
    entry = _DATASETS[name]
    source = entry.find(None if data_dir is None else Path(data_dir).expanduser(), **(options or {}))
    constants = get_normalization(normalization, name)
    constants.check(source.image_shape[-1])
    return Dataset(
        name=name,
        source=source,
        augmentation=entry.augmentation,
        normalization=constants,
        validation_fraction=validation_fraction,
        seed=seed,
        limit=limit,
    )


def _check_arguments(validation_fraction: float, seed: int, limit: int | None) -> None:
    if not 0 <= validation_fraction < 1:
        raise UserError(f"validation_fraction is {validation_fraction}; allowed is 0 up to, not including, 1.")
    if seed < 0:
        raise UserError(f"seed is {seed}; allowed is a whole number of at least 0.")
    if limit is not None and limit < 1:
        raise UserError(f"limit is {limit}; allowed is 1 to the number of training images.")
