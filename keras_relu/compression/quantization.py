"""Quantization-aware training that keeps the zeros of every kernel, through tensorflow-model-optimization.

The library's pruning-preserving scheme leaves depthwise kernels out; the one here does not (spec fusion, section 9.3).
Layers of this package, products of two tensors and batch normalisations without a convolution in front get registered
configurations, which the library asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras
from tensorflow_model_optimization.python.core.quantization.keras.collab_opts.prune_preserve import (
    default_8bit_prune_preserve_quantize_scheme as preserving_scheme,
)
from tensorflow_model_optimization.python.core.quantization.keras.collab_opts.prune_preserve import (
    prune_preserve_quantize_registry as preserving,
)
from tensorflow_model_optimization.python.core.quantization.keras.default_8bit.default_8bit_quantize_registry import (
    Default8BitQuantizeRegistry,
)
from tensorflow_model_optimization.python.core.quantization.keras.quantize_layer import QuantizeLayer

from keras_relu import surgery
from keras_relu.compression.masks import matching, short_name
from keras_relu.compression.own_layers import OWN_OUTPUT, OWN_PASS, OWN_WITH_KERNEL, kernel_names
from keras_relu.errors import UserError

__all__ = [
    "KernelConfig",
    "OutputConfig",
    "PassConfig",
    "assign_state",
    "collect_state",
    "config_for",
    "plain_model",
    "quantize",
]

_quantizers = tfmot.quantization.keras.quantizers


class _Config(tfmot.quantization.keras.QuantizeConfig):
    """Rounds nothing; what the others build on."""

    def get_weights_and_quantizers(self, layer: keras.layers.Layer) -> list:
        return []

    def get_activations_and_quantizers(self, layer: keras.layers.Layer) -> list:
        return []

    def set_quantize_weights(self, layer: keras.layers.Layer, quantize_weights: list) -> None:
        pass

    def set_quantize_activations(self, layer: keras.layers.Layer, quantize_activations: list) -> None:
        pass

    def get_output_quantizers(self, layer: keras.layers.Layer) -> list:
        return []

    def get_config(self) -> dict[str, Any]:
        return {}


@keras.saving.register_keras_serializable(package="keras_relu")
class PassConfig(_Config):
    """For layers that only move values, or round them themselves: channel shuffle, padding, ternary convolutions."""


@keras.saving.register_keras_serializable(package="keras_relu")
class OutputConfig(_Config):
    """For layers whose output needs a range of its own: int8 with a moving average of minimum and maximum."""

    def get_output_quantizers(self, layer: keras.layers.Layer) -> list:
        """One quantizer for the one output."""
        return [_quantizers.MovingAverageQuantizer(num_bits=8, per_axis=False, symmetric=False, narrow_range=False)]


@keras.saving.register_keras_serializable(package="keras_relu")
class KernelConfig(OutputConfig):
    """For layers with a kernel: symmetric int8, so that zeros stay zero, and the output as in `OutputConfig`."""

    def get_weights_and_quantizers(self, layer: keras.layers.Layer) -> list:
        """Every kernel of the layer."""
        quantizer = _quantizers.LastValueQuantizer(num_bits=8, per_axis=False, symmetric=True, narrow_range=True)
        return [(getattr(layer, name), quantizer) for name in kernel_names(layer)]

    def set_quantize_weights(self, layer: keras.layers.Layer, quantize_weights: list) -> None:
        """Puts the rounded kernels in the place of the exact ones."""
        for name, weight in zip(kernel_names(layer), quantize_weights, strict=True):
            setattr(layer, name, weight)


_CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)


class _Registry(preserving.Default8bitPrunePreserveQuantizeRegistry):
    """The library's registry, with depthwise kernels among those whose zeros are kept."""

    _LAYERS_CONFIG_MAP: ClassVar[dict] = {
        **preserving.PrunePreserveQuantizeRegistry._LAYERS_CONFIG_MAP,
        keras.layers.DepthwiseConv2D: preserving._PrunePreserveInfo(
            ["depthwise_kernel"], ["Default8BitConvQuantizeConfig"]
        ),
    }
    _DISABLE_PRUNE_PRESERVE: ClassVar[frozenset] = frozenset()


class _Scheme(preserving_scheme.Default8BitPrunePreserveQuantizeScheme):
    def get_quantize_registry(self) -> _Registry:
        return _Registry()


