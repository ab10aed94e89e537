"""Tiny-ImageNet and ImageNet from folders of image files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_relu.data.decoding import Decoder, FixedSizeDecoder, ResizedCropDecoder
from keras_relu.data.files import FileSplit
from keras_relu.data.source import Source
from keras_relu.errors import UserError

__all__ = ["IMAGENET_FOLDERS", "TINY_FOLDERS", "find_imagenet", "find_tiny_imagenet"]

TINY_FOLDERS = ("tiny-imagenet-200", "tiny_imagenet", ".")
IMAGENET_FOLDERS = ("ILSVRC", "imagenet/ILSVRC", "ILSVRC/Data/CLS-LOC", "imagenet", ".")
_SUFFIXES = (".jpeg", ".jpg", ".png")


def _names(folder: Path, *, folders: bool) -> list[str]:
    """Sorted names of the sub-folders, or of the image files, of `folder`; empty when it does not exist."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        if folders:
            return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
        return sorted(entry.name for entry in entries if entry.name.lower().endswith(_SUFFIXES))


def _class_folders(root: Path, classes: tuple[str, ...], inner: str, *, decoder: Decoder, split: str) -> FileSplit:
    """The images `root/<class>/<inner>/*`, sorted by class, then by name."""
    paths, labels = [], []
    for label, name in enumerate(classes):
        folder = root / name / inner
        files = _names(folder, folders=False)
        if not files:
            raise UserError(f"The class folder {folder} holds no image ({', '.join(_SUFFIXES)}); at least 1 is needed.")
        paths += [os.path.join(folder, file) for file in files]
        labels += [label] * len(files)
    return FileSplit(paths=np.array(paths, object), labels=np.array(labels, np.int32), name=split, decoder=decoder)


def find_tiny_imagenet(name: str, data_dir: Path) -> Source | None:
    """The official layout: `train/<wnid>/images/*.JPEG` and `val/val_annotations.txt`; None when there is none.

    Labels follow the sorted wnids. The official test images have no labels, so `val` is the test split.
    """
    for root in (data_dir / folder for folder in TINY_FOLDERS):
        # The annotation file tells this layout from ImageNet's, which also has train/<wnid>.
        if (root / "val" / "val_annotations.txt").is_file() or (root / "wnids.txt").is_file():
            classes = _names(root / "train", folders=True) or sorted((root / "wnids.txt").read_text().split())
            return Source(str(root), tuple(classes), (64, 64, 3), _TinyReader(root, tuple(classes)))
    return None


@dataclass(frozen=True)
class _TinyReader:
    root: Path
    classes: tuple[str, ...]

    def __call__(self, split: str) -> FileSplit:
        decoder = FixedSizeDecoder((64, 64, 3))
        if split == "train":
            return _class_folders(self.root / "train", self.classes, "images", decoder=decoder, split=split)
        names, labels = self._annotations(self.root / "val" / "val_annotations.txt")
        folder = self.root / "val" / "images"
        missing = sorted(set(names) - set(_names(folder, folders=False)))
        if missing:
            raise UserError(
                f"{folder} lacks {len(missing)} of {len(names)} annotated images, the first {missing[0]!r}."
            )
        paths = np.array([os.path.join(folder, name) for name in names], object)
        return FileSplit(paths=paths, labels=labels, name=split, decoder=decoder)

    def _annotations(self, path: Path) -> tuple[list[str], np.ndarray]:
        """File names and labels of the lines `<file> <wnid> <box>`."""
        rows = [line.split("\t") for line in path.read_text().splitlines() if line] if path.is_file() else []
        if not rows:
            raise UserError(f"{path} is missing or empty; the official file has one line per image.")
        numbers = {name: label for label, name in enumerate(self.classes)}
        for line, row in enumerate(rows, 1):
            if len(row) < 2 or row[1] not in numbers:
                raise UserError(f"{path} line {line} names no known class: {' '.join(row)!r}.")
        return [row[0] for row in rows], np.array([numbers[row[1]] for row in rows], np.int32)


def find_imagenet(name: str, data_dir: Path) -> Source | None:
    """Folders `train/<wnid>/*.JPEG` and `val/<wnid>/*.JPEG`; None when there are none. `val` is the test split.

    Labels follow the sorted folder names, so a subset of ImageNet's classes works too.
    """
    for root in (data_dir / folder for folder in IMAGENET_FOLDERS):
        classes = _names(root / "train", folders=True) or _names(root / "val", folders=True)
        if classes:
            return Source(str(root), tuple(classes), (224, 224, 3), _ImageNetReader(root, tuple(classes)))
    return None


@dataclass(frozen=True)
class _ImageNetReader:
    root: Path
    classes: tuple[str, ...]

    def __call__(self, split: str) -> FileSplit:
        folder = self.root / ("val" if split == "test" else "train")
        found = _names(folder, folders=True)
        if tuple(found) != self.classes:
            raise UserError(
                f"{folder} has {len(found)} class folders, {self.root} has {len(self.classes)} classes; "
                "train and val need the same class folders (sort loose validation images into them)."
            )
        return _class_folders(folder, self.classes, ".", decoder=ResizedCropDecoder(), split=split)
