"""Replacements: the function g that an element computes once its ReLU is gone.

Every replacement is a polynomial of degree 1 or 2 with one coefficient row per degree, lowest first, and one column per
channel: g(x) = w[0] + w[1] x + w[2] x^2. The classes here say where the coefficients come from; they hold no state.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from keras_relu.activations import _configs, moments
from keras_relu.errors import UserError

__all__ = [
    "Identity",
    "Line",
    "MomentLine",
    "MomentQuadratic",
    "Quadratic",
    "Replacement",
    "ScaledQuadratic",
    "get",
]


# A channel that has seen nothing but zeros has no curvature to bound.
_LEAST_REACH = 1e-3


class Replacement:
    """Base of the replacements: frozen dataclasses whose fields are their whole configuration.

    `trainable` means that gradient descent owns the coefficients, `refreshed` that a fit to the moments owns them;
    `uses_moments` that the layer has to track the mean and variance of its input per channel, `uses_reach` the largest
    magnitude.
    """

    name: ClassVar[str]
    degree: ClassVar[int]
    is_identity: ClassVar[bool] = False
    trainable: ClassVar[bool] = False
    refreshed: ClassVar[bool] = False
    uses_moments: ClassVar[bool] = False
    uses_reach: ClassVar[bool] = False

    def initial(self, channels: int) -> np.ndarray:
        """Coefficients [degree + 1, channels] to start from: the identity, unless a class says otherwise."""
        start = np.zeros((self.degree + 1, channels), np.float32)
        start[1] = 1.0
        return start

    def effective(self, coefficients: tf.Tensor) -> tf.Tensor:
        """The coefficients of g from the stored ones, both [degree + 1, C]."""
        return coefficients

    def project(self, coefficients: tf.Tensor, reach: tf.Tensor | None) -> tf.Tensor:
        """The stored coefficients moved into their allowed set; unchanged where there is none."""
        del reach
        return coefficients

    def fit(self, mean: tf.Tensor, variance: tf.Tensor) -> tf.Tensor:
        """Coefficients [degree + 1, C] for moments [C]; only where `refreshed`."""
        raise NotImplementedError

    def refresh_due(self, step: int) -> bool:
        """Whether the coefficients are to be fitted again before training step `step`, counted from 0."""
        del step
        return False

    def get_config(self) -> dict[str, Any]:
        """`name` and every option; `get` turns it back into an equal replacement."""
        return _configs.to_config(self)


@dataclasses.dataclass(frozen=True)
class Identity(Replacement):
    """g(x) = x, no coefficients."""

    name: ClassVar[str] = "identity"
    degree: ClassVar[int] = 1
    is_identity: ClassVar[bool] = True


@dataclasses.dataclass(frozen=True)
class ScaledQuadratic(Replacement):
    """g(x) = s2 x^2 + s1 x + s0 with the same fixed numbers everywhere."""

    name: ClassVar[str] = "scaled_quadratic"
    degree: ClassVar[int] = 2
    s2: float = 0.1
    s1: float = 0.5
    s0: float = 0.0

    def initial(self, channels: int) -> np.ndarray:
        """Coefficients [3, channels]."""
        return np.repeat(np.array([[self.s0], [self.s1], [self.s2]], np.float32), channels, axis=1)


@dataclasses.dataclass(frozen=True)
class Line(Replacement):
    """g(x) = w1 x + w0 per channel, trained; starts as the identity."""

    name: ClassVar[str] = "line"
    degree: ClassVar[int] = 1
    trainable: ClassVar[bool] = True


@dataclasses.dataclass(frozen=True)
class Quadratic(Replacement):
    """g(x) = scale_x2 w2 x^2 + w1 x + w0 per channel, trained; starts as the identity, or as x + initial_x2 x^2.

    `scale_x2` only slows the learning of the x^2 term. `slope_bound` and `clip` act in `project`: with r the largest |x|
    that the channel has seen in training (a running maximum that forgets slowly and grows by a tenth a step at most), they
    keep |w1| <= slope_bound and |2 scale_x2 w2| r <= slope_bound - |w1|, and |scale_x2 w2| <= clip; None switches one off.
    The first bounds the slope of g over the whole range of its input, outliers included, so that quadratics cannot compound
    along a residual path: when activations grow, curvature shrinks.

    Source: AutoReP (Peng et al., ICCV 2023), arXiv:2308.10134; the projection is ours.

    Raises:
        UserError: scale_x2, slope_bound or clip is not positive.
    """

    name: ClassVar[str] = "quadratic"
    degree: ClassVar[int] = 2
    trainable: ClassVar[bool] = True
    uses_reach: ClassVar[bool] = True
    scale_x2: float = 1.0
    initial_x2: float = 0.0
    slope_bound: float | None = 2.0
    clip: float | None = None

    def __post_init__(self) -> None:
        for option in ("scale_x2", "slope_bound", "clip"):
            _require_positive(self, option)

    def initial(self, channels: int) -> np.ndarray:
        """Coefficients [3, channels]."""
        start = super().initial(channels)
        start[2] = self.initial_x2 / self.scale_x2
        return start

    def effective(self, coefficients: tf.Tensor) -> tf.Tensor:
        """The coefficients with the x^2 row times `scale_x2`."""
        return coefficients * tf.constant([[1.0], [1.0], [self.scale_x2]], coefficients.dtype)

    def project(self, coefficients: tf.Tensor, reach: tf.Tensor | None) -> tf.Tensor:
        """The stored coefficients within both bounds; `reach` is [C]."""
        return _bounded(coefficients, reach, slope_bound=self.slope_bound, clip=self.clip, scale_x2=self.scale_x2)


@dataclasses.dataclass(frozen=True)
class _Moment(Replacement):
    """What both moment fits share.

    `shrink` multiplies every coefficient but the slope (1 = the exact fit), `variance_floor` is the least variance the
    fit is given, and `refresh_period` is the number of training steps between two refreshes.

    Raises:
        UserError: an option is not positive.
    """

    refreshed: ClassVar[bool] = True
    uses_moments: ClassVar[bool] = True
    shrink: float = 1.0
    variance_floor: float = 1e-3
    refresh_period: int = 10

    def __post_init__(self) -> None:
        for option in ("shrink", "variance_floor", "refresh_period"):
            _require_positive(self, option)

    def initial(self, channels: int) -> np.ndarray:
        """The fit to mean 0 and variance 1, the moments a layer starts with: [degree + 1, channels]."""
        zeros = tf.zeros([channels])
        return self.fit(zeros, zeros + 1.0).numpy()

    def fit(self, mean: tf.Tensor, variance: tf.Tensor) -> tf.Tensor:
        """Coefficients [degree + 1, C] for the running `mean` and `variance`, both [C]."""
        closed_form = moments.line_fit if self.degree == 1 else moments.quadratic_fit
        rows = tf.unstack(closed_form(mean, tf.maximum(variance, self.variance_floor)))
        return tf.stack([row if power == 1 else row * self.shrink for power, row in enumerate(rows)])

    def refresh_due(self, step: int) -> bool:
        """Every `refresh_period` steps."""
        return step % self.refresh_period == 0


@dataclasses.dataclass(frozen=True)
class MomentLine(_Moment):
    """The best line for ReLU under N(running mean, running variance), per channel; see `moments.line_fit`."""

    name: ClassVar[str] = "moment_line"
    degree: ClassVar[int] = 1


@dataclasses.dataclass(frozen=True)
class MomentQuadratic(_Moment):
    """The best quadratic for ReLU under N(running mean, running variance), per channel; see `moments.quadratic_fit`.

    `clip` bounds |w2| after `shrink`, and `slope_bound` the slope over the range of inputs that the channel has seen, as
    for `Quadratic`: the exact fit is best for a Gaussian, but it compounds where quadratics follow each other along a
    residual path. None switches one off.
    """

    name: ClassVar[str] = "moment_quadratic"
    degree: ClassVar[int] = 2
    uses_reach: ClassVar[bool] = True
    clip: float | None = None
    slope_bound: float | None = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in ("clip", "slope_bound"):
            _require_positive(self, option)

    def project(self, coefficients: tf.Tensor, reach: tf.Tensor | None) -> tf.Tensor:
        """The fitted coefficients within both bounds; `reach` is [C]."""
        return _bounded(coefficients, reach, slope_bound=self.slope_bound, clip=self.clip)


def _bounded(
    coefficients: tf.Tensor,
    reach: tf.Tensor | None,
    *,
    slope_bound: float | None,
    clip: float | None,
    scale_x2: float = 1.0,
) -> tf.Tensor:
    constant, slope, curvature = tf.unstack(coefficients)
    if slope_bound is not None and reach is not None:
        slope = tf.clip_by_value(slope, -slope_bound, slope_bound)
        limit = (slope_bound - tf.abs(slope)) / (2.0 * scale_x2 * tf.maximum(reach, _LEAST_REACH))
        curvature = tf.clip_by_value(curvature, -limit, limit)
    if clip is not None:
        curvature = tf.clip_by_value(curvature, -clip / scale_x2, clip / scale_x2)
    return tf.stack([constant, slope, curvature])


def _require_positive(replacement: Replacement, option: str) -> None:
    value = getattr(replacement, option)
    if value is not None and not value > 0:
        raise UserError(f"The option {option!r} of {replacement.name!r} must be positive, received {value!r}.")


_REPLACEMENTS: dict[str, type[Replacement]] = {
    replacement.name: replacement
    for replacement in (Identity, Line, MomentLine, MomentQuadratic, Quadratic, ScaledQuadratic)
}


def get(replacement: str | Mapping[str, Any] | Replacement) -> Replacement:
    """A replacement from its name, its configuration or itself.

    Raises:
        UserError: an unknown name or option, or another type.
    """
    return _configs.from_any("replacement", replacement, _REPLACEMENTS, Replacement)
