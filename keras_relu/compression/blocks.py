"""The parts of a functional graph that predictors and fusion work on: convolution + normalisation + ReLU, and whole blocks.

A *block* is a pair of such sites whose activations are wide while its ends are narrow. Two kinds are known:

- `bottleneck`: 1x1 expand, depthwise KxK, 1x1 project, with a site behind each of the first two (MobileNet, MnasNet,
  FusioNet). Given the masks of its two ReLUs it is one linear KxK map.
- `pointwise_pair`: 1x1 expand, channel shuffle, 1x1 reduce, a site behind each, then a depthwise KxK on the narrow side
  (the modified ShuffleNet). Given the masks its two pointwise convolutions are one linear map.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from keras_relu.activations.predicted import PredictedReLU
from keras_relu.errors import UserError
from keras_relu.layers.channel_shuffle import ChannelShuffle
from keras_relu.layers.ternary import TernaryConv2D, TernaryDepthwiseConv2D
from keras_relu.surgery import is_plain_relu, nodes_in_order, require_functional

__all__ = ["Block", "ConvSite", "find_blocks", "find_conv_sites"]

_TERNARY = (TernaryConv2D, TernaryDepthwiseConv2D)
# Layers that put values elsewhere and compute nothing, so that a mask can follow them.
_MOVES = (ChannelShuffle, keras.layers.ZeroPadding2D)


@dataclass(frozen=True)
class ConvSite:
    """One convolution, its batch normalisation and the ReLU behind it.

    Attributes:
        name: of the ReLU, which stays the name of the site when a `PredictedReLU` takes its place.
        conv, norm, activation: the layers.
        source: symbolic input of the convolution.
        gate: the symbolic tensor whose sign decides: the normalised value itself, or the predictor's.
        output: symbolic output of the site.
    """

    name: str
    conv: keras.layers.Layer
    norm: keras.layers.Layer
    activation: keras.layers.Layer
    source: Any
    gate: Any
    output: Any

    @property
    def predicted(self) -> bool:
        """Whether a predictor decides."""
        return isinstance(self.activation, PredictedReLU)

    @property
    def depthwise(self) -> bool:
        """Whether the convolution is a depthwise one."""
        return isinstance(self.conv, keras.layers.DepthwiseConv2D)

    def predictor_kernel(self) -> np.ndarray:
        """The kernel whose ternary form decides: the predictor's, or the exact one where there is none."""
        layer = self.gate.node.keras_inputs[0].node.layer if self.predicted else self.conv
        return layer.get_weights()[0]


@dataclass(frozen=True)
class Block:
    """Three convolutions of which the masks of two sites make one or two linear maps.

    Attributes:
        name: the common beginning of its layers' names.
        kind: `bottleneck` or `pointwise_pair`, see the module.
        first, second: the sites.
        between: layers that move values between first and second.
        last, last_norm: the convolution and the normalisation behind the second site.
        output: symbolic output of `last_norm`.
        joined_channels: channels of the concatenation that reads the output; those of the output where there is none.
    """

    name: str
    kind: str
    first: ConvSite
    second: ConvSite
    between: tuple[keras.layers.Layer, ...]
    last: keras.layers.Layer
    last_norm: keras.layers.Layer
    output: Any
    joined_channels: int

    @property
    def sites(self) -> tuple[ConvSite, ConvSite]:
        """Both sites in order."""
        return self.first, self.second

    @property
    def depthwise(self) -> keras.layers.Layer:
        """The KxK convolution."""
        return self.second.conv if self.kind == "bottleneck" else self.last

    @property
    def groups(self) -> int:
        """Groups of the pointwise convolutions."""
        return self.first.conv.groups

    @property
    def widens(self) -> bool:
        """Whether its hidden channels outnumber those at both ends, as in every block the originals predict."""
        return self.hidden_shape[2] > max(self.input_shape[2], self.output_shape[2])

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the narrow input."""
        return _image_shape(self.first.source, self.name)

    @property
    def hidden_shape(self) -> tuple[int, int, int]:
        """(H, W, C) behind the first site."""
        return _image_shape(self.first.output, self.name)

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """(H, W, C) behind the last convolution."""
        return _image_shape(self.output, self.name)

    def permutation(self) -> np.ndarray:
        """Hidden channel that stands at each place when the second convolution reads it, [C_mid]."""
        height, width, channels = self.hidden_shape
        places = np.broadcast_to(np.arange(channels, dtype=np.int32), (1, height, width, channels))
        moved: Any = tf.constant(places)
        for layer in self.between:
            if not isinstance(layer, keras.layers.ZeroPadding2D):
                moved = layer(moved)
        return np.asarray(moved)[0, 0, 0]

    def padding(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Zeros ((top, bottom), (left, right)) around the input of the depthwise convolution."""
        for layer in self.between:
            if isinstance(layer, keras.layers.ZeroPadding2D):
                return layer.padding
        conv = self.depthwise
        if conv.padding == "valid":
            return (0, 0), (0, 0)
        shape = self.hidden_shape if self.kind == "bottleneck" else _image_shape(self.second.output, self.name)
        sides = zip(shape[:2], conv.kernel_size, conv.strides, strict=True)
        top, left = (_same_padding(size, kernel, stride) for size, kernel, stride in sides)
        return top, left


