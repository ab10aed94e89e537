"""Class-specific gates (CSG): reading the gate matrix of a trained model, and the filters it gives each class.

CSG trains a gate for every class and filter; the filters of a class are those with the *largest* gates. The published
comparison with CSG took the k *smallest* instead (an ascending sort, first k), which reverses its conclusions. Both
orders are here: `published` and `corrected`.

Source: Liang et al., "Training Interpretable Convolutional Neural Networks by Differentiating Class-specific Filters"
(ECCV 2020, arXiv 2007.08194); specification `decomposition`, sections 6 and 7.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from keras_relu.decomposition.selection import checked_sizes, top_scores
from keras_relu.decomposition.tables import FilterTable
from keras_relu.errors import UserError, unknown_key
from keras_relu.files import existing_file

__all__ = ["GATES_FILE", "ORDERS", "gate_statistics", "gate_table", "read_gates"]

GATES_FILE = "gates.npz"

ORDERS = {
    "published": "the k smallest gates, as in the published comparison",
    "corrected": "the k largest gates, as the method means it",
}


def read_gates(path: str | os.PathLike) -> np.ndarray:
    """The gate matrix [classes, filters] in a PyTorch checkpoint (extra: torch) or in a run of `train-csg`.

    Raises:
        UserError: nothing there, damaged, or no gate matrix named `csg` in it; torch is not installed.
    """
    path = existing_file(path, "checkpoint")
    gates = _from_run(path) if path.is_dir() else _from_torch(path)
    if gates is None:
        raise UserError(f"{str(path)!r} holds no gate matrix named 'csg' [classes, filters].")
    if gates.ndim != 2 or not np.isfinite(gates).all():
        raise UserError(
            f"The gates in {str(path)!r} must be finite numbers [classes, filters], received {list(gates.shape)}."
        )
    return gates


def _from_run(path: Path) -> np.ndarray | None:
    file = path / GATES_FILE
    if not file.exists():
        return None
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return arrays.get("csg")
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"The gates {str(file)!r} are damaged: {error}.") from error


def _from_torch(path: Path) -> np.ndarray | None:
    from keras_relu.models.torch_weights import read_tensors

    return read_tensors(path).get("csg")


def gate_table(gates: np.ndarray, size: float, order: str = "corrected") -> FilterTable:
    """The k filters of each class by their gates, ties to the smaller index.

    Args:
        gates: [C, D].
        size: k, a whole number.
        order: key of `ORDERS`; the most extreme gate comes first in either.

    Raises:
        UserError: an unknown order or a k out of range.
    """
    if order not in ORDERS:
        raise unknown_key("order", order, ORDERS)
    (count,) = checked_sizes([size], gates.shape[1])
    if not isinstance(count, int):
        raise UserError(f"Gates are ranked for a whole number of filters, received {size}.")
    rows = top_scores(gates if order == "corrected" else -gates, count)
    scores = np.take_along_axis(gates, rows, axis=1)
    return FilterTable(
        rows.tolist(),
        {
            "filters": gates.shape[1],
            "classes": gates.shape[0],
            "rule": f"csg-{order}",
            "layer": None,
            "dataset": None,
            "top_k": count,
            "distinct_filters": len(np.unique(rows)),
            "score": "gate",
            "scores": np.round(scores.astype(float), 6).tolist(),
        },
    )


def gate_statistics(gates: np.ndarray) -> dict[str, Any]:
    """What the gate matrix looks like: extremes, mean, row maxima, gates above one half and exact zeros."""
    return {
        "classes": gates.shape[0],
        "filters": gates.shape[1],
        "minimum": float(gates.min()),
        "maximum": float(gates.max()),
        "mean": float(gates.mean()),
        "row_maxima": gates.max(axis=1).astype(float).tolist(),
        "above_half_per_row": (gates > 0.5).sum(axis=1).tolist(),
        "zeros": int((gates == 0).sum()),
    }
