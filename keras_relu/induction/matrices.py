"""Choosing matrices in the original's convention, as .npz files of plain arrays.

The matrix of a pair inducer -> induced has a row per inducer neuron and a column per induced neuron, both in the order of the
channel-first flattened [C, H, W]; the gate is G = D C with D the inducer's bits. The original's have a single 1 per column.
Polarity and constants need an offset: G = D C + o, with -1 and o = 1 for a complement, no entry and o = 1 or 0 for a constant.

```
pairs                                    "inducer->induced" of each pair
<pair number>/row, /col, /value          the entries, in the order of the columns
<pair number>/shape                      (rows, columns)
<pair number>/inducer_shape, /induced_shape  per-image [H, W, C]
<pair number>/offset                     o, only where it is not zero everywhere
```

Source: specification `induction` of the design, section 4.4.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_relu.errors import UserError
from keras_relu.files import atomic_path, existing_file
from keras_relu.induction.assignment import Assignment, GroupAssignment

__all__ = [
    "ChoosingMatrix",
    "from_matrices",
    "read_matrices",
    "to_channel_first",
    "to_channel_last",
    "to_matrices",
    "write_matrices",
]


def to_channel_first(indices: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Places in the flattened [H, W, C] as places in the flattened [C, H, W]; the same for one-dimensional shapes."""
    places = np.unravel_index(np.asarray(indices, np.int64), shape)
    order = (len(shape) - 1, *range(len(shape) - 1))
    return np.ravel_multi_index([places[axis] for axis in order], [shape[axis] for axis in order]).astype(np.int64)


