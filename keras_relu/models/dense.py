"""Three hidden dense layers of 300 units, with the layer names of the stitching work (arXiv 2110.14633)."""

from __future__ import annotations

import tf_keras as keras

from keras_relu.models.registry import register
from keras_relu.models.torch_defaults import TorchDefaults

__all__ = ["build_dense"]

_HIDDEN = 300


@register("dense", family="dense")
def build_dense(name: str, input_shape: tuple[int, int, int], classes: int, seed: int | None) -> keras.Model:
    """Pixels, 300, 300, 300, classes, with ReLU between."""
    layers = TorchDefaults(seed)
    inputs = keras.Input(input_shape, name="image")
    x = layers.flat(inputs)
    for number in (1, 2, 3):
        x = layers.relu(layers.dense(x, _HIDDEN, name=f"fc{number}"), name=f"relu{number}")
    return keras.Model(inputs, layers.logits(x, classes, name="fc4"), name=name)
