"""What a reader hands over: where the data is, what it looks like, and how one of its splits is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_relu.data.splits import Split
from keras_relu.errors import UserError

__all__ = ["Source", "check_labels", "first_folder"]


@dataclass(frozen=True)
class Source:
    """A dataset that was found but not read yet.

    Args:
        description: what is read, for messages and run records.
        class_names: one name per class.
        image_shape: (height, width, channels) of the images a pipeline yields.
        read: "train" or "test" to a Split; touches only the files of that split.
    """

    description: str
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    read: Callable[[str], Split]


def first_folder(candidates: list[Path], markers: tuple[str, ...]) -> Path | None:
    """The first of the folders that holds any of the marker files."""
    return next((folder for folder in candidates if any((folder / name).exists() for name in markers)), None)


def check_labels(labels: np.ndarray, classes: int, where: str) -> None:
    """Refuse labels outside 0..classes-1.

    Raises:
        UserError: naming the first wrong label and its position.
    """
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        first = int(wrong[0])
        raise UserError(f"{where}: image {first} has the label {labels[first]}; allowed are 0 to {classes - 1}.")
