"""Everything that edits a functional graph: find ReLU sites, replace them, exchange layers.

A *site* is one place where a ReLU is applied: a `ReLU` or `Activation("relu")` layer, a `tf.nn.relu` call on Keras tensors, or
`activation="relu"` inside a Conv or Dense layer (split out into a layer of its own, named `<layer>_relu`). A layer called at
several places makes one site per place. Models nested in models are edited inside.

Every function returns a new model with copied weights; the model that was given is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from keras_relu.errors import UserError, unknown_key

__all__ = [
    "DROPPED",
    "Site",
    "copy_model",
    "find_sites",
    "is_plain_relu",
    "iter_layers",
    "nodes_in_order",
    "preactivations",
    "replace_layers",
    "replace_sites",
    "require_functional",
    "rewire",
]

# What `replace_layers` may be given for a layer that has one input: the input takes its output's place.
DROPPED: Any = object()

_RELU_OPS = {"nn.relu": None, "nn.relu6": 6.0}

Rewiring = Callable[[keras.layers.Layer, list[Any], Callable[[Any], Any]], Any]


@dataclass(frozen=True)
class Site:
    """One place where a ReLU is applied.

    Attributes:
        name: name of the layer that holds or will hold it; unique in its model.
        shape: per-image shape, (H, W, C) or (F,).
        max_value: None for a ReLU, 6.0 for ReLU6.
    """

    name: str
    shape: tuple[int, ...]
    max_value: float | None = None


class _Reusable(dict):
    """A tensor table whose entries survive `Node.map_arguments`, which pops."""

    class _Entry:
        def __init__(self, tensor: Any) -> None:
            self.tensor = tensor

        def pop(self) -> Any:
            return self.tensor

    def put(self, old: Any, new: Any) -> None:
        self[str(id(old))] = self._Entry(new)

    def get_tensor(self, old: Any) -> Any:
        return self[str(id(old))].tensor


def require_functional(model: Any) -> keras.Model:
    """`model` when its graph can be edited.

    Raises:
        UserError: a Keras 3 model, a subclassed model, an unbuilt Sequential, or something that is no model.
    """
    if isinstance(model, keras.Model):
        if getattr(model, "_is_graph_network", False):
            return model
        kind = (
            "Sequential model that is not built (give it an input shape)"
            if isinstance(model, keras.Sequential)
            else (f"subclassed model ({type(model).__name__})")
        )
        raise UserError(f"Model {model.name!r} is a {kind}; a functional or built Sequential tf_keras model is needed.")
    if type(model).__module__.split(".")[0] == "keras" or any(
        c.__module__.startswith("keras.src") for c in type(model).__mro__
    ):
        raise UserError(
            "This is a Keras 3 model; keras_relu works on tf_keras (Keras 2). Build it with `import tf_keras as keras`, or set "
            "TF_USE_LEGACY_KERAS=1 before TensorFlow is imported."
        )
    raise UserError(f"Expected a tf_keras model, received {type(model).__name__}.")


def iter_layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """All layers in topological order, those of nested models included."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from iter_layers(layer)
        else:
            yield layer


def find_sites(model: keras.Model) -> list[Site]:
    """The ReLU sites of `model` in the order in which the graph computes them."""
    return [site for _, site, _ in _walk_sites(require_functional(model))]


def replace_sites(
    model: keras.Model,
    make: Callable[[Site], keras.layers.Layer | None],
    *,
    taps: Mapping[str, keras.layers.Layer] | None = None,
    sources: Mapping[str, str] | None = None,
) -> keras.Model:
    """A copy of `model` in which `make(site)` stands at each site.

    Args:
        model: functional tf_keras model.
        make: returns the new layer (named `site.name`, so that sites keep stable names), or None to leave the site's ReLU.
            A layer with two outputs gives the site's output and, as second, what other sites may read.
        taps: layers that read the pre-activations of the named sites, for other sites to read.
        sources: {site: earlier or same site}; the layer of the first is called with [x, what was tapped at the second].

    Returns:
        A functional model with the same inputs, outputs and weights.

    Raises:
        UserError: a model that cannot be edited, see `require_functional`; a nested model that is called more than once;
            a source that is not computed before the site that reads it, or lies in another nested model.
    """
    rebuild = _Rebuild(require_functional(model), site=make)
    rebuild.taps, rebuild.sources = taps or {}, sources or {}
    return rebuild.run()


def preactivations(model: keras.Model, names: Sequence[str]) -> keras.Model:
    """A model with the weights of `model` whose outputs are the inputs of the named ReLU sites, in that order.

    Raises:
        UserError: as `replace_sites`; no such site, or one inside a nested model (`splitting.unpack` it first).
    """
    known = [site.name for site in find_sites(model)]
    explicit = replace_sites(model, lambda site: None)
    own = {layer.name for layer in explicit.layers}
    for name in names:
        if name not in known or name not in own:
            raise unknown_key(f"ReLU site of {model.name!r}", name, [site for site in known if site in own])
    return keras.Model(explicit.inputs, [explicit.get_layer(name).input for name in names], name="preactivations")


