"""Gates: the rule that turns trained scores into a binary mask (1 = ReLU kept)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import tensorflow as tf

from keras_relu.activations import _configs
from keras_relu.errors import UserError

__all__ = ["Gate", "Hysteresis", "Threshold", "get"]


class Gate:
    """Base of the gates: frozen dataclasses whose fields are their whole configuration."""

    name: ClassVar[str]

    def update(self, score: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """The next mask: float zeros and ones with the shape and dtype of `mask`. Pure."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """`name` and every option; `get` turns it back into an equal gate."""
        return _configs.to_config(self)


@dataclasses.dataclass(frozen=True)
class Threshold(Gate):
    """mask = 1[score > 0]; a score of exactly 0 is replaced. The previous mask plays no part."""

    name: ClassVar[str] = "threshold"

    def update(self, score: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """See the class; `score` and `mask` have one shape."""
        return tf.cast(score > 0, mask.dtype)


@dataclasses.dataclass(frozen=True)
class Hysteresis(Gate):
    """A kept ReLU goes when its score falls to -tau or below; a removed one returns above +tau.

    mask <- mask 1[score > -tau] + (1 - mask) 1[score > tau], both comparisons strict: the loop is 2 tau wide.

    Source: the "relay" gate of AutoReP (Peng et al., ICCV 2023), arXiv:2308.10134.

    Raises:
        UserError: tau is negative.
    """

    name: ClassVar[str] = "hysteresis"
    tau: float = 0.003

    def __post_init__(self) -> None:
        if not self.tau >= 0:
            raise UserError(f"The gate's tau must be a number of at least 0, received {self.tau!r}.")

    def update(self, score: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """See the class; `score` and `mask` have one shape."""
        keep = tf.where(mask > 0, score > -self.tau, score > self.tau)
        return tf.cast(keep, mask.dtype)


_GATES: dict[str, type[Gate]] = {gate.name: gate for gate in (Hysteresis, Threshold)}


def get(gate: str | Mapping[str, Any] | Gate) -> Gate:
    """A gate from its name, its configuration or itself.

    Raises:
        UserError: an unknown name or option, or another type.
    """
    return _configs.from_any("gate", gate, _GATES, Gate)