def quantize(model: keras.Model, *, exclude: Sequence[str] = ()) -> keras.Model:
    """A copy of `model` that rounds weights and activations to int8 in training and inference, with gradients as if not.

    Args:
        model: functional; made of layers that the library or this package knows.
        exclude: names or shell patterns of layers that stay in floating point.

    Raises:
        UserError: a layer that neither knows, a model inside the model, or a pattern that matches nothing.
    """
    names = [layer.name for layer in surgery.require_functional(model).layers]
    left_out = set(matching(names, exclude, kind="layer"))
    copy = surgery.copy_model(model)

    def annotate(layer: keras.layers.Layer) -> keras.layers.Layer:
        if layer.name in left_out:
            return layer
        return tfmot.quantization.keras.quantize_annotate_layer(layer, config_for(layer))

    for layer in copy.layers:
        if layer.name not in left_out:
            _require_known(layer)
    return tfmot.quantization.keras.quantize_apply(
        keras.models.clone_model(copy, clone_function=annotate), scheme=_Scheme()
    )


def config_for(layer: keras.layers.Layer) -> tfmot.quantization.keras.QuantizeConfig | None:
    """The configuration for a layer that the library does not quantize by itself; None for all others."""
    if isinstance(layer, OWN_WITH_KERNEL):
        return KernelConfig()
    if isinstance(layer, OWN_PASS):
        return PassConfig()
    return OutputConfig() if isinstance(layer, (*OWN_OUTPUT, keras.layers.Multiply)) or _is_lone_norm(layer) else None


def plain_model(model: keras.Model, quantized: keras.Model) -> keras.Model:
    """A copy of `model`, the network `quantized` was made of, with the weights that `quantized` learned."""
    plain = surgery.copy_model(model)
    learned = {_inner_name(layer): layer for layer in quantized.layers}
    for layer in plain.layers:
        by_name = {short_name(variable): variable for variable in learned[layer.name].weights} if layer.weights else {}
        layer.set_weights([by_name[short_name(variable)].numpy() for variable in layer.weights])
    return plain


def collect_state(model: keras.Model, quantized: keras.Model) -> dict[str, np.ndarray]:
    """What a quantized model has besides the weights of `model`: ranges and counters, keyed `<layer>/<variable>`."""
    return {key: variable.numpy() for key, variable in _state(model, quantized).items()}


def assign_state(model: keras.Model, quantized: keras.Model, state: dict[str, np.ndarray]) -> None:
    """Give a newly quantized `model` the state of an earlier one.

    Raises:
        UserError: the state belongs to another network; nothing is assigned then.
    """
    variables = _state(model, quantized)
    different = sorted(set(state) ^ set(variables))
    different += [key for key, v in variables.items() if key in state and tuple(v.shape) != state[key].shape]
    if different:
        raise UserError(
            f"The ranges of the quantized model belong to another network; the first difference: {different[0]!r}."
        )
    for key, variable in variables.items():
        variable.assign(state[key])


def _state(model: keras.Model, quantized: keras.Model) -> dict[str, tf.Variable]:
    own = {layer.name: {short_name(v) for v in layer.weights} for layer in model.layers}
    return {
        f"{_inner_name(layer)}/{short_name(variable).removeprefix(f'{layer.name}_')}": variable
        for layer in quantized.layers
        for variable in layer.weights
        if short_name(variable) not in own.get(_inner_name(layer), ())
    }


def _inner_name(layer: keras.layers.Layer) -> str:
    # The library numbers its input layers, and with them their variables, through the process.
    if isinstance(layer, QuantizeLayer):
        return "input"
    return layer.layer.name if isinstance(layer, keras.layers.Wrapper) else layer.name


def _require_known(layer: keras.layers.Layer) -> None:
    if isinstance(layer, keras.Model):
        raise UserError(f"{layer.name!r} is a model inside the model; flatten it first (splitting.unpack).")
    known = isinstance(layer, (keras.layers.InputLayer, keras.layers.BatchNormalization))
    if not known and config_for(layer) is None and not Default8BitQuantizeRegistry().supports(layer):
        raise UserError(
            f"Layer {layer.name!r} ({type(layer).__name__}) cannot be quantized; leave it in floating point with exclude."
        )


def _is_lone_norm(layer: keras.layers.Layer) -> bool:
    """A batch normalisation that the library cannot merge with a convolution in front of it."""
    if not isinstance(layer, keras.layers.BatchNormalization):
        return False
    before = tf.nest.flatten(layer.inbound_nodes[0].inbound_layers)[0]
    return not isinstance(before, _CONVOLUTIONS) or len(before.outbound_nodes) > 1
