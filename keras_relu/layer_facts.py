"""What one call of a tf_keras layer computes: its shape, comparisons and multiply-accumulates, read off the graph's nodes.

A node is one call of a layer in a functional model. Layers of this package state their own facts by methods, see `counting`;
for the layers of tf_keras the tables are here. What is in none of them leads to a note, never to a silent zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
import tf_keras as keras

from keras_relu.errors import UserError

__all__ = [
    "ActivationKind",
    "Products",
    "call_name",
    "dense_macs",
    "elements",
    "kind_of_layer",
    "nodes_in_order",
    "output_shape",
    "pool_comparisons",
    "products_of",
    "size_of",
]


def nodes_in_order(model: keras.Model) -> Iterator[Any]:
    """The calls of a functional model's layers, each behind those it reads."""
    for depth in sorted(model._nodes_by_depth, reverse=True):
        yield from (node for node in model._nodes_by_depth[depth] if not node.is_input)


def call_name(layer: keras.layers.Layer, part: str, prefix: str, suffix: str) -> str:
    """The name of a call in tables: the layer's, the `part` of it, which call it is, and the model it is in."""
    name = layer.name.replace("/", "_").replace(".", "_") + part + suffix
    return name if name.startswith(prefix) else prefix + name


def output_shape(node: Any) -> tuple[int, ...]:
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


def elements(node: Any) -> int:
    """Values per image in the first output of a node."""
    return math.prod(output_shape(node))


def size_of(variables: Any) -> int:
    """Values in all `variables` together."""
    return sum(math.prod(variable.shape) for variable in variables)


# --- comparisons of tf_keras layers ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class ActivationKind:
    """What an activation does to one element."""

    relu: bool = False
    comparisons: int = 0
    note: str = ""


_LINEAR = ActivationKind()
_RELU = ActivationKind(True, 1)
_RELU6 = ActivationKind(True, 2)
_LEAKY = ActivationKind(comparisons=1, note="one comparison per element is counted, but it is not a plain ReLU.")
_CLIPPED = ActivationKind(comparisons=2, note="two comparisons per element are counted, but it is not a plain ReLU.")
_UNKNOWN = ActivationKind(note="its function was not recognised; what it compares is not counted.")

_SMOOTH = ("elu", "exponential", "gelu", "mish", "selu", "sigmoid", "softmax", "softplus", "softsign", "swish", "tanh")
_FUNCTIONS = {
    keras.activations.linear: _LINEAR,
    tf.identity: _LINEAR,
    keras.activations.relu: _RELU,
    tf.nn.relu: _RELU,
    tf.nn.relu6: _RELU6,
    tf.nn.leaky_relu: _LEAKY,
    keras.activations.hard_sigmoid: _CLIPPED,
    **{getattr(keras.activations, name): ActivationKind(note=f"{name} is not counted.") for name in _SMOOTH},
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


def kind_of_layer(layer: keras.layers.Layer) -> ActivationKind:
    """What the activation in a layer, or the layer that is one, does to an element."""
    symbol = getattr(layer, "symbol", None)
    if symbol is not None:
        return _LINEAR if symbol in _HARMLESS else _OPERATIONS.get(symbol, _UNKNOWN)
    if isinstance(layer, keras.layers.ReLU):
        return _kind_of_relu(layer)
    if isinstance(layer, _ONE_COMPARISON):
        return _LEAKY
    if isinstance(layer, _SMOOTH_LAYERS):
        return ActivationKind(note=f"{type(layer).__name__} is not counted.")
    if isinstance(layer, keras.layers.Lambda) or not _is_known(layer):
        return _UNKNOWN
    return _kind_of_function(getattr(layer, "activation", None))


def _is_known(layer: keras.layers.Layer) -> bool:
    return type(layer).__module__.split(".")[0] in ("tf_keras", "keras_relu")


def _kind_of_relu(layer: keras.layers.ReLU) -> ActivationKind:
    bounded = layer.max_value is not None
    if float(layer.negative_slope) or float(layer.threshold):
        return _CLIPPED if bounded else _LEAKY
    return _RELU6 if bounded else _RELU


def _kind_of_function(activation: Any) -> ActivationKind:
    if isinstance(activation, keras.layers.Layer):
        return kind_of_layer(activation)
    if activation is None:
        return _LINEAR
    known = activation.__hash__ is not None and activation in _FUNCTIONS
    return _FUNCTIONS[activation] if known else _UNKNOWN


def pool_comparisons(node: Any) -> int | None:
    """Comparisons per output element of a layer that takes a maximum over elements; None for other layers."""
    layer = node.layer
    if isinstance(layer, _MAX_POOLS):
        return math.prod(tf.nest.flatten(layer.pool_size)) - 1
    if isinstance(layer, _GLOBAL_MAX_POOLS):
        return math.prod(_input_shape(node)) // elements(node) - 1
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


@dataclass(frozen=True)
class Products:
    """Multiply-accumulates of one call, the additions of a ternary kernel, and a sentence where they are not known."""

    macs: int = 0
    ternary_additions: int = 0
    note: str = ""


def products_of(node: Any) -> Products:
    """What a call multiplies and accumulates, per image.

    Raises:
        UserError: a size that is only known at run time.
    """
    layer = node.layer
    if hasattr(layer, "additions_per_position"):
        return Products(ternary_additions=layer.additions_per_position() * _positions(layer, output_shape(node)))
    if (macs := _dense_macs(node)) is not None:
        return Products(macs)
    if hasattr(layer, "mac_count"):
        return Products(layer.mac_count)
    several = any(len(weight.shape) >= 2 for weight in layer.weights)
    if several and not isinstance(layer, _WITHOUT_PRODUCTS) and not hasattr(layer, "site_facts"):
        return Products(
            note=f"Layer {layer.name!r} ({type(layer).__name__}): its multiply-accumulates are not counted."
        )
    return Products()


def dense_macs(node: Any) -> int:
    """Multiply-accumulates of a call that multiplies by a kernel, whatever the values in it are; 0 for other layers."""
    return _dense_macs(node) or 0


def _dense_macs(node: Any) -> int | None:
    layer = node.layer
    if isinstance(layer, _TRANSPOSED):
        return size_of([layer.kernel]) * _positions(layer, _input_shape(node))
    if isinstance(layer, _SEPARABLE):
        return size_of([layer.depthwise_kernel, layer.pointwise_kernel]) * _positions(layer, output_shape(node))
    if isinstance(layer, _DEPTHWISE):
        return size_of([layer.depthwise_kernel]) * _positions(layer, output_shape(node))
    if isinstance(layer, _CONVS):
        return size_of([layer.kernel]) * _positions(layer, output_shape(node))
    if isinstance(layer, keras.layers.Dense):
        return size_of([layer.kernel]) * math.prod(output_shape(node)[:-1])
    return None


def _positions(layer: keras.layers.Layer, shape: tuple[int, ...]) -> int:
    """Pixels of a per-image shape, wherever its channels are."""
    return math.prod(shape[1:] if layer.data_format == "channels_first" else shape[:-1])