def find_conv_sites(model: keras.Model) -> list[ConvSite]:
    """Every convolution + batch normalisation + ReLU (or PredictedReLU) of `model`, in order; models inside it are left out.

    A ReLU with an upper bound is none of them: with it the value is not linear given its sign.
    """
    graph = _Graph(require_functional(model))
    return [site for node in graph.nodes if (site := _site_at(graph, node)) is not None]


def find_blocks(model: keras.Model) -> list[Block]:
    """The blocks of `model`, in order.

    Raises:
        UserError: a model that is not functional.
    """
    graph = _Graph(require_functional(model))
    sites = {id(site.conv): site for node in graph.nodes if (site := _site_at(graph, node)) is not None}
    found = (_block_from(graph, site, sites) for site in sites.values())
    return [block for block in found if block is not None]


class _Graph:
    """Who reads what in a functional model."""

    def __init__(self, model: keras.Model) -> None:
        self.nodes = [node for node in nodes_in_order(model) if not node.is_input]
        self.readers: dict[int, list[Any]] = {}
        self.calls: dict[int, int] = {}
        for node in self.nodes:
            self.calls[id(node.layer)] = self.calls.get(id(node.layer), 0) + 1
            for tensor in node.keras_inputs:
                self.readers.setdefault(id(tensor), []).append(node)
        self.outputs = {id(tensor) for tensor in model.outputs}

    def next(self, tensor: Any) -> Any:
        """The only node that reads `tensor`; None where several do, or where the model returns it."""
        readers = self.readers.get(id(tensor), [])
        return readers[0] if len(readers) == 1 and id(tensor) not in self.outputs else None

    def next_norm(self, tensor: Any) -> Any:
        """The batch normalisation that alone reads `tensor`, or None."""
        node = self.next(tensor)
        return node if node is not None and self._is(node, keras.layers.BatchNormalization) else None

    def next_conv(self, tensor: Any) -> tuple[tuple[keras.layers.Layer, ...], Any]:
        """(moving layers in between, the convolution that alone reads what they pass on, or None)."""
        moved: list[keras.layers.Layer] = []
        node = self.next(tensor)
        while node is not None and self._is(node, _MOVES):
            moved.append(node.layer)
            node = self.next(node.outputs)
        return tuple(moved), node if node is not None and self.is_conv(node) else None

    def is_conv(self, node: Any) -> bool:
        """Whether the node calls a linear, undilated, channels-last 2-D convolution that has no other call."""
        layer = node.layer
        return (
            self._is(node, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D))
            and not isinstance(layer, (keras.layers.Conv2DTranspose, *_TERNARY))
            and layer.activation in (None, keras.activations.linear)
            and layer.data_format == "channels_last"
            and set(layer.dilation_rate) == {1}
        )

    def _is(self, node: Any, kinds: Any) -> bool:
        return isinstance(node.layer, kinds) and self.calls[id(node.layer)] == 1


