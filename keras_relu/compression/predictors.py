"""Predictors put into a network: a ternary copy of a convolution says which of its activations survive the ReLU.

With x the narrow input of a block, e the exact path and z the predictor's pre-activation (spec `fusion`, section 4.2):

```
z1 = BN1'(conv(FQ(x), tern(W1)))            e1 = BN1(conv(x, W1))          h1 = e1 where z1 > 0, else 0
z2 = BN2'(dw(FQ(relu(z1)), tern(D)))        e2 = BN2(dw(h1, D))            h2 = e2 where z2 > 0, else 0
```
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import tf_keras as keras
from pydantic import Field

from keras_relu import surgery
from keras_relu.activations.predicted import PredictedReLU
from keras_relu.compression.blocks import Block, ConvSite, find_blocks, find_conv_sites
from keras_relu.config import Config
from keras_relu.errors import UserError
from keras_relu.layers.fake_quant import FakeQuant
from keras_relu.layers.ternary import TernaryConv2D, TernaryDepthwiseConv2D, ternarise

__all__ = ["Predictors", "insert_predictors", "predicted_sites"]

_SUFFIX = "_predictor"
# What the originals froze besides (spec fusion, section 4.4), by the name of the network.
_ORIGINAL = {"shufflenet_modified_*": ["stem_pointwise_conv", "tail_conv"]}
# What a ternary convolution decides by itself.
_DROPPED = ("kernel_regularizer", "kernel_constraint", "depthwise_regularizer", "depthwise_constraint")


class Predictors(Config):
    """How and where predictors are put in."""

    mode: Literal["static", "ste", "projected"] = Field("static", description="what is trained, see TernaryConv2D")
    bits: int = Field(4, ge=2, le=16, description="of the activations that predictors read")
    minimum: float = Field(-6.0, le=0, description="of those activations")
    maximum: float = Field(6.0, gt=0)
    hidden_minimum: float = Field(-6.0, le=0, description="inside a block, where they are never negative")
    train_exact: bool = Field(
        False, description="also train the exact paths around their predictors; False: frozen, as the originals did"
    )
    regularizer: float = Field(0.0, ge=0, description="L2 of trained pointwise predictor kernels")
    include: list[str] | None = Field(None, description="names or patterns of sites; None: all blocks that widen")
    exclude: list[str] = Field([], description="names or patterns")
    freeze: list[str] | None = Field(
        None, description="layers to freeze besides the exact paths; names or patterns; None: the original's choice"
    )


def insert_predictors(model: keras.Model, config: Predictors | None = None) -> keras.Model:
    """A copy of `model` in which predictors decide its ReLUs, and the exact paths are frozen (spec section 4.4) or,
    with `train_exact`, trained around them.

    The new layers are `<convolution>_predictor_quant`, `<convolution>_predictor` and `<normalisation>_predictor`; the
    `PredictedReLU` keeps the name of the ReLU. A predictor starts as the ternarised kernel and the normalisation of the
    exact path. Frozen without `train_exact`: convolutions and normalisations of the predicted sites, and the projection
    of a bottleneck both of whose sites are predicted. All other layers stay as they are, trainable or not.

    Args:
        model: functional; its blocks or convolution + normalisation + ReLU sites are not nested in other models.
        config: default: static predictors in all blocks that widen.

    Raises:
        UserError: no site, or a name or pattern that matches none; `regularizer` for static predictors; predictors
            already in the model.
    """
    config = config or Predictors()
    if config.regularizer and config.mode == "static":
        raise UserError("regularizer has no effect on static predictors; choose mode 'ste' or 'projected'.")
    blocks = find_blocks(model)
    chosen = _chosen_sites(model, blocks, config)
    insertion = _Insertion(config, chosen, blocks)
    predicted = surgery.rewire(model, insertion)
    for site in chosen:
        _start_predictor(predicted, site)
    _freeze(predicted, chosen, blocks, config)
    return predicted


def predicted_sites(model: keras.Model) -> list[ConvSite]:
    """The sites of `model` that a predictor decides."""
    return [site for site in find_conv_sites(model) if site.predicted]


def _chosen_sites(model: keras.Model, blocks: Sequence[Block], config: Predictors) -> list[ConvSite]:
    sites = find_conv_sites(model)
    if any(isinstance(layer, PredictedReLU) for layer in surgery.iter_layers(model)):
        raise UserError(f"The model {model.name!r} has predictors already; start from the network without them.")
    names = {site.name: {site.name, site.conv.name} for site in sites}
    for block in blocks:
        for site in block.sites:
            names[site.name].add(block.name)
    if config.include is None:
        wanted = {site.name for block in blocks if block.widens for site in block.sites}
    else:
        wanted = _matching(config.include, names, "include")
    wanted -= _matching(config.exclude, names, "exclude")
    if not wanted:
        raise UserError(_nothing_found(model, names, config))
    return [site for site in sites if site.name in wanted]


def _matching(patterns: Iterable[str], names: dict[str, set[str]], option: str) -> set[str]:
    """The sites one of whose names matches a pattern; every pattern must match."""
    found: set[str] = set()
    for pattern in patterns:
        hits = {site for site, known in names.items() if any(fnmatch.fnmatchcase(name, pattern) for name in known)}
        if not hits:
            raise UserError(
                f"{option}: {pattern!r} matches no block and no convolution followed by batch normalisation and a ReLU "
                f"without upper bound; the sites are {_listed(names)}."
            )
        found |= hits
    return found


def _nothing_found(model: keras.Model, names: dict[str, set[str]], config: Predictors) -> str:
    if not names:
        nested = any(isinstance(layer, keras.Model) for layer in model.layers)
        return (
            f"{model.name!r} has no convolution followed by batch normalisation and a ReLU without upper bound"
            f"{' outside the models nested in it' if nested else ''}; there is nothing to predict."
        )
    if config.exclude:
        return f"exclude leaves no site of {model.name!r}; there is nothing to predict."
    return (
        f"{model.name!r} has no block that widens; name the sites that predictors shall decide with "
        f"include: {_listed(names)}."
    )


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") if names else "none"


class _Insertion:
    """What `surgery.rewire` calls: builds the predictor of a site where its ReLU stood."""

    def __init__(self, config: Predictors, chosen: Sequence[ConvSite], blocks: Sequence[Block]) -> None:
        self.config = config
        self.sites = {id(site.activation): site for site in chosen}
        # A second predictor reads the first one's output, unless the first site keeps its ReLU.
        self.blocks = {
            block.second.name: block for block in blocks if {id(s.activation) for s in block.sites} <= set(self.sites)
        }
        self.cascades = {block.first.name for block in self.blocks.values()}
        self.own: dict[str, Any] = {}

    def __call__(self, layer: keras.layers.Layer, inputs: list[Any], lookup: Any) -> Any:
        site = self.sites.get(id(layer))
        if site is None:
            return None
        (exact,) = inputs
        block = self.blocks.get(site.name)
        read = lookup(site.source) if block is None else self._moved(self.own[block.first.name], block)
        made = PredictedReLU(
            cascade=site.name in self.cascades,
            train_exact=self.config.train_exact,
            name=site.name,
            dtype=layer.dtype_policy,
        )
        output = made([self._predictor(site, read, hidden=block is not None), exact])
        if not made.cascade:
            return output
        output, self.own[site.name] = output
        return output

    def _moved(self, tensor: Any, block: Block) -> Any:
        for layer in block.between:
            tensor = _renamed(layer)(tensor)
        return tensor

    def _predictor(self, site: ConvSite, read: Any, *, hidden: bool) -> Any:
        minimum = self.config.hidden_minimum if hidden else self.config.minimum
        name = f"{site.conv.name}{_SUFFIX}"
        # Trained exact paths bring a block's input its gradient; with the predictors' beside it, it would double per block.
        reaches = hidden or not self.config.train_exact
        quantize = FakeQuant(
            minimum, self.config.maximum, bits=self.config.bits, pass_gradient=reaches, name=f"{name}_quant"
        )
        return _renamed(site.norm)(self._ternary(site, name)(quantize(read)))

    def _ternary(self, site: ConvSite, name: str) -> keras.layers.Layer:
        settings = {key: value for key, value in site.conv.get_config().items() if key not in _DROPPED}
        settings |= {"name": name, "mode": self.config.mode, "trainable": True}
        if site.depthwise:
            for key in ("filters", "groups", "kernel_initializer"):
                settings.pop(key, None)
            return TernaryDepthwiseConv2D.from_config(settings)
        if self.config.regularizer:
            settings["kernel_regularizer"] = keras.regularizers.L2(self.config.regularizer)
        return TernaryConv2D.from_config(settings)


def _renamed(layer: keras.layers.Layer) -> keras.layers.Layer:
    return type(layer).from_config({**layer.get_config(), "name": f"{layer.name}{_SUFFIX}", "trainable": True})


def _start_predictor(model: keras.Model, site: ConvSite) -> None:
    """Give the predictor of `site` in `model` the weights it starts from."""
    kernel, *bias = site.conv.get_weights()
    groups = 1 if site.depthwise else site.conv.groups
    model.get_layer(f"{site.conv.name}{_SUFFIX}").set_weights([ternarise(kernel, groups).numpy(), *bias])
    model.get_layer(f"{site.norm.name}{_SUFFIX}").set_weights(site.norm.get_weights())


def _freeze(model: keras.Model, chosen: Sequence[ConvSite], blocks: Sequence[Block], config: Predictors) -> None:
    names: set[str] = set()
    more = config.freeze
    if not config.train_exact:
        names |= {layer.name for site in chosen for layer in (site.conv, site.norm)}
        predicted = {site.name for site in chosen}
        whole = [block for block in blocks if {site.name for site in block.sites} <= predicted]
        names |= {block.last.name for block in whole if block.kind == "bottleneck"}
    if more is None and config.train_exact:
        more = []
    elif more is None:
        more = next((layers for name, layers in _ORIGINAL.items() if fnmatch.fnmatchcase(model.name, name)), [])
    for pattern in more:
        hits = {layer.name for layer in model.layers if fnmatch.fnmatchcase(layer.name, pattern)}
        if not hits:
            raise UserError(f"freeze: {pattern!r} matches no layer of {model.name!r}.")
        names |= hits
    for name in names:
        model.get_layer(name).trainable = False
