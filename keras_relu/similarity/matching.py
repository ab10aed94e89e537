"""Which channel corresponds to which: correlations, semi-matching and the optimal one-to-one matching."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.optimize

from keras_relu.errors import UserError, unknown_key
from keras_relu.similarity.arrays import channel_pair
from keras_relu.similarity.moments import Moments, correlations

__all__ = ["MATCHINGS", "correlation_match", "correlation_match_of", "correlation_matrix", "match", "optimal", "semi"]


def correlation_matrix(x: Any, y: Any) -> np.ndarray:
    """Pearson correlations between channels over all images and pixels, [channels of Y, channels of X].

    A constant channel correlates 0 with everything.

    Raises:
        UserError: other images or pixels in `y` than in `x`.
        DegenerateError: a dead layer.
    """
    return correlations(Moments.of(*channel_pair(x, y)).alive())


def correlation_match(x: Any, y: Any, *, matching: str = "semi", absolute: bool = False) -> float:
    """Mean correlation of every channel of Y with the channel of X it is matched to, in [-1, 1].

    Args:
        matching: "semi" gives each channel of Y its best channel of X, which may serve several; "optimal" gives every
            channel one partner of its own (Li et al., 2015, arXiv 1511.07543).
        absolute: match, and average, absolute correlations.

    Raises:
        UserError: an unknown matching; shapes that do not fit.
        DegenerateError: a dead layer.
    """
    return correlation_match_of(Moments.of(*channel_pair(x, y)), matching=matching, absolute=absolute)


def correlation_match_of(moments: Moments, *, matching: str = "semi", absolute: bool = False) -> float:
    """`correlation_match` from moments."""
    table = correlations(moments.alive())
    table = np.abs(table) if absolute else table
    chosen = match(table, matching)
    rows = np.flatnonzero(chosen >= 0)
    return float(np.mean(table[rows, chosen[rows]]))


def semi(table: np.ndarray) -> np.ndarray:
    """For each row of a score table [out, in] the column with the largest score (the first of equals)."""
    return np.argmax(table, axis=1)


def optimal(table: np.ndarray) -> np.ndarray:
    """For each row of a score table [out, in] its column in the one-to-one matching with the largest sum.

    Rows without a partner, when there are fewer columns, get -1. Hungarian method (SciPy's `linear_sum_assignment`).
    """
    chosen = np.full(len(table), -1)
    rows, columns = scipy.optimize.linear_sum_assignment(table, maximize=True)
    chosen[rows] = columns
    return chosen


MATCHINGS = {"semi": semi, "optimal": optimal}


def match(table: np.ndarray, matching: str) -> np.ndarray:
    """The columns that `matching` (a key of MATCHINGS) gives to the rows of a score table.

    Raises:
        UserError: an unknown matching, or a table that is not two-dimensional.
    """
    if matching not in MATCHINGS:
        raise unknown_key("matching", matching, MATCHINGS)
    if np.ndim(table) != 2:
        raise UserError(f"A score table has two axes, received shape {list(np.shape(table))}.")
    return MATCHINGS[matching](np.asarray(table))
