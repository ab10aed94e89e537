"""The gated activation one element at a time, in float64: slow and obvious."""

import math
from typing import NamedTuple

import numpy as np


class Gated(NamedTuple):
    """Output and gradients; `score` has one value per element of an image, before values are shared."""

    y: np.ndarray
    x: np.ndarray
    score: np.ndarray
    coefficients: np.ndarray


def softplus(value):
    return math.log1p(math.exp(-abs(value))) + max(value, 0.0)


def gated(x, score, mask, coefficients, upstream, surrogate="true", max_value=np.inf):
    """x, upstream: [B, ..., C]; score, mask: [..., C]; coefficients: [degree + 1, C], lowest degree first."""
    x, upstream, coefficients = (np.asarray(a, np.float64) for a in (x, upstream, coefficients))
    y, dx = np.zeros_like(x), np.zeros_like(x)
    dscore, dcoefficients = np.zeros(x.shape[1:]), np.zeros_like(coefficients)
    for index in np.ndindex(*x.shape):
        element, channel = index[1:], index[-1]
        value, dy = x[index], upstream[index]
        relu, relu_slope = min(max(value, 0.0), max_value), 0 < value < max_value
        weights = coefficients[:, channel]
        g = sum(w * value**power for power, w in enumerate(weights))
        slope = sum(power * w * value ** (power - 1) for power, w in enumerate(weights) if power)
        if mask[element]:
            y[index], dx[index] = relu, dy * relu_slope
        else:
            y[index] = g
            dx[index] = dy * (relu_slope if surrogate == "relu" else slope)
            dcoefficients[:, channel] += [dy * value**power for power in range(len(weights))]
        dscore[element] += softplus(score[element]) * dy * (relu - g)
    return Gated(y, dx, dscore, dcoefficients)


def hysteresis(score, mask, tau):
    """The next mask, one element at a time."""
    result = np.zeros_like(mask)
    for index in np.ndindex(*mask.shape):
        result[index] = score[index] > (-tau if mask[index] else tau)
    return result
