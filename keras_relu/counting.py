"""What a network computes, counted from its graph: ReLUs, comparisons, polynomials, multiply-accumulates, parameters.

All numbers are per image and read off static shapes; nothing is run. Layers of this package state their own facts by a
method `site_facts() -> dict` (relu_count, comparison_count, polynomial_count, multiplications, multiplicative_depth);
for the layers of tf_keras there is a table. What is not in it leads to a note, never to a silent zero. A layer that is
called twice counts twice; models inside models are counted at each call.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import tensorflow as tf
import tf_keras as keras

from keras_relu.errors import UserError, unknown_key
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
        parameters=_size(v for v in model.weights if v.trainable),
        state_parameters=_size(v for v in model.weights if not v.trainable),
        trainable_parameters=_size(model.trainable_weights),
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
    for node in _nodes_in_order(model):
        layer = node.layer
        call = calls[id(layer)] = calls.get(id(layer), 0) + 1
        suffix = "" if call == 1 else f"_call{call}"
        if isinstance(layer, keras.Model):
            _visit_model(require_functional(layer), f"{prefix}{layer.name}{suffix}_", tally)
        else:
            _visit_layer(node, prefix, suffix, tally)


def _nodes_in_order(model: keras.Model) -> Iterator[Any]:
    for depth in sorted(model._nodes_by_depth, reverse=True):
        yield from (node for node in model._nodes_by_depth[depth] if not node.is_input)


def _visit_layer(node: Any, prefix: str, suffix: str, tally: _Tally) -> None:
    layer = node.layer
    tally.macs += _macs(node, tally)
    if hasattr(layer, "site_facts"):
        facts = layer.site_facts()
        tally.sites.append(SiteCount(_name(layer, "", prefix, suffix), type(layer).__name__, _shape(node), **facts))
        return
    pool = _pool_comparisons(node)
    kind = _kind_of_layer(layer) if pool is None else _Kind(comparisons=pool)
    if kind.note:
        tally.notes.append(f"Layer {layer.name!r} ({type(layer).__name__}): {kind.note}")
    if not kind.comparisons:
        return
    elements = _elements(node)
    site = SiteCount(
        _name(layer, _part_name(layer, kind), prefix, suffix),
        type(layer).__name__,
        _shape(node),
        relu_count=elements if kind.relu else 0,
        comparison_count=elements * kind.comparisons,
    )
    tally.sites.append(site)
    if pool is not None:
        tally.pools.add(site.name)


def _name(layer: keras.layers.Layer, part: str, prefix: str, suffix: str) -> str:
    name = layer.name.replace("/", "_").replace(".", "_") + part + suffix
    return name if name.startswith(prefix) else prefix + name


def _part_name(layer: keras.layers.Layer, kind: _Kind) -> str:
    """What follows the name of a layer that does more than activate."""
    if isinstance(layer, keras.layers.Activation) or not getattr(layer, "activation", None):
        return ""
    return "_relu" if kind.relu else "_activation"


def _shape(node: Any) -> tuple[int, ...]:
    """Per-image shape of the first output of a node; refuses sizes that are not known."""
    return _known(node.layer, tf.nest.flatten(node.outputs)[0].shape[1:])


def _known(layer: keras.layers.Layer, shape: Any) -> tuple[int, ...]:
    sizes = tuple(shape)
    if None in sizes:
        raise UserError(
            f"Layer {layer.name!r} has the size {list(sizes)}, which is only known at run time. Counting needs fixed "
            "sizes: build the model with an input_shape of fixed height and width."
        )
    return sizes


def _elements(node: Any) -> int:
    return math.prod(_shape(node))


def _size(variables: Any) -> int:
    return sum(math.prod(variable.shape) for variable in variables)


# --- comparisons of tf_keras layers ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Kind:
    """What an activation does to one element."""

    relu: bool = False
    comparisons: int = 0
    note: str = ""


_LINEAR = _Kind()
_RELU = _Kind(True, 1)
_RELU6 = _Kind(True, 2)
_LEAKY = _Kind(comparisons=1, note="one comparison per element is counted, but it is not a plain ReLU.")
_CLIPPED = _Kind(comparisons=2, note="two comparisons per element are counted, but it is not a plain ReLU.")
_UNKNOWN = _Kind(note="its function was not recognised; what it compares is not counted.")

_SMOOTH = ("elu", "exponential", "gelu", "mish", "selu", "sigmoid", "softmax", "softplus", "softsign", "swish", "tanh")
_FUNCTIONS = {
    keras.activations.linear: _LINEAR,
    tf.identity: _LINEAR,
    keras.activations.relu: _RELU,
    tf.nn.relu: _RELU,
    tf.nn.relu6: _RELU6,
    tf.nn.leaky_relu: _LEAKY,
    keras.activations.hard_sigmoid: _CLIPPED,
    **{getattr(keras.activations, name): _Kind(note=f"{name} is not counted.") for name in _SMOOTH},
}
# Operations on Keras tensors, by their symbol.
_OPERATIONS = {
    "nn.relu": _RELU,
    "nn.relu6": _RELU6,
    "nn.leaky_relu": _LEAKY,
    "math.maximum": _LEAKY,
    "math.minimum": _LEAKY,
    "clip_by_value": _CLIPPED,
}
_HARMLESS = frozenset(
    f"{module}{name}"
    for module, names in {
        "__operators__.": ("add", "getitem", "mul", "sub", "truediv"),
        "math.": ("add", "divide", "multiply", "reduce_mean", "reduce_sum", "square", "subtract"),
        "compat.v1.": ("shape", "transpose"),
        "nn.": ("bias_add",),
        "": (
            "cast",
            "concat",
            "expand_dims",
            "identity",
            "pad",
            "reshape",
            "shape",
            "slice",
            "split",
            "squeeze",
            "stack",
        ),
    }.items()
    for name in names
)
_SMOOTH_LAYERS = (keras.layers.ELU, keras.layers.Softmax)
_ONE_COMPARISON = (keras.layers.LeakyReLU, keras.layers.PReLU, keras.layers.ThresholdedReLU)
_MAX_POOLS = (keras.layers.MaxPooling1D, keras.layers.MaxPooling2D, keras.layers.MaxPooling3D)
_GLOBAL_MAX_POOLS = (keras.layers.GlobalMaxPooling1D, keras.layers.GlobalMaxPooling2D, keras.layers.GlobalMaxPooling3D)


def _kind_of_layer(layer: keras.layers.Layer) -> _Kind:
    symbol = getattr(layer, "symbol", None)
    if symbol is not None:
        return _LINEAR if symbol in _HARMLESS else _OPERATIONS.get(symbol, _UNKNOWN)
    if isinstance(layer, keras.layers.ReLU):
        return _kind_of_relu(layer)
    if isinstance(layer, _ONE_COMPARISON):
        return _LEAKY
    if isinstance(layer, _SMOOTH_LAYERS):
        return _Kind(note=f"{type(layer).__name__} is not counted.")
    if isinstance(layer, keras.layers.Lambda) or not _is_known(layer):
        return _UNKNOWN
    return _kind_of_function(getattr(layer, "activation", None))


def _is_known(layer: keras.layers.Layer) -> bool:
    return type(layer).__module__.split(".")[0] in ("tf_keras", "keras_relu")


def _kind_of_relu(layer: keras.layers.ReLU) -> _Kind:
    bounded = layer.max_value is not None
    if float(layer.negative_slope) or float(layer.threshold):
        return _CLIPPED if bounded else _LEAKY
    return _RELU6 if bounded else _RELU


def _kind_of_function(activation: Any) -> _Kind:
    if isinstance(activation, keras.layers.Layer):
        return _kind_of_layer(activation)
    if activation is None:
        return _LINEAR
    known = activation.__hash__ is not None and activation in _FUNCTIONS
    return _FUNCTIONS[activation] if known else _UNKNOWN


def _pool_comparisons(node: Any) -> int | None:
    """Comparisons per output element of a layer that takes a maximum over elements; None for other layers."""
    layer = node.layer
    if isinstance(layer, _MAX_POOLS):
        return math.prod(tf.nest.flatten(layer.pool_size)) - 1
    if isinstance(layer, _GLOBAL_MAX_POOLS):
        return math.prod(_input_shape(node)) // _elements(node) - 1
    if isinstance(layer, (keras.layers.Maximum, keras.layers.Minimum)):
        return len(node.keras_inputs) - 1
    return None


def _input_shape(node: Any) -> tuple[int, ...]:
    return _known(node.layer, tf.nest.flatten(node.keras_inputs)[0].shape[1:])


# --- multiply-accumulates -------------------------------------------------------------------------------------------

_TRANSPOSED = (keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose)
_SEPARABLE = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
# Their tables and slopes have two or more dimensions, yet are not the kernel of a product.
_WITHOUT_PRODUCTS = (keras.layers.Embedding, keras.layers.PReLU, keras.layers.LayerNormalization)
_CONVS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)


def _macs(node: Any, tally: _Tally) -> int:
    layer = node.layer
    if hasattr(layer, "additions_per_position"):
        tally.ternary_additions += layer.additions_per_position() * _positions(layer, _shape(node))
        return 0
    if isinstance(layer, _TRANSPOSED):
        return _size([layer.kernel]) * _positions(layer, _input_shape(node))
    if isinstance(layer, _SEPARABLE):
        return _size([layer.depthwise_kernel, layer.pointwise_kernel]) * _positions(layer, _shape(node))
    if isinstance(layer, _DEPTHWISE):
        return _size([layer.depthwise_kernel]) * _positions(layer, _shape(node))
    if isinstance(layer, _CONVS):
        return _size([layer.kernel]) * _positions(layer, _shape(node))
    if isinstance(layer, keras.layers.Dense):
        return _size([layer.kernel]) * math.prod(_shape(node)[:-1])
    if hasattr(layer, "mac_count"):
        return layer.mac_count
    if not isinstance(layer, _WITHOUT_PRODUCTS) and not hasattr(layer, "site_facts"):
        _note_unknown_products(layer, tally)
    return 0


def _positions(layer: keras.layers.Layer, shape: tuple[int, ...]) -> int:
    """Pixels of a per-image shape, wherever its channels are."""
    return math.prod(shape[1:] if layer.data_format == "channels_first" else shape[:-1])


def _note_unknown_products(layer: keras.layers.Layer, tally: _Tally) -> None:
    if any(len(weight.shape) >= 2 for weight in layer.weights):
        tally.notes.append(f"Layer {layer.name!r} ({type(layer).__name__}): its multiply-accumulates are not counted.")
