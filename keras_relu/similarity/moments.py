"""Second moments of two representations, gathered batch by batch: all that linear measures and least squares need.

Memory is (Dx + Dy)^2 whatever the number of samples. Batches are merged by Chan, Golub and LeVeque's update of centred
moments (1979), in float64, so that a large mean costs no digits.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from typing_extensions import Self

from keras_relu.errors import UserError
from keras_relu.similarity.arrays import DegenerateError

__all__ = ["Moments", "correlations"]

# Rows converted to float64 at a time.
_ROWS = 65_536
# Deviations of a constant from its computed mean, relative to that mean, stay below this.
_ROUNDING = 1e-13


class Moments:
    """Counts, means and centred second moments of paired samples x [Dx], y [Dy].

    Attributes:
        count: number of samples.
        mean_x, mean_y: [Dx], [Dy].
        xx, xy, yy: sums of products of deviations from the means, [Dx, Dx], [Dx, Dy], [Dy, Dy].
    """

    def __init__(self, dx: int, dy: int) -> None:
        self.count = 0
        self.mean_x, self.mean_y = np.zeros(dx), np.zeros(dy)
        self.xx, self.xy, self.yy = np.zeros((dx, dx)), np.zeros((dx, dy)), np.zeros((dy, dy))

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray) -> Self:
        """Moments of x [n, Dx] and y [n, Dy]."""
        moments = cls(x.shape[1], y.shape[1])
        moments.update(x, y)
        return moments

    @classmethod
    def merged(cls, parts: Iterable[Moments]) -> Self:
        """All parts together; a part that comes twice counts twice, which is how a bootstrap resamples."""
        parts = list(parts)
        result = cls(len(parts[0].mean_x), len(parts[0].mean_y))
        for part in parts:
            result.merge(part)
        return result

    def update(self, x: np.ndarray, y: np.ndarray) -> None:
        """Add the rows of x [n, Dx] and y [n, Dy].

        Raises:
            UserError: shapes that do not fit.
            DegenerateError: a value is NaN or infinite.
        """
        if len(x) != len(y) or x.shape[1:] != self.mean_x.shape or y.shape[1:] != self.mean_y.shape:
            raise UserError(
                f"Batches of shape {list(x.shape)} and {list(y.shape)} do not fit moments of {len(self.mean_x)} and "
                f"{len(self.mean_y)} features; both need one row per sample."
            )
        for start in range(0, len(x), _ROWS):
            self.merge(_of_batch(x[start : start + _ROWS], y[start : start + _ROWS]))

    def merge(self, other: Moments) -> None:
        """Add the samples of `other`."""
        if not other.count:
            return
        total = self.count + other.count
        dx, dy = other.mean_x - self.mean_x, other.mean_y - self.mean_y
        weight = self.count * other.count / total
        self.xx += other.xx + weight * np.outer(dx, dx)
        self.xy += other.xy + weight * np.outer(dx, dy)
        self.yy += other.yy + weight * np.outer(dy, dy)
        self.mean_x = self.mean_x + dx * (other.count / total)
        self.mean_y = self.mean_y + dy * (other.count / total)
        self.count = total

    def select(self, x: slice, y: slice) -> Moments:
        """The moments of some features of X and of Y."""
        part = Moments(0, 0)
        part.count, part.mean_x, part.mean_y = self.count, self.mean_x[x], self.mean_y[y]
        part.xx, part.xy, part.yy = self.xx[x, x], self.xy[x, y], self.yy[y, y]
        return part

    def alive(self) -> Self:
        """Itself, after checking that both sides vary.

        Raises:
            DegenerateError: fewer than two samples, or one side is constant: a dead layer.
        """
        if self.count < 2:
            raise DegenerateError(f"{self.count} sample(s) are too few for this measure; at least 2 are needed.")
        for name, square, mean in (("X", self.xx, self.mean_x), ("Y", self.yy, self.mean_y)):
            if not np.trace(square) > self.count * np.sum(np.square(_ROUNDING * mean)):
                raise DegenerateError(f"{name} is dead: every feature of it is the same for all samples.")
        return self

    def mean_square_difference(self) -> float:
        """Mean over samples and features of (x - y)^2.

        Raises:
            UserError: unequal numbers of features.
        """
        if self.mean_x.shape != self.mean_y.shape:
            raise UserError(
                f"X has {len(self.mean_x)} features, Y has {len(self.mean_y)}; l2 needs equally many on both sides."
            )
        spread = np.trace(self.xx) + np.trace(self.yy) - 2.0 * np.trace(self.xy)
        square = max(spread, 0.0) / self.count + np.sum(np.square(self.mean_x - self.mean_y))
        return float(square / len(self.mean_x))


def _of_batch(x: np.ndarray, y: np.ndarray) -> Moments:
    batch = Moments(x.shape[1], y.shape[1])
    x, y = x.astype(np.float64), y.astype(np.float64)
    batch.count, batch.mean_x, batch.mean_y = len(x), x.mean(axis=0), y.mean(axis=0)
    if not (np.isfinite(batch.mean_x).all() and np.isfinite(batch.mean_y).all()):
        raise DegenerateError("A representation has values that are NaN or infinite; no similarity is defined on them.")
    x -= batch.mean_x
    y -= batch.mean_y
    batch.xx, batch.xy, batch.yy = x.T @ x, x.T @ y, y.T @ y
    return batch


def correlations(moments: Moments) -> np.ndarray:
    """Pearson correlations [Dy, Dx]: row o has feature o of Y against all features of X; 0 where one is constant."""
    scale_x = _inverse_deviations(moments.xx, moments.mean_x, moments.count)
    scale_y = _inverse_deviations(moments.yy, moments.mean_y, moments.count)
    return np.clip(scale_y[:, None] * moments.xy.T * scale_x[None, :], -1.0, 1.0)


def _inverse_deviations(square: np.ndarray, mean: np.ndarray, count: int) -> np.ndarray:
    variances = np.diag(square)
    live = variances > count * np.square(_ROUNDING * mean)
    return np.where(live, 1.0 / np.sqrt(np.where(live, variances, 1.0)), 0.0)
