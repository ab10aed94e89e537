"""Which layers of two networks are compared: patterns of names to lists of layers, and the pairs that belong together."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

import tf_keras as keras

from keras_relu import splitting, surgery
from keras_relu.errors import UserError, unknown_key
from keras_relu.layers.padding import EdgePadding2D

__all__ = ["LayerChoice", "choose_layers"]

# They move or drop values, so that what they return is no representation of its own.
_STRUCTURE = (
    keras.layers.InputLayer,
    keras.layers.Flatten,
    keras.layers.Permute,
    keras.layers.Reshape,
    keras.layers.Dropout,
    keras.layers.ZeroPadding2D,
    EdgePadding2D,
)


@dataclass(frozen=True)
class LayerChoice:
    """Names of the layers of both networks, and the pairs (index in a, index in b) that correspond to each other."""

    a: list[str]
    b: list[str]
    matched: list[tuple[int, int]]


def choose_layers(a: keras.Model, b: keras.Model, patterns: Sequence[str]) -> LayerChoice:
    """The layers that `patterns` ask for, in the order of computation.

    Args:
        a, b: unpacked models (`splitting.unpack`).
        patterns: "all", "cuts" (valid cuts), "sites" (ReLUs, and the logits), a shell pattern such as `bn*`, a layer's name
            or its original's, or `x:y` for layer x of `a` with layer y of `b`. Several are united; `x:y` stands alone.

    Layers of the same name are matched; `x:y` match by their order.

    Raises:
        UserError: no pattern, a pattern that fits no layer of either network, `x:y` mixed with others.
    """
    if not patterns:
        raise UserError(
            "No layers were asked for; allowed are all, cuts, sites, names, patterns such as 'bn*', and x:y."
        )
    paired = [pattern.split(":", 1) for pattern in patterns if ":" in pattern]
    if paired:
        if len(paired) < len(patterns):
            raise UserError("Pairs such as bn3:bn4 cannot be mixed with other patterns.")
        left, right = zip(*paired, strict=True)
        found_a, found_b = [_one(a, name) for name in left], [_one(b, name) for name in right]
        names_a, names_b = list(dict.fromkeys(found_a)), list(dict.fromkeys(found_b))
        matched = [(names_a.index(x), names_b.index(y)) for x, y in zip(found_a, found_b, strict=True)]
        return LayerChoice(names_a, names_b, matched)
    _refuse_unmatched(a, b, patterns)
    sites = {site.name for model in (a, b) for site in surgery.find_sites(model)}
    chosen = [_matching(model, patterns, sites) for model in (a, b)]
    for model, names in zip((a, b), chosen, strict=True):
        if not names:
            raise unknown_key(f"layer of {model.name!r}", ", ".join(patterns), [layer.name for layer in model.layers])
    matched = [(i, chosen[1].index(name)) for i, name in enumerate(chosen[0]) if name in chosen[1]]
    return LayerChoice(chosen[0], chosen[1], matched)


def _matching(model: keras.Model, patterns: Sequence[str], sites: set[str]) -> list[str]:
    comparable = _comparable(model)
    wanted: set[str] = set()
    for pattern in patterns:
        if pattern == "all":
            wanted |= set(comparable)
        elif pattern == "cuts":
            wanted |= {cut.name for cut in splitting.cuts(model) if cut.valid}
        elif pattern == "sites":
            wanted |= {*sites, model.output_names[0]}
        elif _is_pattern(pattern):
            wanted |= set(_fitting(comparable, pattern))
        else:
            wanted.add(_one(model, pattern))
    return [name for name in comparable if name in wanted]


def _is_pattern(text: str) -> bool:
    return any(mark in text for mark in "*?[")


def _fitting(names: Sequence[str], pattern: str) -> list[str]:
    """Those that fit by their own name or by their original's."""
    return [
        name
        for name in names
        if any(fnmatch.fnmatchcase(known, pattern) for known in (name, splitting.original_name(name)) if known)
    ]


def _refuse_unmatched(a: keras.Model, b: keras.Model, patterns: Sequence[str]) -> None:
    for pattern in filter(_is_pattern, patterns):
        if not any(_fitting(_comparable(model), pattern) for model in (a, b)):
            raise unknown_key(f"layer of {a.name!r} and {b.name!r}", pattern, _comparable(a))


def _comparable(model: keras.Model) -> list[str]:
    """Layers with one output of known shape [H, W, C] or [F], applied once."""
    structure = {layer.name for layer in model.layers if isinstance(layer, _STRUCTURE)}
    places = [cut for cut in splitting.cuts(model) if cut.name not in structure]
    return [p.name for p in places if len(p.shape) in (1, 3) and None not in p.shape and "applied" not in p.reason]


def _one(model: keras.Model, name: str) -> str:
    found = splitting.resolve_layer(model, name)
    if found not in _comparable(model):
        raise UserError(
            f"Layer {name!r} of {model.name!r} cannot be compared: it only moves values, is applied several times, or its "
            "output is neither [H, W, C] nor [F] of known size."
        )
    return found
