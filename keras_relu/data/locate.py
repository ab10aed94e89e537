"""Where the files of a dataset are looked for.

Under `data_dir`, in this order:

1. the official files: `data_dir` may be the official folder (say `cifar-10-batches-bin`) or its parent. CIFAR's binary
   files come before its Python batches;
2. a directory prepared by tensorflow-datasets (`<name>/<version>/dataset_info.json`).

Without `data_dir`, the default folder of tensorflow-datasets is searched. When nothing was found, CIFAR, MNIST and
Fashion-MNIST are downloaded by tensorflow-datasets into `data_dir` (or its default folder).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from keras_relu.data import cifar, folders, idx, prepared
from keras_relu.data.source import Source
from keras_relu.errors import UserError

__all__ = ["locate"]

_OFFICIAL: dict[str, Callable[[str, Path], Source | None]] = {
    "cifar10": cifar.find_cifar,
    "cifar100": cifar.find_cifar,
    "fashion_mnist": idx.find_idx,
    "imagenet": folders.find_imagenet,
    "mnist": idx.find_idx,
    "tiny_imagenet": folders.find_tiny_imagenet,
}
_IDX_FILES = "train-images-idx3-ubyte[.gz], ..."
_LAYOUTS = {
    **{name: [f"{x.folder}/{x.files['train'][0]}, ..." for x in layouts] for name, layouts in cifar.LAYOUTS.items()},
    **{name: [f"{folder}/{_IDX_FILES}" for folder in (*names, ".")] for name, names in idx.FOLDERS.items()},
    "imagenet": [f"{folder}/{{train,val}}/<class>/*.JPEG" for folder in folders.IMAGENET_FOLDERS],
    "tiny_imagenet": [f"{folder}/val/val_annotations.txt" for folder in folders.TINY_FOLDERS],
}


def locate(name: str, data_dir: Path | None) -> Source:
    """The dataset `name` under `data_dir`, in the order the module describes; downloads it as the last resort.

    Raises:
        UserError: `data_dir` does not exist, or nothing was found; lists what was looked for.
    """
    if data_dir is not None and not data_dir.is_dir():
        raise UserError(f"data_dir {str(data_dir)!r} is no existing folder; give the folder of {name} or its parent.")
    found = _OFFICIAL[name](name, data_dir) if data_dir else None
    found = found or prepared.find_prepared(name, data_dir or prepared.default_folder())
    if found:
        return found
    if name not in prepared.DOWNLOADABLE:
        raise UserError(_not_found(name, data_dir))
    try:
        return prepared.download(name, data_dir)
    except UserError as error:
        raise UserError(f"{_not_found(name, data_dir)} {error}") from error


def _not_found(name: str, data_dir: Path | None) -> str:
    folder = data_dir or prepared.default_folder()
    looked_for = [*(_LAYOUTS[name] if data_dir else []), f"{prepared.official_name(name)}/<version>/dataset_info.json"]
    hint = "" if data_dir else " Give data_dir, the folder with the official files or its parent."
    return f"No {name} in {folder}; looked for {'; '.join(looked_for)}.{hint}"
