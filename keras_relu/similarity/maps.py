"""Affine maps from X to Y in closed form, from second moments: least squares, rotations, reduced rank.

Weights are [out, in], as matrices that act on columns: y = W x + b. Moments come from a stream of batches
(`Moments.update`), so that 50,000 images of a 30x30 layer need no more memory than one batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from keras_relu.errors import UserError
from keras_relu.similarity.moments import Moments

__all__ = ["AffineMap", "least_squares", "orthogonal_map", "reduced_rank_map"]

# Share of the largest eigenvalue of the correlations of X below which a direction counts as absent.
_ABSENT = 1e-14


@dataclass(frozen=True)
class AffineMap:
    """y = W x + b.

    Attributes:
        weight: [out, in].
        bias: [out].
    """

    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """x [..., in] to [..., out]."""
        return x @ self.weight.T + self.bias


def least_squares(moments: Moments, *, ridge: float = 0.0) -> AffineMap:
    """The map that minimises |W x + b - y|^2 over the samples.

    Solved on centred data with features scaled to unit variance, which near-collinear channels need. A direction in
    which X does not vary gets no weight.

    Args:
        ridge: adds ridge * (mean variance of X's features) * |W|_F^2 per sample; 0 is plain least squares, the
            pseudo-inverse of Csiszarik et al. (2021, arXiv 2110.14633).

    Raises:
        UserError: a negative ridge.
        DegenerateError: a dead layer, or fewer than two samples.
    """
    if not ridge >= 0:
        raise UserError(f"ridge is {ridge}; allowed is 0 or more.")
    moments.alive()
    penalised = moments.xx + ridge * np.trace(moments.xx) / len(moments.xx) * np.eye(len(moments.xx))
    return _with_bias(_solve(penalised, moments.xy).T, moments)


def orthogonal_map(moments: Moments, *, centred: bool = True) -> AffineMap:
    """The rotation (with reflection) that brings X closest to Y, without scaling: W = V U^T with X^T Y = U S V^T.

    For unequal numbers of features, W has orthonormal rows or columns.

    Args:
        centred: False leaves means in and has no bias, as the original's `ls_orth`.
    """
    cross = moments.xy if centred else _raw(moments)[1]
    left, _, right = np.linalg.svd(cross, full_matrices=False)
    weight = (left @ right).T
    return _with_bias(weight, moments) if centred else AffineMap(weight, np.zeros(len(weight)))


def reduced_rank_map(moments: Moments, rank: int, *, bias: bool = True) -> AffineMap:
    """The least-squares map among those of rank at most `rank` (reduced-rank regression, Izenman 1975).

    Args:
        bias: False forces b = 0 on uncentred data, as the original's `ls_sum`.

    Raises:
        UserError: a rank below 1 or above that of the full map.
        DegenerateError: a dead layer.
    """
    most = min(moments.xy.shape)
    if not 1 <= rank <= most:
        raise UserError(f"rank is {rank}; allowed is 1 to {most}, the smaller number of features.")
    square, cross = (moments.alive().xx, moments.xy) if bias else _raw(moments)
    full = _solve(square, cross)
    _, vectors = scipy.linalg.eigh(full.T @ square @ full)
    leading = vectors[:, ::-1][:, :rank]
    weight = (full @ leading @ leading.T).T
    return _with_bias(weight, moments) if bias else AffineMap(weight, np.zeros(len(weight)))


def _with_bias(weight: np.ndarray, moments: Moments) -> AffineMap:
    return AffineMap(weight, moments.mean_y - weight @ moments.mean_x)


def _raw(moments: Moments) -> tuple[np.ndarray, np.ndarray]:
    """X^T X and X^T Y with the means left in."""
    n, x, y = moments.count, moments.mean_x, moments.mean_y
    return moments.xx + n * np.outer(x, x), moments.xy + n * np.outer(x, y)


def _solve(square: np.ndarray, cross: np.ndarray) -> np.ndarray:
    """pinv(square) cross for a positive semidefinite matrix, on features scaled to unit variance."""
    variances = np.diag(square)
    scale = np.where(variances > 0, 1.0 / np.sqrt(np.where(variances > 0, variances, 1.0)), 0.0)
    values, vectors = scipy.linalg.eigh(scale[:, None] * square * scale)
    kept = values > _ABSENT * len(values) * values[-1]
    vectors = vectors[:, kept]
    return scale[:, None] * (vectors @ ((vectors.T @ (scale[:, None] * cross)) / values[kept, None]))
