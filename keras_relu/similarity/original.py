"""The measures of "Similarity and Matching of Neural Network Representations" as its code computes them.

They are kept by name so that published numbers can be reproduced. Differences to the measures of this package:
nothing is centred, and `cca_original` becomes exactly 1 as soon as there are no more images than features.

Csiszarik et al. (2021, arXiv 2110.14633).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_relu.errors import UserError
from keras_relu.similarity.arrays import DegenerateError, flat_pair

__all__ = ["cca_original", "lr_original", "r2_original", "sq_sum_original"]


def cca_original(x: Any, y: Any) -> float:
    """||Qy^T Qx||_F^2 / (columns of Qx), with orthonormal bases of the uncentred columns."""
    x, y = flat_pair(x, y)
    base_x, base_y = np.linalg.qr(x)[0], np.linalg.qr(y)[0]
    return float(np.sum(np.square(base_y.T @ base_x)) / base_x.shape[1])


def lr_original(x: Any, y: Any) -> float:
    """||Qy^T X||_F^2 / ||X||_F^2: share of X that a linear map without bias predicts from Y.

    Raises:
        DegenerateError: X is zero everywhere.
    """
    x, y = flat_pair(x, y)
    if not x.any():
        raise DegenerateError("X is dead: it is zero everywhere.")
    return float(np.sum(np.square(np.linalg.qr(y)[0].T @ x)) / np.sum(np.square(x)))


def r2_original(x: Any, y: Any) -> float:
    """Mean over features of R^2 when Y itself is taken as the prediction of X; below 0 when it is worse than the mean.

    Raises:
        UserError: shapes that differ.
        DegenerateError: a feature of X is constant.
    """
    x, y = _equal_shapes(x, y)
    spread = np.sum(np.square(x - x.mean(axis=0)), axis=0)
    if not spread.all():
        raise DegenerateError(f"{int(np.sum(spread == 0))} feature(s) of X are constant; their R^2 is not defined.")
    return float(np.mean(1.0 - np.sum(np.square(x - y), axis=0) / spread))


def sq_sum_original(x: Any, y: Any) -> float:
    """Sum of all squared differences.

    Raises:
        UserError: shapes that differ.
    """
    x, y = _equal_shapes(x, y)
    return float(np.sum(np.square(x - y)))


def _equal_shapes(x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    x, y = flat_pair(x, y)
    if x.shape != y.shape:
        raise UserError(f"X is {list(x.shape)}, Y is {list(y.shape)}; this measure needs equal shapes.")
    return x, y
