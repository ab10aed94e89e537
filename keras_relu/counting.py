"""What a network computes, counted from its graph: ReLUs, comparisons, polynomials, multiply-accumulates, parameters.

All numbers are per image and read off static shapes; nothing is run. Layers of this package state their own facts by a
method `site_facts() -> dict` (relu_count, comparison_count, polynomial_count, multiplications, multiplicative_depth);
`layer_facts` has the tables for the layers of tf_keras. What is not in them leads to a note, never to a silent zero. A layer
that is called twice counts twice; models inside models are counted at each call.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import tf_keras as keras

from keras_relu import layer_facts
from keras_relu.errors import unknown_key
from keras_relu.surgery import require_functional

__all__ = ["CONVENTIONS", "Counts", "SiteCount", "count"]

CONVENTIONS = {
    "relu": (
        "Every ReLU element of the network, the stem's included; a ReLU6 is one ReLU of two comparisons; max-pooling "
        "is left out. The usual count of papers: ResNet-18 at 32x32 has 557,056."
    ),
    "snl": (
        "As 'relu', without the ReLU behind the stem (sites whose name starts with 'stem'), as in SNL and the work "
        "that compares with it: ResNet-18 at 32x32 has 491,520."
    ),
    "comparisons": (
        "Every comparison (DReLU) a private-inference protocol has to evaluate: as 'relu', and max-pooling of k "
        "elements adds k-1 comparisons per output."
    ),
}


@dataclass(frozen=True)
class SiteCount:
    """One activation or pooling, per image.

    Attributes:
        name: the name `surgery.find_sites` gives it.
        layer_type: class of the layer.
        shape: (H, W, C) or (F,).
        relu_count: elements that go through a ReLU.
        comparison_count: comparisons evaluated.
        polynomial_count: elements that go through a polynomial instead.
        multiplications: multiplications of two unknown values in those, or of a value and a borrowed bit.
        multiplicative_depth: of the polynomial.
    """

    name: str
    layer_type: str
    shape: tuple[int, ...]
    relu_count: int = 0
    comparison_count: int = 0
    polynomial_count: int = 0
    multiplications: int = 0
    multiplicative_depth: int = 0


@dataclass(frozen=True)
class Counts:
    """The counts of a network, per image.

    Attributes:
        sites: in the order in which the graph computes them.
        relu_count, comparison_count: sums over the sites.
        macs: multiply-accumulates of convolutions and dense layers.
        parameters: values in variables that were made to be trained, as papers and PyTorch count them: running
            statistics and masks are state. Scores and coefficients of a network under search belong to it until it is
            stripped.
        state_parameters: the values in all other variables; both together are Keras' `count_params()`.
        trainable_parameters: those of `parameters` that no `trainable=False` has frozen.
        convention: key of CONVENTIONS.
        notes: what was left out or not understood, one sentence each.
        ternary_additions: additions of ternary convolutions if no weight of theirs is zero; none of `macs`.
    """

    sites: list[SiteCount]
    relu_count: int
    comparison_count: int
    macs: int
    parameters: int
    state_parameters: int
    trainable_parameters: int
    convention: str
    notes: list[str] = field(default_factory=list)
    ternary_additions: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with the description of the convention."""
        values = asdict(self)
        values["sites"] = [{**site, "shape": list(site["shape"])} for site in values["sites"]]
        return {**values, "convention_description": CONVENTIONS[self.convention]}


def count(model: keras.Model, *, convention: str = "relu") -> Counts:
    """Count a functional or built Sequential tf_keras model.

    Args:
        model: any such model; own, of keras.applications, with masks in it or not.
        convention: key of CONVENTIONS; says which sites belong to the totals.

    Raises:
        UserError: unknown convention; a Keras 3, subclassed or unbuilt model; a size in it that is only known at run
            time.
    """
    if convention not in CONVENTIONS:
        raise unknown_key("counting convention", convention, CONVENTIONS)
    tally = _Tally()
    _visit_model(require_functional(model), "", tally)
    sites, notes = _select(tally, convention)
    return Counts(
        sites=sites,
        relu_count=sum(site.relu_count for site in sites),
        comparison_count=sum(site.comparison_count for site in sites),
        macs=tally.macs,
        parameters=layer_facts.size_of(v for v in model.weights if v.trainable),
        state_parameters=layer_facts.size_of(v for v in model.weights if not v.trainable),
        trainable_parameters=layer_facts.size_of(model.trainable_weights),
        convention=convention,
        notes=notes,
        ternary_additions=tally.ternary_additions,
    )


@dataclass
class _Tally:
    sites: list[SiteCount] = field(default_factory=list)
    pools: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    macs: int = 0
    ternary_additions: int = 0


def _select(tally: _Tally, convention: str) -> tuple[list[SiteCount], list[str]]:
    """The sites that belong to a convention, and the notes with what it leaves out."""
    notes = list(dict.fromkeys(tally.notes))
    if convention == "comparisons":
        return tally.sites, notes
    sites = [site for site in tally.sites if site.name not in tally.pools]
    pooled = sum(site.comparison_count for site in tally.sites) - sum(site.comparison_count for site in sites)
    if pooled:
        notes.append(f"Max-pooling adds {pooled:,} comparisons, which the convention {convention!r} leaves out.")
    if convention == "relu":
        return sites, notes
    kept = [site for site in sites if not site.name.startswith("stem")]
    if len(kept) == len(sites):
        notes.append("No site is named 'stem...', so the convention 'snl' leaves out nothing.")
    return kept, notes


def _visit_model(model: keras.Model, prefix: str, tally: _Tally) -> None:
    calls: dict[int, int] = {}
    for node in layer_facts.nodes_in_order(model):
        layer = node.layer
        call = calls[id(layer)] = calls.get(id(layer), 0) + 1
        suffix = "" if call == 1 else f"_call{call}"
        if isinstance(layer, keras.Model):
            _visit_model(require_functional(layer), f"{prefix}{layer.name}{suffix}_", tally)
        else:
            _visit_layer(node, prefix, suffix, tally)


def _visit_layer(node: Any, prefix: str, suffix: str, tally: _Tally) -> None:
    layer = node.layer
    products = layer_facts.products_of(node)
    tally.macs += products.macs
    tally.ternary_additions += products.ternary_additions
    if products.note:
        tally.notes.append(products.note)
    if hasattr(layer, "site_facts"):
        facts = layer.site_facts()
        tally.sites.append(
            SiteCount(
                layer_facts.call_name(layer, "", prefix, suffix),
                type(layer).__name__,
                layer_facts.output_shape(node),
                **facts,
            )
        )
        return
    pool = layer_facts.pool_comparisons(node)
    kind = layer_facts.kind_of_layer(layer) if pool is None else layer_facts.ActivationKind(comparisons=pool)
    if kind.note:
        tally.notes.append(f"Layer {layer.name!r} ({type(layer).__name__}): {kind.note}")
    if not kind.comparisons:
        return
    elements = layer_facts.elements(node)
    site = SiteCount(
        layer_facts.call_name(layer, _part_name(layer, kind), prefix, suffix),
        type(layer).__name__,
        layer_facts.output_shape(node),
        relu_count=elements if kind.relu else 0,
        comparison_count=elements * kind.comparisons,
    )
    tally.sites.append(site)
    if pool is not None:
        tally.pools.add(site.name)


def _part_name(layer: keras.layers.Layer, kind: layer_facts.ActivationKind) -> str:
    """What follows the name of a layer that does more than activate."""
    if isinstance(layer, keras.layers.Activation) or not getattr(layer, "activation", None):
        return ""
    return "_relu" if kind.relu else "_activation"
