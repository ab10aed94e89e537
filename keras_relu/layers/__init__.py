"""Small serialisable layers shared by the model families; importing the package registers them with tf_keras."""

from keras_relu.layers import (
    channel_affine,
    channel_shuffle,
    class_specific,
    fake_quant,
    padding,
    response_norm,
    shortcut,
    stitch,
    ternary,
)

__all__ = [
    "channel_affine",
    "channel_shuffle",
    "class_specific",
    "fake_quant",
    "padding",
    "response_norm",
    "shortcut",
    "stitch",
    "ternary",
]
