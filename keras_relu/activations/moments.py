"""Closed-form least-squares fits of ReLU under a normal pre-activation distribution."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

__all__ = ["line_fit", "quadratic_fit"]


def line_fit(mean: Any, variance: Any) -> tf.Tensor:
    """The best line for relu(x) in the mean square, x ~ N(mean, variance), per channel.

    With t = mean / sigma, sigma = sqrt(variance): w1 = Phi(t), w0 = sigma phi(t).

    Args:
        mean: shape [C] (or any shape; the result gains a leading axis).
        variance: the same shape, positive. The variance, not the standard deviation.

    Returns:
        Coefficients [2, C], lowest degree first, in the dtype of `mean` (float32 for Python numbers).

    Source: first two terms of the Hermite expansion of relu; the coefficients are moments of its derivatives (Stein).
    """
    mean, sigma = _moments(mean, variance)
    density, probability = _normal(mean / sigma)
    return tf.stack([sigma * density, probability])


def quadratic_fit(mean: Any, variance: Any) -> tf.Tensor:
    """The best quadratic for relu(x) in the mean square, x ~ N(mean, variance), per channel.

    With t = mean / sigma: w2 = phi(t) / (2 sigma), w1 = Phi(t) - t phi(t), w0 = sigma phi(t) (1 + t^2) / 2.

    Args:
        mean: shape [C] (or any shape; the result gains a leading axis).
        variance: the same shape, positive. The variance, not the standard deviation.

    Returns:
        Coefficients [3, C], lowest degree first, in the dtype of `mean` (float32 for Python numbers).

    Source: first three terms of the Hermite expansion of relu; the coefficients are moments of its derivatives (Stein).
    """
    mean, sigma = _moments(mean, variance)
    t = mean / sigma
    density, probability = _normal(t)
    return tf.stack([0.5 * sigma * density * (1.0 + t * t), probability - t * density, 0.5 * density / sigma])


def _moments(mean: Any, variance: Any) -> tuple[tf.Tensor, tf.Tensor]:
    mean = tf.convert_to_tensor(mean)
    return mean, tf.sqrt(tf.convert_to_tensor(variance, mean.dtype))


def _normal(t: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Density and distribution function of the standard normal at `t`."""
    density = tf.exp(-0.5 * t * t) / math.sqrt(2.0 * math.pi)
    return density, 0.5 * tf.math.erfc(-t / math.sqrt(2.0))
