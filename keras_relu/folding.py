"""Exact rewriting of a network for inference: what is affine per channel goes into the layer before it.

Batch normalisation, lines that replaced a whole site, identities and dropout are affine maps per channel once training is
over. Behind a convolution or dense layer they change its kernel and bias and disappear; elsewhere a normalisation becomes
one multiplication and addition.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from keras_relu import surgery
from keras_relu.activations import FixedActivation
from keras_relu.layers.channel_affine import ChannelAffine

__all__ = ["fold_affine"]

# Exact types: a subclass may compute something else from its kernel.
_LINEAR = frozenset(
    {
        *(keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D, keras.layers.Dense),
        *(keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose),
        *(keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D),
        *(keras.layers.SeparableConv1D, keras.layers.SeparableConv2D),
    }
)
_TRANSPOSED = frozenset({keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose})
_DROPOUTS = (keras.layers.Dropout, keras.layers.SpatialDropout1D, keras.layers.SpatialDropout2D)


@dataclass
class _Chain:
    """A linear layer and the affine layers that follow it and nothing else: y = scale * linear(x) + shift."""

    layer: keras.layers.Layer
    absorbed: list[keras.layers.Layer] = field(default_factory=list)
    scale: Any = 1.0
    shift: Any = 0.0

    def append(self, layer: keras.layers.Layer, scale: Any, shift: Any) -> None:
        self.absorbed.append(layer)
        self.scale, self.shift = scale * self.scale, scale * self.shift + shift


def fold_affine(model: keras.Model) -> keras.Model:
    """A copy of `model` that computes the same at inference without normalisations, lines behind convolutions, identities.

    A layer is taken in by the convolution or dense layer in front of it when that one has no activation of its own and
    feeds nothing else, and both are called once. Normalisations elsewhere become a `ChannelAffine`. Layers that are left
    keep their names and weights.

    Args:
        model: any functional tf_keras model; nested models are folded inside. It is not changed.

    Raises:
        UserError: a model that cannot be edited, see `surgery.require_functional`.
    """
    chains = {id(chain.layer): chain for part in _models(model) for chain in _chains(part)}
    absorbed = {id(layer) for chain in chains.values() for layer in chain.absorbed}
    written: list[tuple[keras.layers.Layer, list[np.ndarray]]] = []

    def make(layer: keras.layers.Layer) -> Any:
        if id(layer) in absorbed or _is_identity(layer):
            return surgery.DROPPED
        if id(layer) in chains:
            new, weights = _folded(chains[id(layer)])
        elif isinstance(layer, keras.layers.BatchNormalization) and _affine(layer) is not None:
            new, weights = _affine_layer(layer)
        else:
            return None
        written.append((new, weights))
        return new

    folded = surgery.replace_layers(model, make)
    for layer, weights in written:
        layer.set_weights(weights)
    return folded


def _models(model: keras.Model) -> Iterator[keras.Model]:
    """`model` and every model inside it."""
    yield surgery.require_functional(model)
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _models(layer)


def _chains(model: keras.Model) -> Iterator[_Chain]:
    nodes = [node for depth in model._nodes_by_depth.values() for node in depth if not node.is_input]
    calls = Counter(id(node.layer) for node in nodes)
    readers: dict[int, list[Any]] = defaultdict(list)
    for node in nodes:
        for tensor in tf.nest.flatten(node.keras_inputs):
            readers[id(tensor)].append(node)
    ends = {id(tensor) for tensor in model.outputs}
    for node in nodes:
        if calls[id(node.layer)] == 1 and _absorbs(node.layer):
            chain = _Chain(node.layer)
            while (follower := _only_reader(node, readers, ends)) is not None and calls[id(follower.layer)] == 1:
                affine = _affine(follower.layer)
                if affine is None:
                    break
                chain.append(follower.layer, *affine)
                node = follower
            if chain.absorbed:
                yield chain


def _only_reader(node: Any, readers: dict[int, list[Any]], ends: set[int]) -> Any | None:
    output = tf.nest.flatten(node.outputs)[0]
    if id(output) in ends or len(readers[id(output)]) != 1:
        return None
    return readers[id(output)][0]


def _absorbs(layer: keras.layers.Layer) -> bool:
    return (
        type(layer) in _LINEAR
        and layer.activation in (None, keras.activations.linear)
        and getattr(layer, "data_format", "channels_last") == "channels_last"
    )


def _is_identity(layer: keras.layers.Layer) -> bool:
    if isinstance(layer, keras.layers.Activation):
        return layer.activation is keras.activations.linear
    return isinstance(layer, _DROPOUTS)


def _affine(layer: keras.layers.Layer) -> tuple[Any, Any] | None:
    """(scale, shift) [C] in float64 of a layer that is affine per channel of its last axis at inference, else None."""
    if _is_identity(layer):
        return 1.0, 0.0
    if isinstance(layer, ChannelAffine):
        return np.float64(layer.scale.numpy()), np.float64(layer.shift.numpy())
    if isinstance(layer, FixedActivation):
        return layer.line()
    if not isinstance(layer, keras.layers.BatchNormalization) or list(layer.axis) != [len(layer.input_shape) - 1]:
        return None
    mean, variance = (np.float64(moving.numpy()) for moving in (layer.moving_mean, layer.moving_variance))
    scale = (1.0 if layer.gamma is None else np.float64(layer.gamma.numpy())) / np.sqrt(variance + layer.epsilon)
    return scale, (0.0 if layer.beta is None else np.float64(layer.beta.numpy())) - scale * mean


def _folded(chain: _Chain) -> tuple[keras.layers.Layer, list[np.ndarray]]:
    """The linear layer with the affine maps behind it taken in, not built yet, and its weights."""
    layer = chain.layer
    *kernels, last = [
        np.asarray(weight, np.float64) for weight in layer.get_weights()[: -1 if layer.use_bias else None]
    ]
    bias = np.float64(layer.get_weights()[-1]) if layer.use_bias else 0.0
    weights = [*kernels, _scaled(layer, last, chain.scale)]
    channels = layer.output_shape[-1]
    weights.append(np.broadcast_to(chain.scale * bias + chain.shift, (channels,)))
    new = type(layer).from_config({**layer.get_config(), "use_bias": True})
    return new, [np.asarray(weight, np.float32) for weight in weights]


def _scaled(layer: keras.layers.Layer, kernel: np.ndarray, scale: Any) -> np.ndarray:
    """`kernel` with its output channels times `scale`."""
    if type(layer) in _TRANSPOSED:
        return kernel * np.reshape(scale, (-1, 1))
    if isinstance(layer, keras.layers.DepthwiseConv1D | keras.layers.DepthwiseConv2D):
        return kernel * (scale if np.ndim(scale) == 0 else np.reshape(scale, kernel.shape[-2:]))
    return kernel * scale


def _affine_layer(layer: keras.layers.BatchNormalization) -> tuple[ChannelAffine, list[np.ndarray]]:
    scale, shift = _affine(layer) or (1.0, 0.0)
    channels = (layer.output_shape[-1],)
    weights = [np.broadcast_to(np.asarray(value, np.float32), channels) for value in (scale, shift)]
    return ChannelAffine(name=layer.name, dtype=layer.dtype_policy), weights
