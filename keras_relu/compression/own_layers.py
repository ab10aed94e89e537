"""How tensorflow-model-optimization is to treat the layers of this package: which weights it prunes, what it rounds."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_relu import layers
from keras_relu.activations import fixed, induced, lowered, masked, predicted

__all__ = ["OWN_OUTPUT", "OWN_PASS", "OWN_WITH_KERNEL", "kernel_names"]

# They only move values, or round them themselves; the inducers have two outputs, of which one holds bits.
OWN_PASS = (
    induced.InducerReLU,
    induced.PrototypeBits,
    layers.channel_shuffle.ChannelShuffle,
    layers.fake_quant.FakeQuant,
    layers.padding.EdgePadding2D,
    layers.shortcut.ZeroPadShortcut,
    layers.ternary.TernaryConv2D,
    layers.ternary.TernaryDepthwiseConv2D,
)
# Their outputs have ranges of their own.
OWN_OUTPUT = (
    fixed.FixedActivation,
    induced.InducedReLU,
    layers.channel_affine.ChannelAffine,
    layers.response_norm.LocalResponseNormalization,
    lowered.LoweredActivation,
    masked.MaskedReLU,
    predicted.PredictedReLU,
)
OWN_WITH_KERNEL = (layers.class_specific.ClassSpecificDense, layers.stitch.Stitch)

_KERNELS = ("kernel", "first", "second")


def kernel_names(layer: Any) -> list[str]:
    """The attributes of a layer of this package that hold kernels: one, or the two factors of a stitch of low rank."""
    if not isinstance(layer, OWN_WITH_KERNEL):
        return []
    return [name for name in _KERNELS if getattr(layer, name, None) is not None]


def _prunable_weights(self: Any) -> list[tf.Variable]:
    """Weights that the library may prune."""
    return [getattr(self, name) for name in kernel_names(self)]


# The method the library asks layers for; the classes themselves need not know of it.
for _kind in (*OWN_PASS, *OWN_OUTPUT, *OWN_WITH_KERNEL):
    _kind.get_prunable_weights = _prunable_weights
