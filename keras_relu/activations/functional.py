"""The gated activation as a pure function with a gradient of its own; usable without Keras."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_relu.activations import _kernels
from keras_relu.errors import UserError, unknown_key

__all__ = ["SURROGATES", "masked_relu"]

SURROGATES = ("true", "relu")


@dataclasses.dataclass(frozen=True)
class _Rule:
    """The options of one call."""

    surrogate: str
    gradient_fraction: float
    max_value: float | None


def masked_relu(
    x: tf.Tensor,
    score: tf.Tensor,
    mask: tf.Tensor,
    coefficients: tf.Tensor | None = None,
    *,
    surrogate: str = "true",
    gradient_fraction: float = 1.0,
    max_value: float | None = None,
) -> tf.Tensor:
    """y = M relu(x) + (1 - M) g(x), selected element by element, with g(x) = w[0] + w[1] x + w[2] x^2 per channel.

    Gradients, for the upstream gradient dy:

    - x: dy (M 1[x > 0] + (1 - M) g'(x)); with `surrogate="relu"` dy 1[x > 0] everywhere, ReLU's own gradient.
    - score: softplus(score) * sum over the batch (and over what the mask shares) of dy (relu(x) - g(x)): a
      straight-through estimator, for kept and replaced elements alike.
    - coefficients: dw[k] = sum over batch and positions of dy (1 - M) x^k, exact.
    - mask: none.

    Cost: the forward pass reads and writes x one to five times (identity to quadratic) against once for ReLU. Gradients
    that nobody asks for are pruned from a graph and cost nothing.

    Args:
        x: [B, ..., C], float32, float16 or bfloat16. Sums for the score and the coefficients are made in float32.
        score: x.shape[1:], or with ones where values are shared, as in [1, 1, C] or [1, 1, 1]; float32.
        mask: the shape of `score`; above 0 = ReLU kept.
        coefficients: [degree + 1, C] for degree 1 or 2, lowest first; None = the identity.
        surrogate: "true" or "relu", see above.
        gradient_fraction: in (0, 1]; the part of the batch (its first images) that the coefficient gradient is summed
            over and scaled up from.
        max_value: where the kept ReLUs are cut off, 6.0 for ReLU6; None = nowhere. g is never cut off.

    Raises:
        UserError: an unknown surrogate, or coefficients of another shape.

    Source: AutoReP (Peng et al., ICCV 2023), arXiv:2308.10134, in its sum form.
    """
    if surrogate not in SURROGATES:
        raise unknown_key("surrogate", surrogate, SURROGATES)
    rule = _Rule(surrogate, gradient_fraction, max_value)
    if coefficients is None:
        return _gated_identity(x, score, mask, rule)
    if coefficients.shape[0] not in (2, 3) or coefficients.shape[-1] != x.shape[-1]:
        raise UserError(
            f"Coefficients must be [degree + 1, {x.shape[-1]}] for degree 1 or 2, received shape {coefficients.shape}."
        )
    return _gated_polynomial(x, score, mask, coefficients, rule)


def _gated_identity(x: tf.Tensor, score: tf.Tensor, mask: tf.Tensor, rule: _Rule) -> tf.Tensor:
    @tf.custom_gradient
    def gated(x: tf.Tensor, score: tf.Tensor) -> tuple[tf.Tensor, Any]:
        maps = _kernels.make_maps(mask, None, x.shape[-1], x.dtype, max_value=rule.max_value)
        rows = tf.reshape(x, [-1, maps.lower.shape[0]])
        value = _kernels.forward(rows, maps)

        @_after_upstream
        def gradients(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            upstream = tf.reshape(upstream, tf.shape(rows))
            dx = _input_gradient(upstream, rows, value, maps, rule)
            # x - relu(x), without a difference of infinities
            removed = tf.minimum(rows, tf.zeros([], rows.dtype))
            if rule.max_value is not None:
                removed += tf.nn.relu(rows - tf.constant(rule.max_value, rows.dtype))
            dscore = _score_gradient(score, -_kernels.product_sum(upstream, removed), x.shape[-1])
            return tf.reshape(dx, tf.shape(x)), dscore

        return tf.reshape(value, tf.shape(x)), gradients

    return gated(x, score)


def _gated_polynomial(
    x: tf.Tensor, score: tf.Tensor, mask: tf.Tensor, coefficients: tf.Tensor, rule: _Rule
) -> tf.Tensor:
    @tf.custom_gradient
    def gated(x: tf.Tensor, score: tf.Tensor, coefficients: tf.Tensor) -> tuple[tf.Tensor, Any]:
        channels, degree = x.shape[-1], coefficients.shape[0] - 1
        maps = _kernels.make_maps(mask, coefficients, channels, x.dtype, max_value=rule.max_value)
        rows = tf.reshape(x, [-1, maps.lower.shape[0]])
        value = _kernels.forward(rows, maps)

        @_after_upstream
        def gradients(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            upstream = tf.reshape(upstream, tf.shape(rows))
            dx = _input_gradient(upstream, rows, value, maps, rule)
            sums = _kernels.batch_sums(upstream, rows, degree)
            tiled = tf.tile(tf.cast(coefficients, tf.float32), [1, maps.lower.shape[0] // channels])
            dmask = _kernels.product_sum(upstream, _kernels.relu(rows, rule.max_value))
            dmask -= tf.reduce_sum(tiled * tf.stack(sums), axis=0)
            if rule.gradient_fraction < 1.0:
                sums = _kernels.batch_sums(upstream, rows, degree, rule.gradient_fraction)
            replaced = tf.reshape(tf.where(maps.kept, 0.0, tf.stack(sums)), [degree + 1, -1, channels])
            dcoefficients = tf.cast(tf.reduce_sum(replaced, axis=1), coefficients.dtype)
            return tf.reshape(dx, tf.shape(x)), _score_gradient(score, dmask, channels), dcoefficients

        return tf.reshape(value, tf.shape(x)), gradients

    return gated(x, score, coefficients)


def _after_upstream(gradients: Callable[[tf.Tensor], Any]) -> Callable[[tf.Tensor], Any]:
    """`gradients` whose operations all wait for the upstream gradient.

    A graph would otherwise run those that need nothing but x and y during the forward pass and hold their results, each
    as large as x, until the backward pass.
    """

    def waiting(upstream: tf.Tensor) -> Any:
        with tf.control_dependencies([upstream]):
            return gradients(upstream)

    return waiting


def _input_gradient(
    upstream: tf.Tensor, rows: tf.Tensor, value: tf.Tensor, maps: _kernels.Maps, rule: _Rule
) -> tf.Tensor:
    if rule.surrogate == "relu":
        return _kernels.relu_gradient(upstream, rows, rule.max_value)
    return _kernels.slope(upstream, rows, value, maps)


def _score_gradient(score: tf.Tensor, sums: tf.Tensor, channels: int) -> tf.Tensor:
    """softplus(score) times `sums` [P], reduced to the shape of `score`."""
    if score.shape[-1] != channels:
        sums = tf.reduce_sum(tf.reshape(sums, [-1, channels]), axis=-1)
    return tf.math.softplus(score) * tf.cast(tf.reshape(sums, score.shape), score.dtype)
