"""MNIST and Fashion-MNIST from the official idx files, plain or gzipped."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_relu.data import class_names
from keras_relu.data.source import Source, check_labels, first_folder
from keras_relu.data.splits import ArraySplit
from keras_relu.errors import UserError

__all__ = ["FILES", "FOLDERS", "find_idx", "read_idx"]

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
# A named folder comes first: both datasets use the same file names.
FOLDERS = {
    "mnist": ("mnist", "MNIST", "MNIST/raw"),
    "fashion_mnist": ("fashion_mnist", "fashion-mnist", "FashionMNIST", "FashionMNIST/raw"),
}
_CLASSES = {"mnist": class_names.DIGITS, "fashion_mnist": class_names.FASHION_MNIST}


def _spellings(name: str) -> tuple[str, ...]:
    """Official and common spellings of a file's name: with and without .gz, `-idx3` and `.idx3`."""
    dotted = name.replace("-idx", ".idx")
    return name, f"{name}.gz", dotted, f"{dotted}.gz"


def find_idx(name: str, data_dir: Path) -> Source | None:
    """The dataset under `data_dir` or one of its usual folders; None when there is none."""
    markers = tuple(spelling for files in FILES.values() for file in files for spelling in _spellings(file))
    folder = first_folder([*(data_dir / folder for folder in FOLDERS[name]), data_dir], markers)
    return None if folder is None else Source(str(folder), _CLASSES[name], (28, 28, 1), _Reader(folder))


@dataclass(frozen=True)
class _Reader:
    folder: Path

    def __call__(self, split: str) -> ArraySplit:
        images_file, labels_file = (self._existing(name) for name in FILES[split])
        images, labels = read_idx(images_file, 3), read_idx(labels_file, 1)
        if len(images) != len(labels) or not len(images) or images.shape[1:] != (28, 28):
            raise UserError(
                f"{images_file} holds images {list(images.shape)}, {labels_file} labels {list(labels.shape)}; "
                "allowed are [N, 28, 28] and [N] with N of at least 1."
            )
        check_labels(labels, 10, str(labels_file))
        return ArraySplit(images=images[..., None], labels=labels, name=split)

    def _existing(self, name: str) -> Path:
        found = next((self.folder / s for s in _spellings(name) if (self.folder / s).is_file()), None)
        if found is None:
            raise UserError(f"{self.folder} lacks the file {name!r} (or {name + '.gz'!r}).")
        return found


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """The uint8 array in an idx file: 0 0 8 d, then d big-endian sizes, then the values.

    Raises:
        UserError: the file is damaged, truncated, or has another type or number of dimensions.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be unpacked ({error}): it is truncated or damaged.") from error
    start = 4 + 4 * dimensions
    if len(data) < start or data[:4] != bytes((0, 0, 8, dimensions)):
        raise UserError(f"{path} is no idx file of {dimensions}-dimensional uint8 values.")
    shape = np.frombuffer(data, ">u4", dimensions, 4).astype(np.int64)
    if len(data) - start != shape.prod():
        raise UserError(f"{path} has {len(data) - start} values, its header says {shape.prod()}: it is truncated.")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
