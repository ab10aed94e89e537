"""The sign bits of all sites over many images, packed, one memory-mapped file per site.

```
cache.json          what the bits belong to: model, images, convention; sites with their shapes and checksums
<site>.bits         uint64 [N, ceil(M / 64)], little endian, one row per neuron in the order of the flattened [H, W, C]
```

The bit is [x >= 0] of the pre-activation x. Writing streams over the images and holds a small part of them; reading maps the
file of one site. A cache of other weights, other images or another convention is refused.

Source: specification `induction` of the design, sections 3 and 10.1.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from keras_relu import memory, surgery
from keras_relu.errors import UserError, unknown_key
from keras_relu.files import atomic_path, read_json, write_json
from keras_relu.fingerprint import model_hash
from keras_relu.induction import bits

if TYPE_CHECKING:
    from keras_relu.data import Dataset, Normalization

__all__ = ["CONVENTION", "Cache", "image_facts", "open_cache", "sign_batches", "take_images", "write_cache"]

CONVENTION = "x >= 0 of the pre-activation; rows in the order of the flattened [H, W, C]; little bit order"
_HEADER = "cache.json"
# Images whose bits are collected before they are written: 70 MB for the 557,056 neurons of ResNet-18.
_CHUNK = 1024
# The pre-activations of all sites are in memory at once: 71 MB for 32 images of ResNet-18.
_BATCH = 32


@dataclass(frozen=True, eq=False)
class Cache:
    """A written cache; make it with `write_cache` or `open_cache`.

    Attributes:
        path: its directory.
        header: the content of cache.json.
    """

    path: Path
    header: Mapping[str, Any]

    @property
    def images(self) -> int:
        """M, the number of images."""
        return int(self.header["images"])

    @property
    def sites(self) -> list[str]:
        """Names of the cached sites."""
        return [site["name"] for site in self.header["sites"]]

    def bits(self, site: str) -> np.ndarray:
        """The packed rows of a site: uint64 [N, W], mapped read-only.

        Raises:
            UserError: the site is not in the cache, or its file is damaged.
        """
        entry = next((entry for entry in self.header["sites"] if entry["name"] == site), None)
        if entry is None:
            raise unknown_key("site of the cache", site, self.sites)
        file = self.path / Path(entry["file"]).name
        shape = (math.prod(entry["shape"]), bits.words_for(self.images))
        if not file.is_file() or file.stat().st_size != 8 * math.prod(shape) or _checksum(file) != entry["crc32"]:
            raise UserError(f"The cache file {str(file)!r} is missing or damaged; write the cache again.")
        return np.memmap(file, "<u8", "r", shape=shape)

    def rows(self, site: str, indices: np.ndarray) -> np.ndarray:
        """The packed rows of some neurons of a site, in memory."""
        return np.array(self.bits(site)[np.asarray(indices, np.int64)])

    def require(self, model: keras.Model, images: Mapping[str, Any] | None = None) -> None:
        """Refuse to be used for other weights, or for other images than `image_facts` describes.

        Raises:
            UserError: the cache is of another model or of other images; the message names the difference.
        """
        if self.header["model_hash"] != model_hash(model):
            raise UserError(
                f"The cache {str(self.path)!r} was made with other weights or another network than {model.name!r}; "
                "write it again for this model."
            )
        for key, value in (images or {}).items():
            if self.header.get(key) != value:
                raise UserError(
                    f"The cache {str(self.path)!r} was made with {key} {self.header.get(key)!r}, now it is {value!r}."
                )


def image_facts(dataset: Dataset, split: str, images: int) -> dict[str, Any]:
    """What identifies the images of a cache."""
    return {
        "dataset": dataset.name,
        "split": split,
        "images": images,
        "normalization": dataset.normalization.name,
        "validation_fraction": dataset.validation_fraction,
        "data_seed": dataset.seed,
        "limit": dataset.limit,
    }


def take_images(dataset: Dataset, split: str, images: int) -> Any:
    """The first `images` images of a split, as a split.

    Raises:
        UserError: another split than train or validation, or more images than it has.
    """
    if split not in ("train", "validation"):
        raise unknown_key("split for choosing", split, ("train", "validation"))
    part = getattr(dataset, split)
    if not 1 <= images <= part.size:
        raise UserError(f"The {split} split has {part.size} images; received a number of {images}.")
    return part.subset(np.arange(images), name=split)


def write_cache(
    model: keras.Model,
    dataset: Dataset,
    path: str | os.PathLike,
    *,
    images: int = 10_000,
    split: str = "train",
    sites: Sequence[str] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Cache:
    """Run `images` images through `model` and write the sign bits of its ReLU sites.

    Args:
        model: functional, without nested models that hold sites (`splitting.unpack` flattens them).
        split: train or validation; the test images are for the final number.
        sites: names; None takes all.
        facts: further keys of the header, the path of the model for example.

    Returns:
        The cache at `path`; one that is there already is returned when it is the same, so that a step can be repeated.

    Raises:
        UserError: an unknown site, too many images, or another cache or something else at `path`.
    """
    path = Path(path)
    known = {site.name: site for site in surgery.find_sites(model)}
    names = list(known) if sites is None else list(sites)
    wanted = image_facts(dataset, split, images)
    part = take_images(dataset, split, images)
    if path.exists() and any(path.iterdir()):
        found = open_cache(path)
        found.require(model, wanted)
        missing = set(names) - set(found.sites)
        if missing:
            raise UserError(
                f"The cache {str(path)!r} lacks the site {min(missing)!r}; choose another directory for it."
            )
        return found
    probe = surgery.preactivations(model, names)
    with atomic_path(path) as temporary:
        temporary.mkdir()
        entries: list[dict[str, Any]] = [
            {"name": name, "shape": list(known[name].shape), "file": f"{name}.bits"} for name in names
        ]
        _write_bits(temporary, entries, sign_batches(probe, part, dataset.normalization), images)
        memory.release()
        for entry in entries:
            entry["crc32"] = _checksum(temporary / str(entry["file"]))
        header = {**wanted, "model": model.name, "model_hash": model_hash(model), "convention": CONVENTION}
        write_json(temporary / _HEADER, {**header, **(facts or {}), "sites": entries})
    return open_cache(path)


def open_cache(path: str | os.PathLike) -> Cache:
    """The cache in a directory.

    Raises:
        UserError: there is none, or its header is damaged or of another convention.
    """
    path = Path(path)
    header = read_json(path / _HEADER, "header of the cache")
    keys = ("images", "sites", "model_hash", "dataset", "split", "convention")
    if not isinstance(header, dict) or any(key not in header for key in keys) or not _well_formed(header):
        raise UserError(f"{str(path / _HEADER)!r} is no header of a cache; it needs {', '.join(keys)}.")
    if header["convention"] != CONVENTION:
        raise UserError(
            f"The cache {str(path)!r} has the convention {header['convention']!r}, needed is {CONVENTION!r}."
        )
    return Cache(path, header)


def _well_formed(header: Mapping[str, Any]) -> bool:
    entries = header["sites"]
    if type(header["images"]) is not int or header["images"] < 1 or not isinstance(entries, list):
        return False
    for entry in entries:
        if not isinstance(entry, dict) or not {"name", "shape", "file", "crc32"} <= set(entry):
            return False
        sizes = entry["shape"]
        if not isinstance(sizes, list) or any(type(size) is not int or size < 1 for size in sizes):
            return False
    return True


def sign_batches(probe: keras.Model, part: Any, normalization: Normalization) -> Iterator[list[np.ndarray]]:
    """bool [B, N] of every output of `probe`, batch by batch; B is a multiple of 8 but in the last batch.

    Raises:
        UserError: a pre-activation is NaN, which has no sign.
    """

    @tf.function(input_signature=[tf.TensorSpec([None, *probe.input_shape[1:]], tf.uint8)], autograph=False)
    def compute(images: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        outputs = probe(normalization.apply(images), training=False)
        outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        wrong = tf.reduce_any([tf.math.is_nan(tf.reduce_sum(x)) for x in outputs])
        return wrong, [tf.reshape(x >= 0, [tf.shape(x)[0], -1]) for x in outputs]

    for images, _ in part.batches(_BATCH):
        wrong, values = compute(images)
        if wrong:
            raise UserError(f"The pre-activations of {probe.name!r} are NaN on some image; its training diverged.")
        yield [value.numpy() for value in values]


def _write_bits(
    folder: Path, entries: Sequence[Mapping[str, Any]], batches: Iterator[list[np.ndarray]], images: int
) -> None:
    width = 8 * bits.words_for(images)
    sizes = [math.prod(entry["shape"]) for entry in entries]
    files = [folder / entry["file"] for entry in entries]
    for file, size in zip(files, sizes, strict=True):
        with open(file, "wb") as stream:
            _reserve(stream.fileno(), size * width)
    chunk = [np.empty((_CHUNK // 8, size), np.uint8) for size in sizes]
    written = filled = 0
    for batch in batches:
        count = -(-len(batch[0]) // 8)
        for rows, value in zip(chunk, batch, strict=True):
            rows[filled : filled + count] = np.packbits(value, axis=0, bitorder="little")
        filled += count
        if filled == _CHUNK // 8:
            _flush(files, chunk, written, filled, width)
            written, filled = written + filled, 0
    if filled:
        _flush(files, chunk, written, filled, width)


def _reserve(descriptor: int, size: int) -> None:
    """Make a file of `size` bytes; writing to a mapped hole of a full disk would end the process without a word."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.truncate(descriptor, size)


def _flush(files: Sequence[Path], chunk: Sequence[np.ndarray], written: int, filled: int, width: int) -> None:
    """Write the collected columns; each file is mapped for that moment only, so that its pages do not stay."""
    for file, rows in zip(files, chunk, strict=True):
        mapped = np.memmap(file, np.uint8, "r+", shape=(rows.shape[1], width))
        mapped[:, written : written + filled] = rows[:filled].T
        del mapped


def _checksum(file: Path) -> int:
    value = 0
    with open(file, "rb") as stream:
        while block := stream.read(1 << 22):
            value = zlib.crc32(block, value)
    return value
