"""CIFAR-10 and CIFAR-100 from the official binary files and the official Python batch files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_relu.data import class_names
from keras_relu.data.pickled_arrays import read_pickled
from keras_relu.data.source import Source, check_labels, first_folder
from keras_relu.data.splits import ArraySplit
from keras_relu.errors import UserError

__all__ = ["LAYOUTS", "CifarLayout", "find_cifar"]

_IMAGE_BYTES = 3 * 32 * 32


@dataclass(frozen=True)
class CifarLayout:
    """One official way of storing a CIFAR dataset.

    Args:
        folder: the folder's name in the official archive.
        files: split to file names.
        classes: the names of the classes.
        label_bytes: binary rows only: label bytes before the pixels; the last of them is the (fine) label.
        label_key: Python batches only: the key of the labels.
    """

    folder: str
    files: Mapping[str, tuple[str, ...]]
    classes: tuple[str, ...]
    label_bytes: int = 0
    label_key: str = ""


_TEN = tuple(f"data_batch_{index}" for index in range(1, 6))
_TEN_BINARY = {"train": tuple(f"{name}.bin" for name in _TEN), "test": ("test_batch.bin",)}
_TEN_PYTHON = {"train": _TEN, "test": ("test_batch",)}
_HUNDRED_BINARY = {"train": ("train.bin",), "test": ("test.bin",)}
_HUNDRED_PYTHON = {"train": ("train",), "test": ("test",)}

LAYOUTS: dict[str, tuple[CifarLayout, ...]] = {
    "cifar10": (
        CifarLayout("cifar-10-batches-bin", _TEN_BINARY, class_names.CIFAR10, label_bytes=1),
        CifarLayout("cifar-10-batches-py", _TEN_PYTHON, class_names.CIFAR10, label_key="labels"),
    ),
    "cifar100": (
        CifarLayout("cifar-100-binary", _HUNDRED_BINARY, class_names.CIFAR100, label_bytes=2),
        CifarLayout("cifar-100-python", _HUNDRED_PYTHON, class_names.CIFAR100, label_key="fine_labels"),
    ),
}


def find_cifar(name: str, data_dir: Path) -> Source | None:
    """The dataset under `data_dir`, which may be the official folder itself or its parent; None when there is none.

    Binary files are preferred to Python batches. Nothing is read before a split is asked for.
    """
    for layout in LAYOUTS[name]:
        # `train` is also a folder of other layouts: the folder of CIFAR-100's Python files is told by `meta` beside it.
        markers = ("meta",) if layout.folder == "cifar-100-python" else sum(layout.files.values(), ())
        folder = first_folder([data_dir / layout.folder, data_dir], markers)
        if folder:
            return Source(str(folder), layout.classes, (32, 32, 3), _Reader(layout, folder))
    return None


@dataclass(frozen=True)
class _Reader:
    layout: CifarLayout
    folder: Path

    def __call__(self, split: str) -> ArraySplit:
        paths = [self._existing(name) for name in self.layout.files[split]]
        read = self._binary if self.layout.label_bytes else self._python
        parts = [read(path) for path in paths]
        self._check_sizes(paths, [len(labels) for _, labels in parts])
        # Official pixel order is channel, row, column.
        planes = np.concatenate([pixels for pixels, _ in parts]).reshape(-1, 3, 32, 32)
        images = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
        return ArraySplit(images=images, labels=np.concatenate([labels for _, labels in parts]), name=split)

    def _existing(self, name: str) -> Path:
        path = self.folder / name
        if not path.is_file():
            raise UserError(f"{self.folder} lacks the file {name!r}; allowed is the complete official folder.")
        return path

    def _binary(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        row = self.layout.label_bytes + _IMAGE_BYTES
        size = path.stat().st_size
        if size == 0 or size % row:
            raise UserError(f"{path} has {size} bytes, not a multiple of {row} (one image): it is truncated or empty.")
        rows = np.fromfile(path, np.uint8).reshape(-1, row)
        labels = rows[:, self.layout.label_bytes - 1].astype(np.int32)
        check_labels(labels, len(self.layout.classes), str(path))
        return rows[:, self.layout.label_bytes :], labels

    def _python(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        content = read_pickled(path)
        pixels, labels = content.get("data"), content.get(self.layout.label_key)
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (_IMAGE_BYTES,):
            raise UserError(f"{path} has no uint8 array 'data' [N, {_IMAGE_BYTES}]; is it an official CIFAR batch?")
        if not isinstance(labels, list) or len(labels) != len(pixels) or not all(type(x) is int for x in labels):
            raise UserError(f"{path} has no list {self.layout.label_key!r} of {len(pixels)} whole numbers.")
        if not labels:
            raise UserError(f"{path} holds 0 images; at least 1 is needed.")
        array = np.asarray(labels, np.int64)
        check_labels(array, len(self.layout.classes), str(path))
        return pixels, array.astype(np.int32)

    def _check_sizes(self, paths: list[Path], sizes: list[int]) -> None:
        # Official batches are equally large: a shorter one was cut at the end of a row.
        for path, size in zip(paths, sizes, strict=True):
            if size != max(sizes):
                raise UserError(f"{path} has {size} images, other batches {max(sizes)}: it is truncated.")