def to_channel_last(indices: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `to_channel_first`; `shape` is [H, W, C] as well."""
    first = (shape[-1], *shape[:-1])
    places = np.unravel_index(np.asarray(indices, np.int64), first)
    return np.ravel_multi_index((*places[1:], places[0]), shape).astype(np.int64)


@dataclass(frozen=True, eq=False)
class ChoosingMatrix:
    """One sparse choosing matrix, channel-first.

    Attributes:
        row, col: int64 [E], places of the entries, ascending in `col`.
        value: float32 [E], 1 or -1.
        offset: float32 [N], zeros in the original's.
        inducer_shape, induced_shape: per-image [H, W, C].
    """

    row: np.ndarray
    col: np.ndarray
    value: np.ndarray
    offset: np.ndarray
    inducer_shape: tuple[int, ...]
    induced_shape: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """(inducer neurons, induced neurons)."""
        return math.prod(self.inducer_shape), math.prod(self.induced_shape)

    def dense(self) -> np.ndarray:
        """The matrix as float32 [rows, columns]; for small ones."""
        matrix = np.zeros(self.shape, np.float32)
        matrix[self.row, self.col] = self.value
        return matrix


def to_matrices(assignment: Assignment) -> dict[str, ChoosingMatrix]:
    """{"inducer->induced": matrix} of an assignment."""
    return {
        f"{group.inducer}->{name}": _to_matrix(group, name, codes)
        for group in assignment.groups
        for name, codes in group.codes.items()
    }


def _to_matrix(group: GroupAssignment, name: str, codes: np.ndarray) -> ChoosingMatrix:
    shape, count = group.shapes[name], len(group.prototypes)
    # Codes by channel-first column.
    ordered = codes[to_channel_last(np.arange(len(codes)), shape)]
    columns = np.flatnonzero(ordered < 2 * count)
    chosen = ordered[columns]
    rows = to_channel_first(group.prototypes[chosen % count], group.shape) if count else columns
    complement = (ordered >= count) & (ordered < 2 * count)
    offset = (complement | (ordered == 2 * count)).astype(np.float32)
    value = np.where(chosen < count, 1.0, -1.0).astype(np.float32)
    return ChoosingMatrix(rows, columns.astype(np.int64), value, offset, group.shape, shape)


def from_matrices(matrices: Mapping[str, ChoosingMatrix]) -> Assignment:
    """The assignment behind choosing matrices, prototypes in ascending order of their places.

    Raises:
        UserError: a name that is not "inducer->induced", or a matrix that is no choice (see `ChoosingMatrix`).
    """
    by_inducer: dict[str, dict[str, ChoosingMatrix]] = {}
    for pair, matrix in matrices.items():
        inducer, arrow, name = pair.partition("->")
        if not arrow or not inducer or not name:
            raise UserError(f"A choosing matrix must be called 'inducer->induced', received {pair!r}.")
        _check(pair, matrix)
        by_inducer.setdefault(inducer, {})[name] = matrix
    return Assignment(tuple(_from_group(inducer, part) for inducer, part in by_inducer.items()))


def _check(pair: str, matrix: ChoosingMatrix) -> None:
    rows, columns = matrix.shape
    lengths = {len(matrix.row), len(matrix.col), len(matrix.value)}
    ordered = bool(np.all(np.diff(matrix.col) > 0))
    inside = not len(matrix.row) or (
        0 <= matrix.row.min() <= matrix.row.max() < rows and 0 <= matrix.col.min() <= matrix.col.max() < columns
    )
    if len(lengths) != 1 or not ordered or not inside or matrix.offset.shape != (columns,):
        raise UserError(
            f"The choosing matrix {pair!r} must have at most one entry per column, within {rows} x {columns}."
        )
    wanted = np.full(columns, -1.0)
    wanted[matrix.col] = (1 - matrix.value) / 2
    free = wanted < 0
    valid = np.isin(matrix.value, (1.0, -1.0)).all() and np.isin(matrix.offset[free], (0.0, 1.0)).all()
    if not valid or not np.array_equal(matrix.offset[~free], wanted[~free]):
        raise UserError(f"The choosing matrix {pair!r} is no choice: entries are 1, or -1 with an offset of 1.")


def _from_group(inducer: str, matrices: Mapping[str, ChoosingMatrix]) -> GroupAssignment:
    shapes = {matrix.inducer_shape for matrix in matrices.values()}
    if len(shapes) > 1:
        raise UserError(f"The choosing matrices of {inducer!r} give it different shapes: {sorted(shapes)}.")
    (shape,) = shapes
    places = {name: to_channel_last(matrix.row, shape) for name, matrix in matrices.items()}
    prototypes = np.unique(np.concatenate(list(places.values())))
    codes = {name: _codes(matrix, places[name], prototypes) for name, matrix in matrices.items()}
    return GroupAssignment(inducer, shape, prototypes, codes, {n: m.induced_shape for n, m in matrices.items()})


def _codes(matrix: ChoosingMatrix, places: np.ndarray, prototypes: np.ndarray) -> np.ndarray:
    count = len(prototypes)
    ordered = np.where(matrix.offset > 0, 2 * count, 2 * count + 1)
    ordered[matrix.col] = np.searchsorted(prototypes, places) + np.where(matrix.value > 0, 0, count)
    return ordered[to_channel_first(np.arange(len(ordered)), matrix.induced_shape)].astype(np.int32)


def write_matrices(path: str | os.PathLike, matrices: Mapping[str, ChoosingMatrix]) -> None:
    """Write choosing matrices as .npz, atomically."""
    arrays: dict[str, np.ndarray] = {"pairs": np.array(list(matrices))}
    for number, matrix in enumerate(matrices.values()):
        arrays |= {f"{number}/{key}": getattr(matrix, key) for key in ("row", "col", "value")}
        for key in ("shape", "inducer_shape", "induced_shape"):
            arrays[f"{number}/{key}"] = np.array(getattr(matrix, key), np.int64)
        if matrix.offset.any():
            arrays[f"{number}/offset"] = matrix.offset
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]


def read_matrices(path: str | os.PathLike) -> dict[str, ChoosingMatrix]:
    """The matrices in a file of `write_matrices`.

    Raises:
        UserError: no such file, or it is damaged.
    """
    file = existing_file(path, "file of choosing matrices")
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {str(pair): _read(archive, number) for number, pair in enumerate(archive["pairs"])}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"The choosing matrices {str(path)!r} cannot be read: {error}.") from error


def _read(archive: Any, number: int) -> ChoosingMatrix:
    shapes = [tuple(int(n) for n in archive[f"{number}/{key}"]) for key in ("inducer_shape", "induced_shape")]
    offset = (
        archive[f"{number}/offset"] if f"{number}/offset" in archive.files else np.zeros(math.prod(shapes[1]), "f4")
    )
    row, col, value = (archive[f"{number}/{key}"] for key in ("row", "col", "value"))
    return ChoosingMatrix(row, col, value, offset, shapes[0], shapes[1])
