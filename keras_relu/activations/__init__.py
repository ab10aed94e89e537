"""Activations that can be gated, replaced and frozen: pure functions under thin serialisable layers."""

from keras_relu.activations import aliases, fixed, functional, gates, masked, moments, replacements
from keras_relu.activations.fixed import FixedActivation
from keras_relu.activations.functional import masked_relu
from keras_relu.activations.masked import MaskedReLU

__all__ = [
    "FixedActivation",
    "MaskedReLU",
    "aliases",
    "fixed",
    "functional",
    "gates",
    "masked",
    "masked_relu",
    "moments",
    "replacements",
]
