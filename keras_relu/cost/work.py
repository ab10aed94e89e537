"""What a private-inference runtime has to do for each layer, per image, before any protocol puts a price on it.

Layers of this package declare what they execute by `runtime_facts()`, which may differ from what they count as ReLUs: a
selection between relu(x) and g(x) computes both. For the layers of tf_keras there is `counting`'s table.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
import tf_keras as keras

from keras_relu import counting, layer_facts
from keras_relu.layers.channel_affine import ChannelAffine
from keras_relu.layers.fake_quant import FakeQuant
from keras_relu.surgery import iter_layers, require_functional

__all__ = ["LayerWork", "work_of"]


@dataclass(frozen=True)
class LayerWork:
    """The work of one call of a layer, per image.

    Attributes:
        name, layer_type, shape: of the layer, as `counting` has them.
        relu_count: ReLUs it counts as (1 per element of a plain ReLU, the mask's for a reduced site).
        comparisons: comparisons evaluated, each with the selection behind it; max-pooling's included.
        comparison_levels: comparisons that have to wait for each other.
        pool_comparisons: those of `comparisons` that belong to max-pooling.
        products: products of two secret values, element by element.
        constant_products: products with a number of the model, element by element.
        known_signs: those of all products, and linear outputs, whose result is known not to be negative where it is
            truncated at once.
        relu_outputs: linear outputs that nothing but a whole ReLU reads, so that they may be truncated behind it.
        linear_inputs: values a convolution reads, once per window (im2col), or inputs of a dense layer; 0 for others.
        linear_weights, linear_outputs, macs: of a convolution or dense layer.
        inverse_roots: secret values to take an inverse square root of (a normalisation that was not folded).
        weight_products: those of `constant_products` whose number is a weight and so may be secret.
    """

    name: str
    layer_type: str
    shape: tuple[int, ...]
    relu_count: int = 0
    comparisons: int = 0
    comparison_levels: int = 0
    pool_comparisons: int = 0
    products: int = 0
    constant_products: int = 0
    weight_products: int = 0
    known_signs: int = 0
    relu_outputs: int = 0
    linear_inputs: int = 0
    linear_weights: int = 0
    linear_outputs: int = 0
    macs: int = 0
    inverse_roots: int = 0

    @property
    def truncations(self) -> int:
        """Fixed-point results to be cut back to their fraction bits: every product and every linear output."""
        return self.products + self.constant_products + self.linear_outputs


def work_of(model: keras.Model) -> tuple[list[LayerWork], list[str]]:
    """The work of every layer call in the order of the graph, and what was not understood, one sentence each.

    Raises:
        UserError: as `counting.count`.
    """
    notes = list(counting.count(model, convention="comparisons").notes)
    notes.extend(
        f"Layer {layer.name!r} (FakeQuant): its rounding, which a secure engine computes bit by bit, is not priced."
        for layer in iter_layers(model)
        if isinstance(layer, FakeQuant)
    )
    works = list(_walk(require_functional(model), "", notes))
    return works, list(dict.fromkeys(notes))


def _walk(model: keras.Model, prefix: str, notes: list[str]) -> Iterator[LayerWork]:
    nodes = list(layer_facts.nodes_in_order(model))
    calls: dict[int, int] = defaultdict(int)
    positive = _non_negative(nodes)
    readers = _readers(nodes)
    for node in nodes:
        layer = node.layer
        calls[id(layer)] += 1
        suffix = "" if calls[id(layer)] == 1 else f"_call{calls[id(layer)]}"
        if isinstance(layer, keras.Model):
            yield from _walk(layer, f"{prefix}{layer.name}{suffix}_", notes)
            continue
        facts = _facts(node, positive, readers, notes)
        if any(facts.values()):
            name = layer_facts.call_name(layer, "", prefix, suffix)
            yield LayerWork(name, type(layer).__name__, layer_facts.output_shape(node), **facts)


def _facts(node: Any, positive: set[int], readers: dict[int, list[Any]], notes: list[str]) -> dict[str, int]:
    layer = node.layer
    if hasattr(layer, "runtime_facts"):
        return _declared(layer.runtime_facts(), layer.site_facts()["relu_count"])
    if hasattr(layer, "site_facts"):
        facts = layer.site_facts()
        notes.append(
            f"Layer {layer.name!r} ({type(layer).__name__}) declares counts only; its arithmetic is not priced."
        )
        return {
            "relu_count": facts["relu_count"],
            "comparisons": facts["comparison_count"],
            "comparison_levels": int(facts["comparison_count"] > 0),
            "products": facts["multiplications"],
        }
    return {**_linear(node, readers), **_pooling(node, positive), **_normalisation(node), **_activation(node)}


def _declared(facts: dict[str, int], relus: int) -> dict[str, int]:
    return {
        "relu_count": relus,
        "comparisons": facts["comparison_count"],
        "comparison_levels": facts["comparison_levels"],
        "products": facts["products"],
        "constant_products": facts["constant_products"],
    }


def _linear(node: Any, readers: dict[int, list[Any]]) -> dict[str, int]:
    # A ternary kernel is priced like any other: no engine here makes use of its three values.
    macs = layer_facts.dense_macs(node) or layer_facts.products_of(node).macs
    if not macs:
        return {}
    layer, shape = node.layer, layer_facts.output_shape(node)
    outputs = math.prod(shape)
    kernels = [weight for weight in layer.weights if len(weight.shape) >= 2]
    only_relu = all(_is_whole_relu(reader.layer) for reader in readers[id(node)]) and bool(readers[id(node)])
    own_relu = layer.activation in (keras.activations.relu, tf.nn.relu)
    return {
        "macs": macs,
        "linear_outputs": outputs,
        "linear_weights": sum(math.prod(kernel.shape) for kernel in kernels),
        "linear_inputs": _window_values(layer, macs),
        "relu_outputs": outputs if only_relu or own_relu else 0,
    }


def _window_values(layer: keras.layers.Layer, macs: int) -> int:
    """Values in the windows a layer reads: what its im2col matrix holds."""
    if hasattr(layer, "pointwise_kernel"):
        first, second = (math.prod(kernel.shape) for kernel in (layer.depthwise_kernel, layer.pointwise_kernel))
        positions = macs // (first + second)
        return positions * (first // layer.depth_multiplier + layer.pointwise_kernel.shape[-2])
    if hasattr(layer, "depthwise_kernel"):
        return macs // layer.depth_multiplier
    if isinstance(layer, keras.layers.Dense):
        return macs // layer.units
    return macs * layer.groups // layer.filters


def _pooling(node: Any, positive: set[int]) -> dict[str, int]:
    per_output = layer_facts.pool_comparisons(node)
    if per_output is not None:
        comparisons = per_output * layer_facts.elements(node)
        levels = math.ceil(math.log2(per_output + 1))
        return {"comparisons": comparisons, "pool_comparisons": comparisons, "comparison_levels": levels}
    if not isinstance(node.layer, _MEANS):
        return {}
    outputs = layer_facts.elements(node)
    known = id(tf.nest.flatten(node.keras_inputs)[0]) in positive
    return {"constant_products": outputs, "known_signs": outputs if known else 0}


def _normalisation(node: Any) -> dict[str, int]:
    layer, elements = node.layer, layer_facts.elements(node)
    if isinstance(layer, ChannelAffine):
        return {"constant_products": elements, "weight_products": elements}
    if not isinstance(layer, keras.layers.BatchNormalization):
        return {}
    channels = layer.moving_variance.shape[0]
    return {"constant_products": elements, "weight_products": elements, "inverse_roots": channels}


def _activation(node: Any) -> dict[str, int]:
    layer = node.layer
    if layer_facts.pool_comparisons(node) is not None:
        return {}
    kind = layer_facts.kind_of_layer(layer)
    if not kind.comparisons:
        return {}
    elements = layer_facts.elements(node)
    return {
        "relu_count": elements if kind.relu else 0,
        "comparisons": elements * kind.comparisons,
        "comparison_levels": kind.comparisons,
    }


_MEANS = (
    *(keras.layers.AveragePooling1D, keras.layers.AveragePooling2D, keras.layers.AveragePooling3D),
    *(keras.layers.GlobalAveragePooling1D, keras.layers.GlobalAveragePooling2D, keras.layers.GlobalAveragePooling3D),
)
_ORDER_KEEPING = (
    *(keras.layers.Add, keras.layers.Average, keras.layers.Concatenate, keras.layers.Dropout, keras.layers.Flatten),
    *(keras.layers.Reshape, keras.layers.ZeroPadding2D, keras.layers.Permute, *_MEANS),
    *(keras.layers.MaxPooling1D, keras.layers.MaxPooling2D, keras.layers.GlobalMaxPooling2D),
)


def _is_whole_relu(layer: keras.layers.Layer) -> bool:
    return not hasattr(layer, "site_facts") and layer_facts.kind_of_layer(layer).relu


def _non_negative(nodes: list[Any]) -> set[int]:
    """Ids of the tensors that cannot be negative: whole ReLUs, and what sums, joins or pools nothing but such."""
    known: set[int] = set()
    for node in nodes:
        inputs = tf.nest.flatten(node.keras_inputs)
        kept = isinstance(node.layer, _ORDER_KEEPING) and all(id(tensor) in known for tensor in inputs)
        if kept or (not isinstance(node.layer, keras.Model) and _is_whole_relu(node.layer)):
            known.update(id(tensor) for tensor in tf.nest.flatten(node.outputs))
    return known


def _readers(nodes: list[Any]) -> dict[int, list[Any]]:
    """Node id -> the nodes that read its output, normalisations skipped: those are folded before anything is run."""
    by_tensor: dict[int, list[Any]] = defaultdict(list)
    for node in nodes:
        for tensor in tf.nest.flatten(node.keras_inputs):
            by_tensor[id(tensor)].append(node)

    def read(node: Any) -> list[Any]:
        found = [reader for tensor in tf.nest.flatten(node.outputs) for reader in by_tensor[id(tensor)]]
        if len(found) == 1 and isinstance(found[0].layer, keras.layers.BatchNormalization):
            return read(found[0])
        return found

    return {id(node): read(node) for node in nodes}
