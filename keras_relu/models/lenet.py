"""LeNet-5 with ReLU and max-pooling, with the layer names of the stitching work (arXiv 2110.14633)."""

from __future__ import annotations

import tf_keras as keras

from keras_relu.errors import UserError
from keras_relu.models.registry import register
from keras_relu.models.torch_defaults import TorchDefaults

__all__ = ["build_lenet"]

_LEAST_SIZE = 16


@register("lenet", family="lenet", input_shape=(32, 32, 1))
def build_lenet(name: str, input_shape: tuple[int, int, int], classes: int, seed: int | None) -> keras.Model:
    """conv 6, pool, conv 16, pool, dense 120, 84, classes.

    Raises:
        UserError: images smaller than 16x16, of which nothing is left after the second pooling.
    """
    if min(input_shape[:2]) < _LEAST_SIZE:
        raise UserError(
            f"lenet needs images of at least {_LEAST_SIZE}x{_LEAST_SIZE}, received {input_shape[0]}x{input_shape[1]}."
        )
    layers = TorchDefaults(seed)
    inputs = keras.Input(input_shape, name="image")
    x = inputs
    for number, filters in ((1, 6), (2, 16)):
        x = layers.relu(layers.biased_conv(x, filters, 5, name=f"conv{number}"), name=f"relu{number}")
        x = keras.layers.MaxPooling2D(2, name=f"pool{number}")(x)
    x = layers.flat(x)
    x = layers.relu(layers.dense(x, 120, name="fc1"), name="relu3")
    x = layers.relu(layers.dense(x, 84, name="fc2"), name="relu4")
    return keras.Model(inputs, layers.logits(x, classes, name="fc3"), name=name)
