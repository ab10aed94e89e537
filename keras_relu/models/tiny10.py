"""Tiny-10: eight unpadded convolutions for 32x32 images, with or without batch normalisation.

Csiszarik et al., "Similarity and Matching of Neural Network Representations" (2021, arXiv 2110.14633). Layers have the
original's names, conv1, bn1, relu1 to relu8, fc.
"""

from __future__ import annotations

import tf_keras as keras

from keras_relu.errors import UserError
from keras_relu.models.registry import register
from keras_relu.models.torch_defaults import TorchDefaults

__all__ = ["build_tiny10"]

# (kernel, stride, filters)
_UNITS = ((3, 1, 16), (3, 1, 16), (3, 2, 32), (3, 1, 32), (3, 1, 32), (3, 2, 64), (3, 1, 64), (1, 1, 64))
_LEAST_SIZE = 27


@register("tiny10", family="tiny10", fixed={"batch_norm": True})
@register("nbn_tiny10", family="tiny10", fixed={"batch_norm": False})
def build_tiny10(
    name: str, input_shape: tuple[int, int, int], classes: int, seed: int | None, *, batch_norm: bool
) -> keras.Model:
    """A Tiny-10.

    Args:
        batch_norm: whether each convolution is normalised.

    Raises:
        UserError: images smaller than 27x27, of which the unpadded convolutions leave nothing.
    """
    if min(input_shape[:2]) < _LEAST_SIZE:
        raise UserError(
            f"The convolutions of {name!r} are not padded, so images must be at least {_LEAST_SIZE}x{_LEAST_SIZE}, "
            f"received {input_shape[0]}x{input_shape[1]}."
        )
    layers = TorchDefaults(seed)
    inputs = keras.Input(input_shape, name="image")
    x = inputs
    for number, (kernel, strides, filters) in enumerate(_UNITS, start=1):
        x = layers.biased_conv(x, filters, kernel, strides=strides, name=f"conv{number}")
        x = layers.bn(x, name=f"bn{number}") if batch_norm else x
        x = layers.relu(x, name=f"relu{number}")
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.logits(x, classes, name="fc"), name=name)
