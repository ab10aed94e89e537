"""Datasets that tensorflow-datasets prepared, and having it prepare one."""

from __future__ import annotations

import logging
import os
import struct
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_relu.data.decoding import ResizedCropDecoder
from keras_relu.data.files import RecordSplit
from keras_relu.data.source import Source, check_labels
from keras_relu.data.splits import ArraySplit, Split
from keras_relu.errors import UserError

__all__ = ["DOWNLOADABLE", "default_folder", "download", "find_prepared", "index_records", "official_name"]

DOWNLOADABLE = ("cifar10", "cifar100", "fashion_mnist", "mnist")
_TEST_SPLITS = {"imagenet": "validation"}
_PROBE_SECONDS = 10
_logger = logging.getLogger(__name__)


def default_folder() -> Path:
    """Where tensorflow-datasets keeps its data when nobody says otherwise."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def official_name(name: str) -> str:
    """What tensorflow-datasets calls the dataset."""
    return "imagenet2012" if name == "imagenet" else name


def find_prepared(name: str, data_dir: Path) -> Source | None:
    """A prepared directory under `data_dir`: `<name>/<version>`, `<version>` inside `<name>`, or the version itself.

    The highest version is taken. None when there is none.
    """
    official = official_name(name)
    folders = [*_versions(data_dir / official)]
    if data_dir.name == official:
        folders += _versions(data_dir)
    if data_dir.parent.name == official and (data_dir / "dataset_info.json").is_file():
        folders.append(data_dir)
    return _source(name, folders[0]) if folders else None


def _versions(folder: Path) -> list[Path]:
    found = [path.parent for path in folder.glob("*/dataset_info.json")]
    return sorted(found, key=lambda path: [int(x) if x.isdigit() else -1 for x in path.name.split(".")], reverse=True)


def _source(name: str, folder: Path) -> Source:
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(folder)
        label, image = builder.info.features["label"], builder.info.features["image"]
    except (KeyError, ValueError, OSError, TypeError, AttributeError) as error:
        raise UserError(f"{folder} is no prepared dataset with the features image and label: {error}.") from error
    reader = _RecordReader if name == "imagenet" else _ArrayReader
    shape = (224, 224, 3) if name == "imagenet" else tuple(image.shape)
    return Source(str(folder), tuple(label.names), shape, reader(name, builder))


def _tfds_split(name: str, builder: Any, split: str) -> str:
    wanted = _TEST_SPLITS.get(name, "test") if split == "test" else "train"
    if wanted not in builder.info.splits:
        raise UserError(f"{builder.data_path} has no split {wanted!r}, only {sorted(builder.info.splits)}.")
    return wanted


@dataclass(frozen=True)
class _ArrayReader:
    """Small images: one split is read as a whole."""

    name: str
    builder: Any

    def __call__(self, split: str) -> ArraySplit:
        import tensorflow_datasets as tfds

        wanted = _tfds_split(self.name, self.builder, split)
        try:
            content = tfds.as_numpy(self.builder.as_dataset(split=wanted, batch_size=-1))
        except (tf.errors.OpError, NotImplementedError, OSError, AssertionError) as error:
            raise UserError(f"The split {wanted!r} in {self.builder.data_path} cannot be read: {error}.") from error
        images, labels = content["image"], content["label"]
        if "id" in content:
            # tensorflow-datasets shuffles records by a hash; their ids restore the official order, so that every way
            # of storing CIFAR yields the same validation split and the same batches.
            order = np.argsort(content["id"])
            images, labels = images[order], labels[order]
        check_labels(labels, self.builder.info.features["label"].num_classes, str(self.builder.data_path))
        return ArraySplit(images=images, labels=labels, name=split)


@dataclass(frozen=True)
class _RecordReader:
    """Large images: records are found once (this reads the split through) and then read at random."""

    name: str
    builder: Any

    def __call__(self, split: str) -> Split:
        wanted = _tfds_split(self.name, self.builder, split)
        files = [str(path) for path in self.builder.info.splits[wanted].filepaths]
        try:
            with ThreadPoolExecutor(8) as pool:
                parts = list(pool.map(index_records, files))
        except OSError as error:
            raise UserError(f"The split {wanted!r} in {self.builder.data_path} cannot be read: {error}.") from error
        labels = np.concatenate([labels for _, labels in parts])
        check_labels(labels, self.builder.info.features["label"].num_classes, str(self.builder.data_path))
        places = [np.stack([np.full_like(offsets, n), offsets], 1) for n, (offsets, _) in enumerate(parts)]
        return RecordSplit(
            files=np.array(files, object),
            places=np.concatenate(places),
            labels=labels,
            name=split,
            decoder=ResizedCropDecoder(),
        )


def index_records(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Byte offset (int64) and label (int32) of every example in an uncompressed TFRecord file.

    Raises:
        UserError: the file is truncated or holds other records.
    """
    offsets, labels = [], []
    with open(path, "rb") as stream:
        while header := stream.read(12):
            offsets.append(stream.tell() - len(header))
            length = struct.unpack("<Q", header[:8])[0] if len(header) == 12 else -1
            data = stream.read(length) if 0 <= length <= 2**31 else b""
            if len(data) != length or len(stream.read(4)) != 4:
                raise UserError(f"{path} is truncated or no TFRecord file: no whole record at byte {offsets[-1]}.")
            labels.append(_label(data, path))
    return np.array(offsets, np.int64), np.array(labels, np.int32)


def _label(data: bytes, path: str | Path) -> int:
    from google.protobuf.message import DecodeError

    try:
        return tf.train.Example.FromString(data).features.feature["label"].int64_list.value[0]
    except (DecodeError, IndexError) as error:
        raise UserError(f"{path} holds a record without a label: {error}.") from error


def download(name: str, data_dir: Path | None) -> Source:
    """Have tensorflow-datasets download and prepare the dataset in `data_dir` (or its own default folder).

    Raises:
        UserError: the server does not answer, or the download fails.
    """
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=data_dir and str(data_dir))
    url = next(iter(builder.url_infos))
    # Asked first because tensorflow-datasets tries for minutes before it gives up on a machine without network.
    _probe(url)
    _logger.warning("Downloading %s from %s.", name, url)
    try:
        builder.download_and_prepare()
    except Exception as error:  # tensorflow-datasets has no common error type for a failed download
        raise UserError(f"Downloading {name} from {url} failed: {error}.") from error
    return _source(name, Path(builder.data_path))


def _probe(url: str) -> None:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_PROBE_SECONDS):
            pass
    except OSError as error:
        raise UserError(f"{url} cannot be reached: {error}.") from error