def replace_layers(model: keras.Model, make: Callable[[keras.layers.Layer], keras.layers.Layer | None]) -> keras.Model:
    """A copy of `model` in which layer `l` is exchanged for `make(l)`; None keeps it, DROPPED leaves it out. Sites are not
    split out."""
    return _Rebuild(require_functional(model), layer=make).run()


def copy_model(model: keras.Model) -> keras.Model:
    """A copy of `model` with weights of its own, made under the current distribution strategy."""
    return replace_layers(model, lambda layer: None)


def rewire(model: keras.Model, make: Rewiring) -> keras.Model:
    """A copy of `model` in which any layer's call may be computed otherwise, from any tensors computed before it.

    Args:
        make: called as make(layer, inputs, lookup) at each call of a layer, in order: `inputs` are its tensors in the
            copy, and `lookup(tensor)` is the copy of any earlier tensor of `model`. Returns the new output, or None to
            keep the layer. Weights of the layers it makes are its own affair.
    """
    return _Rebuild(require_functional(model), call=make).run()


def is_plain_relu(layer: keras.layers.Layer) -> bool:
    """Whether `layer` is nothing but a ReLU without an upper bound."""
    return _relu_of(layer) == (True, None)


class _Rebuild:
    """One walk over a functional graph that builds its edited copy."""

    def __init__(
        self,
        model: keras.Model,
        *,
        site: Callable[[Site], keras.layers.Layer | None] | None = None,
        layer: Callable[[keras.layers.Layer], keras.layers.Layer | None] | None = None,
        call: Rewiring | None = None,
        prefix: str = "",
    ) -> None:
        self.model, self.make_site, self.make_layer, self.make_call = model, site, layer, call
        self.tensors = _Reusable()
        self.copies: dict[int, keras.layers.Layer] = {}
        self.cloned: set[int] = set()
        self.prefix = prefix
        self.taps: Mapping[str, keras.layers.Layer] = {}
        self.sources: Mapping[str, str] = {}
        self.tapped: dict[str, Any] = {}
        self.sites = {id(node): (found, own) for node, found, own in _own_sites(model, prefix)} if site else {}

    def run(self) -> keras.Model:
        _require_called_once(self.model)
        inputs = [self._input(tensor) for tensor in self.model.inputs]
        for node in nodes_in_order(self.model):
            if not node.is_input:
                self._node(node)
        outputs = [self.tensors.get_tensor(tensor) for tensor in self.model.outputs]
        rebuilt = keras.Model(
            _packed(self.model.input, inputs), _packed(self.model.output, outputs), name=self.model.name
        )
        for old in self.model.layers:
            if id(old) in self.cloned and old.weights:
                self.copies[id(old)].set_weights(old.get_weights())
        return rebuilt

    def _input(self, tensor: Any) -> Any:
        shape, name = tensor.shape[1:], tensor.node.layer.name
        new = keras.Input(shape=shape, batch_size=tensor.shape[0], dtype=tensor.dtype, name=name)
        self.tensors.put(tensor, new)
        return new

    def _node(self, node: Any) -> None:
        args, kwargs = node.map_arguments(self.tensors)
        outputs = None
        if self.make_call is not None:
            outputs = self.make_call(node.layer, tf.nest.flatten(args), self.tensors.get_tensor)
        outputs = self._apply(node, args, kwargs) if outputs is None else outputs
        for old, new in zip(tf.nest.flatten(node.outputs), tf.nest.flatten(outputs), strict=True):
            self.tensors.put(old, new)

    def _apply(self, node: Any, args: Any, kwargs: Any) -> Any:
        layer = node.layer
        if self.make_site is None or id(node) not in self.sites:
            copy = self._copy(layer)
            return tf.nest.flatten(args)[0] if copy is DROPPED else copy(*args, **kwargs)
        site, own_layer = self.sites[id(node)]
        x = tf.nest.flatten(args)[0] if own_layer else self._copy(layer, activation="linear")(*args, **kwargs)
        made = self.make_site(site) or keras.layers.ReLU(site.max_value, name=site.name, dtype=layer.dtype_policy)
        return self._place(site, made, x)

    def _place(self, site: Site, made: keras.layers.Layer, x: Any) -> Any:
        if site.name in self.taps:
            self.tapped[site.name] = self.taps[site.name](x)
        source = self.sources.get(site.name)
        if source is not None and source not in self.tapped:
            raise UserError(
                f"Site {site.name!r} cannot read {source!r}, which is not computed before it in this model."
            )
        outputs = made(x if source is None else [x, self.tapped[source]])
        if not isinstance(outputs, (list, tuple)):
            return outputs
        y, self.tapped[site.name] = outputs
        return y

    def _copy(self, layer: keras.layers.Layer, **changes: Any) -> keras.layers.Layer:
        if id(layer) not in self.copies:
            self.copies[id(layer)] = self._new(layer, changes)
        return self.copies[id(layer)]

    def _new(self, layer: keras.layers.Layer, changes: dict[str, Any]) -> keras.layers.Layer:
        if isinstance(layer, keras.Model):
            prefix = f"{self.prefix}{layer.name}_"
            makers: dict[str, Any] = {"site": self.make_site, "layer": self.make_layer, "call": self.make_call}
            return _Rebuild(require_functional(layer), prefix=prefix, **makers).run()
        made = self.make_layer(layer) if self.make_layer else None
        if made is not None:
            return made
        try:
            new = type(layer).from_config({**layer.get_config(), **changes})
        except NotImplementedError:
            raise UserError(
                f"Layer {layer.name!r} ({type(layer).__name__}) cannot be copied: its class has arguments but no get_config."
            ) from None
        self.cloned.add(id(layer))
        new.trainable = layer.trainable
        return new