def _site_at(graph: _Graph, node: Any) -> ConvSite | None:
    """The site whose convolution `node` calls, or None."""
    norm = graph.next_norm(node.outputs) if graph.is_conv(node) else None
    relu = graph.next(norm.outputs) if norm is not None else None
    if norm is None or relu is None or graph.calls[id(relu.layer)] > 1:
        return None
    predicted = isinstance(relu.layer, PredictedReLU)
    if not predicted and not is_plain_relu(relu.layer):
        return None
    gate, output = norm.outputs, relu.outputs
    if predicted:
        gate, exact = relu.keras_inputs
        if exact is not norm.outputs:
            return None
        output = relu.outputs[0] if relu.layer.cascade else relu.outputs
    name = relu.layer.name.replace("/", "_").replace(".", "_")
    return ConvSite(name, node.layer, norm.layer, relu.layer, node.keras_inputs[0], gate, output)


def _block_from(graph: _Graph, first: ConvSite, sites: dict[int, ConvSite]) -> Block | None:
    """The block that begins with the site `first`, or None."""
    if not _is_pointwise(first.conv):
        return None
    between, node = graph.next_conv(first.output)
    second = sites.get(id(node.layer)) if node is not None else None
    if second is None:
        return None
    behind, last = graph.next_conv(second.output)
    norm = graph.next_norm(last.outputs) if last is not None else None
    kind = _kind(first, between, second, behind, None if last is None else last.layer)
    if norm is None or kind is None:
        return None
    layers = [first.conv, first.norm, second.conv, second.norm, last.layer, norm.layer]
    reader = graph.next(norm.outputs)
    joined = norm if reader is None or not isinstance(reader.layer, keras.layers.Concatenate) else reader
    channels = joined.outputs.shape[-1]
    return Block(_name(layers), kind, first, second, between, last.layer, norm.layer, norm.outputs, channels)


def _kind(
    first: ConvSite,
    between: tuple[keras.layers.Layer, ...],
    second: ConvSite,
    behind: tuple[keras.layers.Layer, ...],
    last: keras.layers.Layer | None,
) -> str | None:
    padded = [isinstance(layer, keras.layers.ZeroPadding2D) for layer in between]
    if last is None or behind:
        return None
    if second.depthwise and _is_pointwise(last) and last.groups == first.conv.groups:
        same = _is_single_depthwise(second.conv) and len(between) == sum(padded) <= 1
        return "bottleneck" if same and (not any(padded) or second.conv.padding == "valid") else None
    if _is_pointwise(second.conv) and _is_single_depthwise(last) and not any(padded):
        return "pointwise_pair" if second.conv.groups == first.conv.groups else None
    return None


def _is_pointwise(layer: keras.layers.Layer) -> bool:
    # A depthwise convolution is a Conv2D too in some versions.
    depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    return not depthwise and tuple(layer.kernel_size) == (1, 1) and tuple(layer.strides) == (1, 1)


def _is_single_depthwise(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, keras.layers.DepthwiseConv2D) and layer.depth_multiplier == 1


def _same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's "same": the odd zero goes to the end."""
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _image_shape(tensor: Any, name: str) -> tuple[int, int, int]:
    shape = tuple(tensor.shape[1:])
    if None in shape:
        raise UserError(
            f"Block {name!r} has the size {list(shape)}, which is only known at run time; build the model with a fixed one."
        )
    return shape


def _name(layers: list[keras.layers.Layer]) -> str:
    """`block3` for block3_expand_conv, block3_depthwise_bn, ...; the first layer's name where they have nothing in common."""
    first, last = min(layer.name for layer in layers), max(layer.name for layer in layers)
    alike = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return "".join(mark for mark, _ in alike).rstrip("_-/.") or layers[0].name
