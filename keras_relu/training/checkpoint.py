"""Checkpoints: named groups of variables and a small JSON record in one `.npz` file, written whole or not at all.

No pickle is involved in either direction, so a checkpoint from a stranger can be opened; it must fit the variables it
is restored into in count, shape and dtype, and nothing is assigned before everything was compared.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_relu.errors import UserError
from keras_relu.files import atomic_path, existing_file

__all__ = ["assign", "collect", "latest", "read", "restore", "save", "write"]

_META = "__meta__"

Groups = Mapping[str, Sequence[tf.Variable]]


def save(path: str | os.PathLike, groups: Groups, meta: dict[str, Any]) -> None:
    """Write the values of `groups` and the JSON-able `meta` to `path`."""
    write(path, collect(groups), meta)


def collect(groups: Groups) -> dict[str, np.ndarray]:
    """Host copies of all variables, keyed `<group>/<index>`.

    With several workers this is a collective operation: every worker calls it, one of them calls `write`.
    """
    return {key: np.asarray(variable.numpy()) for key, variable in _targets(groups).items()}


def write(path: str | os.PathLike, arrays: Mapping[str, np.ndarray], meta: dict[str, Any]) -> None:
    """Write arrays from `collect` and `meta` atomically."""
    contents: dict[str, Any] = {_META: np.frombuffer(json.dumps(meta).encode("utf-8"), np.uint8), **arrays}
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, **contents)
        stream.flush()
        os.fsync(stream.fileno())


def restore(
    path: str | os.PathLike, groups: Groups, *, check: Callable[[dict[str, Any]], None] | None = None
) -> dict[str, Any]:
    """Assign the saved values to `groups` and return the saved meta.

    Args:
        check: called with the meta before anything is assigned; raises to refuse the checkpoint.

    Raises:
        UserError: the file is missing or corrupt, or was written for other variables; nothing is assigned then.
    """
    arrays, meta = read(path)
    if check is not None:
        check(meta)
    _compare(path, arrays, _targets(groups))
    assign(arrays, groups)
    return meta


def assign(arrays: Mapping[str, np.ndarray], groups: Groups) -> None:
    """Give the variables of `groups` the values that `collect` returned for the same groups."""
    for key, variable in _targets(groups).items():
        variable.assign(arrays[key])


def read(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The (arrays, meta) of a checkpoint.

    Raises:
        UserError: the file is missing or corrupt.
    """
    existing_file(path, "checkpoint")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
        meta = json.loads(arrays.pop(_META).tobytes().decode("utf-8"))
    # A damaged zip surfaces as any of these, depending on which byte is wrong.
    except (
        OSError,
        ValueError,
        KeyError,
        EOFError,
        TypeError,
        AttributeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise UserError(
            f"The checkpoint {str(path)!r} is corrupt ({error}); delete it to go on from the one before, if any."
        ) from error
    return arrays, meta


def latest(directory: str | os.PathLike, prefix: str = "") -> Path | None:
    """The checkpoint `<prefix>step-<number>.npz` with the highest number in `directory`, or None."""
    pattern = re.compile(re.escape(prefix) + r"step-(\d+)\.npz")
    found = [(int(match[1]), path) for path in Path(directory).glob("*.npz") if (match := pattern.fullmatch(path.name))]
    return max(found)[1] if found else None


def _key(group: str, index: int) -> str:
    return f"{group}/{index:04d}"


def _targets(groups: Groups) -> dict[str, tf.Variable]:
    return {_key(group, i): v for group, variables in groups.items() for i, v in enumerate(variables)}


def _compare(path: str | os.PathLike, arrays: Mapping[str, np.ndarray], targets: Mapping[str, tf.Variable]) -> None:
    different = sorted(set(arrays) ^ set(targets))
    if different:
        where = "only in the file" if different[0] in arrays else "missing in the file"
        raise UserError(
            f"The checkpoint {str(path)!r} holds {len(arrays)} variables but the run has {len(targets)}; "
            f"the first that differs is {different[0]!r} ({where})."
        )
    for key, variable in targets.items():
        saved, expected = arrays[key], (tuple(variable.shape), np.dtype(variable.dtype.as_numpy_dtype))
        if (saved.shape, saved.dtype) != expected:
            raise UserError(
                f"The checkpoint {str(path)!r} has {saved.dtype} {saved.shape} for {variable.name!r} ({key}), "
                f"which is {expected[1]} {expected[0]} here."
            )
