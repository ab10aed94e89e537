"""Activations that can be gated, replaced and frozen: pure functions under thin serialisable layers."""

from keras_relu.activations import (
    aliases,
    fixed,
    functional,
    gates,
    induced,
    lowered,
    masked,
    moments,
    predicted,
    replacements,
)
from keras_relu.activations.fixed import FixedActivation
from keras_relu.activations.functional import masked_relu
from keras_relu.activations.induced import InducedReLU, InducerReLU, PrototypeBits
from keras_relu.activations.lowered import LoweredActivation
from keras_relu.activations.masked import MaskedReLU
from keras_relu.activations.predicted import PredictedReLU, predicted_relu

__all__ = [
    "FixedActivation",
    "InducedReLU",
    "InducerReLU",
    "LoweredActivation",
    "MaskedReLU",
    "PredictedReLU",
    "PrototypeBits",
    "aliases",
    "fixed",
    "functional",
    "gates",
    "induced",
    "lowered",
    "masked",
    "masked_relu",
    "moments",
    "predicted",
    "predicted_relu",
    "replacements",
]
