"""Cutting a functional model in two at a layer: the front computes the layer's output, the back goes on from it.

A layer is a valid cut when all that the network computes from the image passes through its output; a skip connection
around it would have to be cut as well. Models nested in models are unpacked first, so that their layers can be cut at too.
The output of a layer is what the layer itself returns: a cut at a normalisation gives values before the ReLU behind it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
import tf_keras as keras

from keras_relu.errors import UserError, unknown_key
from keras_relu.surgery import copy_model, require_functional

__all__ = ["Cut", "cuts", "original_name", "resolve_layer", "split", "unpack"]

# Names of the PyTorch ResNets that the stitching work uses -> ours; blocks count from 0 there, from 1 here.
_BLOCK_PARTS = {
    "": "relu2",
    **{part: part for part in ("conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "add")},
    "downsample": "shortcut_bn",
    "downsample.0": "shortcut_conv",
    "downsample.1": "shortcut_bn",
}
_TOP = {"conv1": "stem_conv", "bn1": "stem_bn", "relu": "stem_relu", "avgpool": "pool", "fc": "classifier"}
_BLOCK = re.compile(r"layer(\d+)\.(\d+)\.?(.*)")
_STAGE = re.compile(r"layer(\d+)")
_OURS = re.compile(r"stage(\d+)_block(\d+)_(.*)")


@dataclass(frozen=True)
class Cut:
    """One layer as a place to cut.

    Attributes:
        name: the layer, as it is called after unpacking nested models.
        layer_type: its class.
        shape: per-image shape of its output; () when it has several outputs.
        valid: whether the model can be cut here.
        reason: why not, empty for a valid cut.
        bypass: the connection around it, (from layer, to layer), when that is the reason.
    """

    name: str
    layer_type: str
    shape: tuple[int | None, ...]
    valid: bool
    reason: str = ""
    bypass: tuple[str, str] | None = None


def unpack(model: keras.Model) -> keras.Model:
    """A copy of a functional model, weights included, in which nested models are replaced by their layers.

    A nested layer is called `<model>_<layer>` unless its name begins with the model's.

    Raises:
        UserError: a model that cannot be edited, see `surgery.require_functional`.
    """
    return _Unpack(require_functional(model)).run()


def cuts(model: keras.Model) -> list[Cut]:
    """All layers of `model` in the order of computation, each with whether and why not it is a valid cut.

    Raises:
        UserError: as `unpack`.
    """
    return _Graph(unpack(model)).cuts()


def split(model: keras.Model, layer: str) -> tuple[keras.Model, keras.Model]:
    """(front, back) with back(front(x)) = model(x).

    Args:
        model: one image input, one output; it is left as it is, the halves have weights of their own.
        layer: a layer's name as `cuts` lists it, or the original's name for it (see `resolve_layer`).

    Raises:
        UserError: no such layer, or no valid cut; names the bypass and the nearest valid cuts.
    """
    flat = unpack(model)
    if len(flat.inputs) != 1 or len(flat.outputs) != 1:
        raise UserError(
            f"Model {model.name!r} has {len(flat.inputs)} inputs and {len(flat.outputs)} outputs; only models with one of "
            "each can be cut."
        )
    name = resolve_layer(flat, layer)
    places = _Graph(flat).cuts()
    _refuse_invalid(model.name, name, places)
    tensor = flat.get_layer(name).output
    front = keras.Model(flat.inputs[0], tensor, name="front")
    # The identity between keeps a cut at the very last layer a model; everywhere else it costs nothing.
    if tensor is flat.outputs[0]:
        inputs = keras.Input(tensor.shape[1:], dtype=tensor.dtype, name="representation")
        return front, keras.Model(inputs, keras.layers.Activation("linear", name="identity")(inputs), name="back")
    # A copy, since layers of the first graph keep their old inputs and would answer with those when asked.
    return front, copy_model(keras.Model(tensor, flat.outputs[0], name="back"))


def resolve_layer(model: keras.Model, name: str) -> str:
    """The name in `model` of a layer that the user called `name`: its own name, or the one in the original PyTorch ResNet.

    `layer2.0` is the output of that block, `layer2` that of the stage's last block, `layer2.0.add` the sum before the
    ReLU.

    Raises:
        UserError: no such layer (with the nearest name), or an original name that stands for two places.
    """
    names = [layer.name for layer in model.layers]
    if name in names:
        return name
    block = _BLOCK.fullmatch(name)
    if block and block[3] == "relu":
        prefix = f"stage{block[1]}_block{int(block[2]) + 1}"
        raise UserError(f"{name!r} is applied twice in the original; say {prefix}_relu1 or {prefix}_relu2.")
    found = _ours(name, block, names)
    if found not in names:
        raise unknown_key(f"layer of {model.name!r}", name, names)
    return found


def original_name(name: str) -> str | None:
    """The original PyTorch ResNet's name of one of our ResNet layers, or None for all others."""
    top = {ours: theirs for theirs, ours in _TOP.items()}
    match = _OURS.fullmatch(name)
    if not match:
        return top.get(name)
    part = {ours: theirs for theirs, ours in _BLOCK_PARTS.items() if theirs != "downsample"}.get(match[3])
    return None if part is None else f"layer{match[1]}.{int(match[2]) - 1}.{part}".rstrip(".")


