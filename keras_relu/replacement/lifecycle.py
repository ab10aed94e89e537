"""Wrap, freeze, strip: the life of a gated model (`fit` happens between the first two).

>>> gated = replace_relus(model, gate="hysteresis", replacement="quadratic")
>>> freeze(gated, budget=18_841)
>>> plain = strip(gated)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tf_keras as keras

from keras_relu import surgery
from keras_relu.activations import MaskedReLU
from keras_relu.errors import UserError
from keras_relu.replacement import ranking

__all__ = ["freeze", "gated_layers", "kept_count", "masks", "replace_relus", "set_masks", "set_site_masks", "strip"]


def replace_relus(
    model: keras.Model,
    *,
    gate: str | Mapping[str, Any] = "hysteresis",
    replacement: str | Mapping[str, Any] = "quadratic",
    surrogate: str = "true",
    granularity: str = "element",
    seed: int = 0,
    site_replacements: Mapping[str, str] | None = None,
    **options: Any,
) -> keras.Model:
    """A copy of `model` whose every ReLU site is a `MaskedReLU`; until masks change it computes what `model` computes.

    Args:
        model: any functional tf_keras model; its weights are copied, it is not changed.
        gate: `threshold`, `hysteresis`, or a config of one (`{"name": "hysteresis", "tau": 0.003}`).
        replacement: `identity`, `line`, `quadratic`, `scaled_quadratic`, `moment_line`, `moment_quadratic`, or a config.
        surrogate: gradient of the replaced branch, `true` or `relu` (the ReLU's own).
        granularity: one gate per `element`, `channel` or `layer`.
        seed: seed of random initial scores.
        site_replacements: replacement by site name, for those that differ from `replacement`.
        options: further arguments of `MaskedReLU`.

    Raises:
        UserError: the model has no ReLU site or cannot be edited; an unknown name.
    """

    def make(site: surgery.Site) -> MaskedReLU:
        limit: dict[str, Any] = {} if site.max_value is None else {"max_value": site.max_value}
        return MaskedReLU(
            gate=gate,
            replacement=(site_replacements or {}).get(site.name, replacement),
            surrogate=surrogate,
            granularity=granularity,
            **limit,
            seed=seed,
            name=site.name,
            **options,
        )

    if not surgery.find_sites(model):
        raise UserError(f"Model {model.name!r} has no ReLU to replace.")
    return surgery.replace_sites(model, make)


def gated_layers(model: keras.Model) -> list[MaskedReLU]:
    """The gated sites of `model` in the order of the graph.

    Raises:
        UserError: there are none.
    """
    layers = [layer for layer in surgery.iter_layers(model) if isinstance(layer, MaskedReLU)]
    if not layers:
        raise UserError(f"Model {model.name!r} has no gated activation; call replace_relus first.")
    return layers


def masks(model: keras.Model) -> dict[str, np.ndarray]:
    """The masks by site, uint8 of the site's per-image shape, whatever the granularity; 1 = ReLU kept."""
    return {layer.name: np.ascontiguousarray(layer.full_mask()).astype(np.uint8) for layer in gated_layers(model)}


def kept_count(model: keras.Model) -> int:
    """ReLU elements kept per image, counted from the masks as they are."""
    return sum(layer.relu_count() for layer in gated_layers(model))


def set_masks(model: keras.Model, keep: int, *, margin: float = 0.0) -> None:
    """Keep the `keep` best scores of the whole network; see `ranking.top_masks`."""
    layers = gated_layers(model)
    chosen = ranking.top_masks(
        [layer.score.numpy() for layer in layers],
        keep,
        elements_per_score=[elements_per_score(layer) for layer in layers],
        previous=[layer.mask.numpy() for layer in layers] if margin else None,
        margin=margin,
    )
    for layer, mask in zip(layers, chosen, strict=True):
        layer.mask.assign(mask)


def set_site_masks(model: keras.Model, keep: Mapping[str, int], *, margin: float = 0.0) -> None:
    """Keep the best scores of each site for itself: `keep[name]` of them, all of a site that is not named."""
    for layer in gated_layers(model):
        (mask,) = ranking.top_masks(
            [layer.score.numpy()],
            keep.get(layer.name, layer.full_mask().size),
            previous=[layer.mask.numpy()] if margin else None,
            margin=margin,
        )
        layer.mask.assign(mask)


def elements_per_score(layer: MaskedReLU) -> int:
    """ReLU elements that one score of `layer` decides."""
    return layer.full_mask().size // int(np.prod(layer.score.shape))


def freeze(model: keras.Model, budget: int) -> int:
    """Trim the masks to `budget`, which ends the search.

    ReLUs that are replaced already stay replaced; of those kept, the lowest scores go until the budget is met.

    Returns:
        The number of ReLUs kept, counted from the masks: `budget` itself for element gates when that many were kept before,
        never more.

    Raises:
        UserError: the budget is out of range or a score is not finite.
    """
    layers = gated_layers(model)
    ranking.check_budget(budget, sum(layer.full_mask().size for layer in layers))
    if kept_count(model) > budget:
        chosen = ranking.top_masks(
            _kept_first([layer.score.numpy() for layer in layers], [layer.mask.numpy() for layer in layers]),
            budget,
            elements_per_score=[elements_per_score(layer) for layer in layers],
        )
        for layer, mask in zip(layers, chosen, strict=True):
            layer.mask.assign(mask * layer.mask.numpy())
    return kept_count(model)


def _kept_first(scores: list[np.ndarray], masks: list[np.ndarray]) -> list[np.ndarray]:
    """Scores in float64, with those of replaced elements below every other."""
    lowest = min(float(np.min(score)) for score in scores) - 1.0
    return [np.where(mask > 0.5, score.astype(np.float64), lowest) for score, mask in zip(scores, masks, strict=True)]


def strip(model: keras.Model) -> keras.Model:
    """A copy of a gated model that holds plain layers and constants only: nothing of the search is left.

    A site that keeps all its ReLUs becomes a ReLU layer, one that keeps none and is the identity a linear one, every other a
    `FixedActivation` with its mask and coefficients as constants. Outputs are those of the gated model at inference.
    """
    gated_layers(model)
    plain = surgery.replace_layers(model, lambda layer: layer.to_fixed() if isinstance(layer, MaskedReLU) else None)
    for layer in surgery.iter_layers(plain):
        layer.trainable = True
    return plain
