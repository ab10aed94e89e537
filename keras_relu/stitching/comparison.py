"""The result of comparing two networks: one matrix per measure, with errors, null baselines and reasons for empty cells."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_relu.similarity import get_measure

__all__ = ["Comparison", "Parting", "Table"]

# A smaller fall is that of a network compared with itself.
_ROUNDING = 1e-9


@dataclass
class Table:
    """One measure on all pairs of layers, [LA, LB] each; NaN marks a cell without a value and is never written.

    Attributes:
        values: the measure.
        error: standard error from the bootstrap over images, or None.
        null_mean, null_std: over random permutations of the images of one side, or None.
        reasons: why a cell has no value, by (row, column); the same reason for many cells is common.
        images: images that were used.
    """

    values: np.ndarray
    error: np.ndarray | None = None
    null_mean: np.ndarray | None = None
    null_std: np.ndarray | None = None
    reasons: dict[tuple[int, int], str] = field(default_factory=dict)
    images: int = 0


@dataclass(frozen=True)
class Parting:
    """Where a network leaves another: the largest fall of a measure from one matched layer to the next.

    Attributes:
        layer: the layer after the fall; `before`: the one before it.
        high, low: the measure there.
        sentence: the same in words.
    """

    before: str
    layer: str
    high: float
    low: float
    sentence: str


@dataclass
class Comparison:
    """Two networks, layer by layer.

    Attributes:
        layers_a, layers_b: rows and columns of the tables.
        matched: pairs (row, column) that correspond to each other.
        tables: by measure.
        names: what the two networks are called.
    """

    layers_a: list[str]
    layers_b: list[str]
    matched: list[tuple[int, int]]
    tables: dict[str, Table]
    names: tuple[str, str] = ("a", "b")

    def rows(self) -> Iterator[dict[str, Any]]:
        """One row per matched pair and measure, in plain values."""
        for i, j in self.matched:
            for name, table in self.tables.items():
                yield {
                    "layer_a": self.layers_a[i],
                    "layer_b": self.layers_b[j],
                    "measure": name,
                    "value": _plain(table.values, i, j),
                    "error": _plain(table.error, i, j),
                    "null_mean": _plain(table.null_mean, i, j),
                    "null_std": _plain(table.null_std, i, j),
                    "images": table.images,
                    "reason": table.reasons.get((i, j)),
                }

    def parting(self, measure: str = "cka") -> Parting | None:
        """Where `measure` falls most between neighbouring matched layers; None with fewer than two values."""
        table = self.tables[measure]
        found = [(self.layers_a[i], table.values[i, j]) for i, j in self.matched if np.isfinite(table.values[i, j])]
        if len(found) < 2:
            return None
        best = get_measure(measure).best
        falls = [abs(b[1] - best) - abs(a[1] - best) for a, b in itertools.pairwise(found)]
        at = int(np.argmax(falls))
        (before, high), (layer, low) = found[at], found[at + 1]
        if falls[at] <= _ROUNDING:
            text = f"{measure} never falls along the network; its value at the end is {found[-1][1]:.3f}."
        else:
            text = f"The networks part at {layer!r}: {measure} goes from {high:.3f} at {before!r} to {low:.3f}."
        return Parting(before, layer, float(high), float(low), text)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; cells without a value are None."""
        tables = {
            name: {
                "values": _nested(table.values),
                "error": _nested(table.error),
                "null_mean": _nested(table.null_mean),
                "null_std": _nested(table.null_std),
                "images": table.images,
                "reasons": [
                    {"layer_a": self.layers_a[i], "layer_b": self.layers_b[j], "reason": reason}
                    for (i, j), reason in table.reasons.items()
                ],
            }
            for name, table in self.tables.items()
        }
        parts = {name: part for name in self.tables if (part := self.parting(name))}
        return {
            "a": self.names[0],
            "b": self.names[1],
            "layers_a": self.layers_a,
            "layers_b": self.layers_b,
            "matched": [[self.layers_a[i], self.layers_b[j]] for i, j in self.matched],
            "tables": tables,
            "parting": {name: vars(part) for name, part in parts.items()},
        }


def _plain(array: np.ndarray | None, i: int, j: int) -> float | None:
    return None if array is None or not np.isfinite(array[i, j]) else float(array[i, j])


def _nested(array: np.ndarray | None) -> list[list[float | None]] | None:
    if array is None:
        return None
    return [[_plain(array, i, j) for j in range(array.shape[1])] for i in range(array.shape[0])]