def _ours(name: str, block: re.Match[str] | None, names: list[str]) -> str:
    if block:
        return f"stage{block[1]}_block{int(block[2]) + 1}_{_BLOCK_PARTS.get(block[3], block[3])}"
    stage = _STAGE.fullmatch(name)
    if stage:
        ends = [n for n in names if re.fullmatch(rf"stage{stage[1]}_block\d+_relu2", n)]
        return ends[-1] if ends else name
    return _TOP.get(name, name)


def _refuse_invalid(model: str, name: str, places: list[Cut]) -> None:
    position = next(index for index, place in enumerate(places) if place.name == name)
    if places[position].valid:
        return
    before = [place.name for place in places[:position] if place.valid]
    after = [place.name for place in places[position + 1 :] if place.valid]
    near = " and ".join(repr(side[0]) for side in (before[-1:], after[:1]) if side) or "none"
    raise UserError(
        f"{model!r} cannot be cut at {name!r}: {places[position].reason}. The nearest valid cuts are {near}."
    )


def _nodes(model: keras.Model) -> Iterator[Any]:
    for depth in sorted(model._nodes_by_depth, reverse=True):
        yield from model._nodes_by_depth[depth]


class _Unpack:
    """Copies the layers of a model and of the models in it into one graph."""

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self.copies: dict[int, keras.layers.Layer] = {}

    def run(self) -> keras.Model:
        inputs = [
            keras.Input(tensor.shape[1:], batch_size=tensor.shape[0], dtype=tensor.dtype, name=tensor.node.layer.name)
            for tensor in self.model.inputs
        ]
        outputs = self._walk(self.model, inputs, "")
        flat = keras.Model(inputs, outputs, name=self.model.name)
        for layer in _leaves(self.model):
            if id(layer) in self.copies and layer.weights:
                self.copies[id(layer)].set_weights(layer.get_weights())
        return flat

    def _walk(self, model: keras.Model, inputs: list[Any], prefix: str) -> list[Any]:
        table = {id(old): new for old, new in zip(model.inputs, inputs, strict=True)}

        def swap(value: Any) -> Any:
            return table.get(id(value), value)

        for node in _nodes(model):
            if node.is_input:
                continue
            args, kwargs = tf.nest.map_structure(swap, (node.call_args, node.call_kwargs))
            outputs = self._call(node.layer, args, kwargs, prefix)
            for old, new in zip(tf.nest.flatten(node.outputs), tf.nest.flatten(outputs), strict=True):
                table[id(old)] = new
        return [table[id(tensor)] for tensor in model.outputs]

    def _call(self, layer: keras.layers.Layer, args: Any, kwargs: Any, prefix: str) -> Any:
        if isinstance(layer, keras.Model):
            return self._walk(require_functional(layer), tf.nest.flatten(args), _prefixed(layer.name, prefix) + "_")
        if id(layer) not in self.copies:
            config = layer.get_config()
            new = type(layer).from_config({**config, "name": _prefixed(layer.name, prefix)})
            new.trainable = layer.trainable
            self.copies[id(layer)] = new
        return self.copies[id(layer)](*args, **kwargs)


