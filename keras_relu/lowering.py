"""Savings that can be executed: a frozen mask as gather -> one contiguous ReLU -> scatter, everything affine folded away.

A mask that only selects between relu(x) and a replacement saves a private-inference runtime nothing, since it computes both
at every element. What is written here compares the kept elements and no other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import tf_keras as keras

from keras_relu import surgery
from keras_relu.activations import FixedActivation
from keras_relu.folding import fold_affine

__all__ = ["Lowering", "SiteLowering", "lower_masks"]


@dataclass(frozen=True)
class SiteLowering:
    """What became of one activation site that had been reduced.

    Attributes:
        name: of the site.
        elements: per image.
        relu_count: ReLUs kept per image.
        action: "lowered" (gather, ReLU, scatter), "replaced" (no comparison, its replacement stays), "folded" (no layer
            is left: the identity, or a line that the layer before took in) or "left" (compares every element as before).
        reason: why it was left, or empty.
    """

    name: str
    elements: int
    relu_count: int
    action: str
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Lowering:
    """The lowered `model` and what happened at each reduced site, in the order of the graph."""

    model: keras.Model
    sites: tuple[SiteLowering, ...]


def lower_masks(model: keras.Model, *, keep: Callable[[FixedActivation], str | None] | None = None) -> Lowering:
    """`model` so that it evaluates as many comparisons as its masks keep ReLUs.

    Every gated site is fixed as it stands. Then each site with a partial mask becomes a `LoweredActivation`; a site without
    ReLUs computes its replacement alone, and where that is a line behind a convolution nothing; batch normalisation goes
    into convolutions (`folding.fold_affine`). A layer takes part by its methods: `to_fixed()` for one with variables,
    `to_lowered()` for one whose executable form is another layer.

    Args:
        model: a reduced functional tf_keras model, gated or stripped; it is not changed.
        keep: asked about every site with a partial mask; a reason to leave it as it is, or None to lower it.

    Returns:
        The model, which computes what `model` computes at inference up to rounding, and what became of its sites.

    Raises:
        UserError: a model that cannot be edited, see `surgery.require_functional`.
    """
    fixed = surgery.replace_layers(surgery.require_functional(model), _fixed)
    before = [(layer, _facts(layer)) for layer in surgery.iter_layers(fixed) if _is_reduced(layer)]
    folded = fold_affine(fixed)
    reasons: dict[str, str] = {}

    def lower(layer: keras.layers.Layer) -> keras.layers.Layer | None:
        if not hasattr(layer, "to_lowered") or not _facts(layer)["relu_count"]:
            return None
        reason = keep(layer) if keep and isinstance(layer, FixedActivation) else None
        if reason:
            reasons[layer.name] = reason
            return None
        return layer.to_lowered()

    lowered = surgery.replace_layers(folded, lower)
    left = {layer.name: layer for layer in surgery.iter_layers(lowered)}
    sites = (_outcome(layer, facts, left.get(layer.name), reasons.get(layer.name, "")) for layer, facts in before)
    return Lowering(lowered, tuple(sites))


def _fixed(layer: keras.layers.Layer) -> keras.layers.Layer | None:
    return layer.to_fixed() if hasattr(layer, "to_fixed") else None


def _is_reduced(layer: keras.layers.Layer) -> bool:
    """A site that is not a plain ReLU any more: with a mask or polynomial, or the identity that a reduction left."""
    return hasattr(layer, "to_lowered") or (
        isinstance(layer, keras.layers.Activation) and layer.activation is keras.activations.linear
    )


def _facts(layer: keras.layers.Layer) -> dict[str, int]:
    return layer.site_facts() if hasattr(layer, "site_facts") else {"relu_count": 0}


def _outcome(
    layer: keras.layers.Layer, facts: dict[str, int], now: keras.layers.Layer | None, reason: str
) -> SiteLowering:
    if now is None:
        action = "folded"
    elif reason:
        action = "left"
    else:
        action = "lowered" if facts["relu_count"] else "replaced"
    return SiteLowering(layer.name, math.prod(layer.output_shape[1:]), facts["relu_count"], action, reason)
