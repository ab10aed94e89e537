"""Measures of which images lie close to which: representational similarity analysis and mutual nearest neighbours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.spatial.distance
import scipy.stats

from keras_relu.errors import UserError, unknown_key
from keras_relu.similarity.arrays import DegenerateError, flat_pair

__all__ = ["MOST_RSA_IMAGES", "mutual_nearest_neighbours", "rsa"]

# All pairs of this many images are 12.5 million distances per side.
MOST_RSA_IMAGES = 5000

_BLOCK = 512


def rsa(x: Any, y: Any, *, distance: str = "correlation", comparison: str = "spearman") -> float:
    """Correlation of the distances between all pairs of images in X with those in Y, in [-1, 1].

    Kriegeskorte et al. (2008). Invariant to rotations and isotropic scaling with `distance="euclidean"`.

    Args:
        distance: "correlation" (1 - Pearson between two images), "cosine" or "euclidean".
        comparison: "spearman" or "pearson".

    Raises:
        UserError: unknown words; more than 5,000 images, whose pairs would not fit into memory.
        DegenerateError: fewer than three images; distances that are all equal, as in a dead layer.
    """
    x, y = flat_pair(x, y, least=3)
    if comparison not in _COMPARISONS:
        raise unknown_key("comparison", comparison, _COMPARISONS)
    if len(x) > MOST_RSA_IMAGES:
        raise UserError(f"RSA was given {len(x)} images; it holds all pairs, so at most {MOST_RSA_IMAGES} are allowed.")
    distances = [_pairwise(side, distance, name) for side, name in ((x, "X"), (y, "Y"))]
    return float(_COMPARISONS[comparison](*distances).statistic)


_COMPARISONS: dict[str, Callable[..., Any]] = {"pearson": scipy.stats.pearsonr, "spearman": scipy.stats.spearmanr}
_DISTANCES = ("correlation", "cosine", "euclidean")


def _pairwise(rows: np.ndarray, distance: str, name: str) -> np.ndarray:
    if distance not in _DISTANCES:
        raise unknown_key("distance", distance, _DISTANCES)
    if distance != "euclidean":
        rows = rows - rows.mean(axis=1, keepdims=True) if distance == "correlation" else rows
        if not np.linalg.norm(rows, axis=1).all():
            raise DegenerateError(
                f"{name} has an image whose features are all equal, which has no {distance} distance."
            )
    distances = scipy.spatial.distance.pdist(rows, "euclidean" if distance == "euclidean" else "cosine")
    if np.ptp(distances) <= 1e-12 * max(1.0, float(np.abs(distances).max())):
        raise DegenerateError(f"{name} is dead for RSA: all pairs of images are equally far apart.")
    return distances


def mutual_nearest_neighbours(x: Any, y: Any, *, neighbours: int = 10) -> float:
    """Mean share of the k nearest neighbours (Euclidean) of an image in X that are also among those in Y, in [0, 1].

    About k / (N - 1) for independent representations (Huh et al., 2024, arXiv 2405.07987, mutual k-NN).

    Args:
        neighbours: k.

    Raises:
        UserError: k below 1.
        DegenerateError: no more images than neighbours; a dead layer, in which all images are equally near.
    """
    if neighbours < 1:
        raise UserError(f"neighbours is {neighbours}; allowed is 1 or more.")
    x, y = flat_pair(x, y, least=neighbours + 2)
    for name, side in (("X", x), ("Y", y)):
        if not np.ptp(side, axis=0).any():
            raise DegenerateError(f"{name} is dead: every feature of it is the same for all images.")
    shared = [
        len(np.intersect1d(a, b, assume_unique=True))
        for start in range(0, len(x), _BLOCK)
        for a, b in zip(_nearest(x, start, neighbours), _nearest(y, start, neighbours), strict=True)
    ]
    return float(np.mean(shared) / neighbours)


def _nearest(rows: np.ndarray, start: int, neighbours: int) -> np.ndarray:
    """[block, k]: the nearest rows of rows[start : start + block], themselves left out.

    Squared distances are taken without the length of the block's own row, which does not change its order.
    """
    block = rows[start : start + _BLOCK]
    distances = np.square(rows).sum(axis=1) - 2.0 * (block @ rows.T)
    distances[np.arange(len(distances)), start + np.arange(len(distances))] = np.inf
    return np.argpartition(distances, neighbours - 1, axis=1)[:, :neighbours]