def _leaves(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _leaves(layer)
        else:
            yield layer


def _prefixed(name: str, prefix: str) -> str:
    return name if name.startswith(prefix) else prefix + name


class _Graph:
    """The layers of a flat model as a graph of calls, with the number of paths from the input to each and on to the output.

    A call is a valid cut exactly when all paths lead through it.
    """

    def __init__(self, model: keras.Model) -> None:
        self.nodes = list(_nodes(model))
        self.calls: dict[int, int] = {}
        for node in self.nodes:
            self.calls[id(node.layer)] = self.calls.get(id(node.layer), 0) + 1
        index = {id(node): i for i, node in enumerate(self.nodes)}
        self.parents = [[index[id(t.node)] for t in _inputs(node)] for node in self.nodes]
        self.children: list[list[int]] = [[] for _ in self.nodes]
        for child, parents in enumerate(self.parents):
            for parent in parents:
                self.children[parent].append(child)
        self.outputs = [index[id(tensor.node)] for tensor in model.outputs]
        self.to, self.onward = self._paths()

    def _paths(self) -> tuple[list[int], list[int]]:
        count = len(self.nodes)
        to, onward = [0] * count, [0] * count
        for i in range(count):
            to[i] = sum(to[p] for p in self.parents[i]) if self.parents[i] else 1
        for i in reversed(range(count)):
            onward[i] = sum(onward[c] for c in self.children[i]) + self.outputs.count(i)
        return to, onward

    def cuts(self) -> list[Cut]:
        total = sum(self.to[i] for i in self.outputs)
        return [self._cut(i, total) for i in range(len(self.nodes)) if self._first_call(i)]

    def _first_call(self, i: int) -> bool:
        layer = self.nodes[i].layer
        return all(node.layer is not layer for node in self.nodes[:i])

    def _cut(self, i: int, total: int) -> Cut:
        node = self.nodes[i]
        outputs = tf.nest.flatten(node.outputs)
        shape = tuple(outputs[0].shape[1:]) if len(outputs) == 1 else ()
        reason, bypass = self._reason(i, shape, total)
        return Cut(node.layer.name, type(node.layer).__name__, shape, not reason, reason, bypass)

    def _reason(self, i: int, shape: tuple[int | None, ...], total: int) -> tuple[str, tuple[str, str] | None]:
        node = self.nodes[i]
        if node.is_input:
            return "it is the input itself", None
        if self.calls[id(node.layer)] > 1:
            return f"it is applied {self.calls[id(node.layer)]} times, so that its output is not one place", None
        if self.to[i] * self.onward[i] != total:
            source, target = self._bypass(i)
            return f"the connection from {source!r} to {target!r} goes around it", (source, target)
        if len(tf.nest.flatten(node.outputs)) > 1:
            return "it has several outputs", None
        if len(shape) not in (1, 3) or None in shape:
            return f"its output has the shape {list(shape)}; allowed are [H, W, C] and [F] of known size", None
        return "", None

    def _bypass(self, i: int) -> tuple[str, str]:
        """Where a shortest path around call `i` leaves the ancestors of the call, and where it meets its descendants."""
        before, after = self._reachable(i, self.parents), self._reachable(i, self.children)
        path = self._path_around(i)
        leave = max((at for at, n in enumerate(path) if n in before), default=0)
        meet = next((n for n in path[leave + 1 :] if n in after), path[-1])
        return self.nodes[path[leave]].layer.name, self.nodes[meet].layer.name

    def _path_around(self, i: int) -> list[int]:
        starts = [n for n, parents in enumerate(self.parents) if not parents and n != i]
        came: dict[int, int | None] = dict.fromkeys(starts)
        queue = list(starts)
        for n in queue:
            if n in self.outputs:
                path = [n]
                while (back := came[path[-1]]) is not None:
                    path.append(back)
                return path[::-1]
            for child in self.children[n]:
                if child != i and child not in came:
                    came[child] = n
                    queue.append(child)
        return starts

    def _reachable(self, i: int, edges: list[list[int]]) -> set[int]:
        seen, stack = set(), [i]
        while stack:
            for n in edges[stack.pop()]:
                if n not in seen:
                    seen.add(n)
                    stack.append(n)
        return seen


def _inputs(node: Any) -> list[Any]:
    return [] if node.is_input else list(node.keras_inputs)
