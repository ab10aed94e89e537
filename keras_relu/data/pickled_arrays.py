"""Reading the official CIFAR "Python version", which is a pickle, without running anything a pickle may name.

The unpickler resolves a few names only: those that rebuild a plain NumPy array and a byte string. Every other global in
the file is refused, so a manipulated file can at worst yield wrong numbers.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from keras_relu.errors import UserError

__all__ = ["read_pickled"]


def _reconstruct(kind: type, shape: tuple, code: bytes) -> np.ndarray:
    """Stands for `numpy.core.multiarray._reconstruct`: an empty plain array, filled by its `__setstate__`."""
    if kind is not np.ndarray:
        raise pickle.UnpicklingError("an array type other than ndarray")
    return np.ndarray((0,), np.uint8)


def _encode(text: str, encoding: str) -> bytes:
    """Stands for `_codecs.encode`, by which old pickle protocols store bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"the encoding {encoding!r}")
    return text.encode("latin1")


def _dtype(code: str | bytes, align: bool = False, copy: bool = True) -> np.dtype:
    """Stands for `numpy.dtype`: plain numbers only."""
    dtype = np.dtype(code.decode("ascii") if isinstance(code, bytes) else code)
    if dtype.kind not in "uif":
        raise pickle.UnpicklingError(f"the array type {dtype}")
    return dtype


def _empty_bytes() -> bytes:
    """Stands for `bytes`, by which old pickle protocols store an empty byte string."""
    return b""


_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _empty_bytes,
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"the name {module}.{name}")
        return _ALLOWED[module, name]


def read_pickled(path: Path) -> dict[str, Any]:
    """The dictionary in an official CIFAR batch, its keys as str; values are arrays, lists, str and bytes.

    Raises:
        UserError: the file is truncated, is no pickle, or names anything but plain arrays.
    """
    try:
        with open(path, "rb") as stream:
            content = _ArrayUnpickler(stream, encoding="bytes").load()
    except Exception as error:  # a damaged pickle raises nearly any exception type
        raise UserError(
            f"{path} is not a CIFAR batch that can be read safely ({error}); allowed are plain arrays, lists and text."
        ) from error
    if not isinstance(content, dict):
        raise UserError(
            f"{path} holds a {type(content).__name__}; allowed is the dictionary of an official CIFAR batch."
        )
    return {key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in content.items()}
