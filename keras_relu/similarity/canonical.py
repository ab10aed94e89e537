"""The CCA family, linear regression and Procrustes, all from second moments.

Notation: X [N, Dx] and Y [N, Dy] with columns centred, X = Ux Sx Vx^T. Directions without variance are left out before
anything is inverted, so that a dead or repeated feature changes nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg

from keras_relu.errors import UserError
from keras_relu.similarity.arrays import DegenerateError, channel_pair, flat_pair
from keras_relu.similarity.moments import Moments

__all__ = [
    "canonical_correlations",
    "cca",
    "cca_of",
    "l2",
    "linear_regression",
    "linear_regression_of",
    "moments_of",
    "procrustes",
    "procrustes_of",
    "pwcca",
    "pwcca_of",
    "svcca",
    "svcca_of",
]

# Share of the largest variance below which a direction counts as absent; moments in float64 resolve about 1e-15.
_ABSENT = 1e-12


def moments_of(x: Any, y: Any, samples: str = "images") -> Moments:
    """The checked moments of two representations.

    Args:
        samples: "images" flattens each image to one row; "pixels" makes every pixel a row of C channels.

    Raises:
        UserError: another word than these two; shapes that do not fit.
        DegenerateError: a dead layer, or fewer than two samples.
    """
    if samples not in ("images", "pixels"):
        raise UserError(f"samples is {samples!r}; allowed are 'images' and 'pixels'.")
    return Moments.of(*(flat_pair(x, y) if samples == "images" else channel_pair(x, y))).alive()


def cca(x: Any, y: Any, *, samples: str = "images") -> float:
    """Mean squared canonical correlation, ||Uy^T Ux||_F^2 / min(rank X, rank Y), in [0, 1].

    Invariant to invertible linear maps of either side. R^2_CCA of Kornblith et al. (2019, arXiv 1905.00414).

    Raises:
        UserError: shapes that do not fit.
        DegenerateError: a dead layer; fewer than rank X + rank Y + 1 samples, where the value is high by construction.
    """
    return cca_of(moments_of(x, y, samples))


def svcca(x: Any, y: Any, *, variance: float = 0.99, samples: str = "images") -> float:
    """Mean canonical correlation of the leading principal directions that explain `variance` of each side, in [0, 1].

    Raghu et al. (2017, arXiv 1706.05806). Raises as `cca`, and UserError for a `variance` outside (0, 1].
    """
    return svcca_of(moments_of(x, y, samples), variance=variance)


def pwcca(x: Any, y: Any, *, samples: str = "images") -> float:
    """Canonical correlations weighted by how much of X each explains, in [0, 1]; not symmetric.

    sum_i a_i rho_i / sum_i a_i with a_i = sum_j |<h_i, x_j>|, h_i the canonical variables of X: Morcos et al. (2018,
    arXiv 1806.05759). Where canonical correlations coincide (two layers that are linear in the same few inputs have several
    of 1) the canonical variables, and with them this value, are determined up to a rotation only. Raises as `cca`.
    """
    return pwcca_of(moments_of(x, y, samples))


def linear_regression(x: Any, y: Any, *, samples: str = "images") -> float:
    """R^2 of the best affine map from X to Y, ||Ux^T Y||_F^2 / ||Y||_F^2, in [0, 1]; not symmetric.

    Raises:
        UserError: shapes that do not fit.
        DegenerateError: a dead layer; no more than rank X + 1 samples, where any Y is explained.
    """
    return linear_regression_of(moments_of(x, y, samples))


def procrustes(x: Any, y: Any, *, samples: str = "images") -> float:
    """||X^T Y||_* / (||X||_F ||Y||_F) in [0, 1]: 1 when a rotation, a shift and one factor take X to Y.

    Its arc cosine is the angular Procrustes distance, a metric (Williams et al., 2021, arXiv 2110.14739). Raises as
    `moments_of`.
    """
    return procrustes_of(moments_of(x, y, samples))


def l2(x: Any, y: Any) -> float:
    """Mean over all entries of (x - y)^2: a distance, 0 for equal representations.

    Raises:
        UserError: shapes that differ.
    """
    x, y = flat_pair(x, y, least=1)
    if x.shape != y.shape:
        raise UserError(f"X is {list(x.shape)}, Y is {list(y.shape)}; l2 needs equal shapes.")
    return float(np.mean(np.square(x - y)))


def cca_of(moments: Moments) -> float:
    """`cca` from moments."""
    return float(np.mean(np.square(canonical_correlations(moments))))


def svcca_of(moments: Moments, *, variance: float = 0.99) -> float:
    """`svcca` from moments."""
    if not 0 < variance <= 1:
        raise UserError(f"variance is {variance}; allowed is a fraction above 0 and up to 1.")
    return float(np.mean(canonical_correlations(moments, variance=variance)))


def pwcca_of(moments: Moments) -> float:
    """`pwcca` from moments."""
    white_x, white_y = _whiteners(moments, 1.0)
    left, correlations, _ = np.linalg.svd(white_x.T @ moments.xy @ white_y, full_matrices=False)
    # The canonical variables h = X white_x left have unit length; their products with the features of X are these.
    weights = np.abs(left.T @ white_x.T @ moments.xx).sum(axis=1)
    return float(np.clip(correlations, 0.0, 1.0) @ weights / weights.sum())


def linear_regression_of(moments: Moments) -> float:
    """`linear_regression` from moments."""
    white = _whitener(moments.alive().xx, 1.0)
    if white.shape[1] >= moments.count - 1:
        raise DegenerateError(
            f"{moments.count} samples are too few for a regression on {white.shape[1]} independent features: any Y is "
            f"explained. At least {white.shape[1] + 2} are needed; use more images, or channels instead of whole maps."
        )
    return float(min(1.0, np.sum(np.square(white.T @ moments.xy)) / np.trace(moments.yy)))


def procrustes_of(moments: Moments) -> float:
    """`procrustes` from moments."""
    moments.alive()
    nuclear = scipy.linalg.svdvals(moments.xy).sum()
    return float(min(1.0, nuclear / np.sqrt(np.trace(moments.xx) * np.trace(moments.yy))))


def canonical_correlations(moments: Moments, *, variance: float = 1.0) -> np.ndarray:
    """Canonical correlations in falling order, [min(rank X, rank Y)].

    Args:
        variance: keep only the leading principal directions that explain this share of each side.

    Raises:
        DegenerateError: a dead layer, or fewer than rank X + rank Y + 1 samples.
    """
    white_x, white_y = _whiteners(moments, variance)
    return np.clip(scipy.linalg.svdvals(white_x.T @ moments.xy @ white_y), 0.0, 1.0)


def _whiteners(moments: Moments, variance: float) -> tuple[np.ndarray, np.ndarray]:
    white_x, white_y = (_whitener(square, variance) for square in (moments.alive().xx, moments.yy))
    needed = white_x.shape[1] + white_y.shape[1] + 1
    if moments.count < needed:
        raise DegenerateError(
            f"{moments.count} samples are too few for canonical correlations of {white_x.shape[1]} and "
            f"{white_y.shape[1]} independent features: some are 1 by construction. At least {needed} are needed; use "
            "more images, or channels instead of whole maps."
        )
    return white_x, white_y


def _whitener(square: np.ndarray, variance: float) -> np.ndarray:
    """[D, r] with A^T square A = I, over the leading r directions."""
    values, vectors = scipy.linalg.eigh(square)
    values, vectors = values[::-1], vectors[:, ::-1]
    kept = values > _ABSENT * values[0]
    if variance < 1:
        explained = np.cumsum(values) / np.sum(values)
        kept &= np.arange(len(values)) <= np.searchsorted(explained, variance)
    return vectors[:, kept] / np.sqrt(values[kept])