def _require_called_once(model: keras.Model) -> None:
    """Sites of a nested model that is called twice would share one mask for two places."""
    seen: set[int] = set()
    for node in nodes_in_order(model):
        if isinstance(node.layer, keras.Model) and id(node.layer) in seen:
            raise UserError(f"The nested model {node.layer.name!r} is called more than once; flatten the model first.")
        seen.add(id(node.layer))


def _own_sites(model: keras.Model, prefix: str) -> Iterator[tuple[Any, Site, bool]]:
    """(node, site, the layer is nothing but the ReLU) for the nodes of `model` itself, nested models left out."""
    calls: dict[int, int] = {}
    names = {layer.name for layer in model.layers}
    for node in nodes_in_order(model):
        found = None if node.is_input else _relu_of(node.layer)
        if found is None:
            continue
        own_layer, max_value = found
        call = calls[id(node.layer)] = calls.get(id(node.layer), 0) + 1
        yield (
            node,
            Site(_site_name(node.layer, own_layer, call, prefix, names), _image_shape(node), max_value),
            own_layer,
        )


def _walk_sites(model: keras.Model, prefix: str = "") -> Iterator[tuple[Any, Site, bool]]:
    _require_called_once(model)
    own = {id(node): (node, site, own_layer) for node, site, own_layer in _own_sites(model, prefix)}
    for node in nodes_in_order(model):
        if id(node) in own:
            yield own[id(node)]
        elif isinstance(node.layer, keras.Model):
            yield from _walk_sites(require_functional(node.layer), f"{prefix}{node.layer.name}_")


def _site_name(layer: keras.layers.Layer, own_layer: bool, call: int, prefix: str, names: set[str]) -> str:
    base = layer.name.replace("/", "_").replace(".", "_")
    name = base if own_layer else f"{base}_relu"
    name = name if call == 1 else f"{name}_call{call}"
    # A layer of that name that is not this one would make two layers of one name.
    name = f"{name}_site" if name in names and name != layer.name else name
    return name if name.startswith(prefix) else prefix + name


def _image_shape(node: Any) -> tuple[int, ...]:
    return tuple(node.outputs.shape[1:])


def nodes_in_order(model: keras.Model) -> Iterator[Any]:
    """The calls of layers in `model` in an order in which they can be computed, inputs included."""
    for depth in sorted(model._nodes_by_depth, reverse=True):
        yield from model._nodes_by_depth[depth]


def _packed(structure: Any, tensors: list[Any]) -> Any:
    return tf.nest.pack_sequence_as(structure, tensors) if tf.nest.is_nested(structure) else tensors[0]


def _relu_of(layer: keras.layers.Layer) -> tuple[bool, float | None] | None:
    """(the layer is nothing but a ReLU, max_value), or None when no ReLU is in it."""
    if isinstance(layer, keras.layers.ReLU):
        plain = float(np.asarray(layer.negative_slope)) == 0.0 and float(np.asarray(layer.threshold)) == 0.0
        return (True, None if layer.max_value is None else float(layer.max_value)) if plain else None
    symbol = getattr(layer, "symbol", None)
    if symbol in _RELU_OPS:
        return True, _RELU_OPS[symbol]
    activation = getattr(layer, "activation", None)
    if activation in (keras.activations.relu, tf.nn.relu):
        return isinstance(layer, keras.layers.Activation), None
    if activation is tf.nn.relu6:
        return isinstance(layer, keras.layers.Activation), 6.0
    return None
