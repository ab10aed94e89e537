"""Wide ResNets with pre-activation blocks (Zagoruyko & Komodakis 2016, arXiv 1605.07146).

`wide_resnet_D_K`: depth D = 6n+4, width factor K. As in the ReLU-reduction literature there is no ReLU behind the last
normalisation, which puts 1,359,872 ReLUs into `wide_resnet_22_8` at 32x32.
"""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras

from keras_relu.errors import UserError
from keras_relu.models.blocks import Blocks
from keras_relu.models.registry import register

__all__ = ["build_wide_resnet"]


def build_wide_resnet(
    name: str,
    input_shape: tuple[int, int, int],
    classes: int,
    seed: int | None,
    *,
    depth: int,
    width: int,
    dropout: float,
) -> keras.Model:
    """A wide ResNet.

    Args:
        depth: 6n+4.
        width: the stages have 16, 32 and 64 times as many filters.
        dropout: fraction dropped between the two convolutions of a block; 0 leaves the layer out.

    Raises:
        UserError: a dropout outside [0, 1).
    """
    if not 0 <= dropout < 1:
        raise UserError(f"The dropout fraction must be in [0, 1), received {dropout!r}.")
    blocks = Blocks(seed)
    inputs = keras.Input(input_shape, name="image")
    x = blocks.conv(inputs, 16, 3, name="stem_conv")
    for stage in (1, 2, 3):
        for block in range(1, (depth - 4) // 6 + 1):
            strides = 2 if stage > 1 and block == 1 else 1
            prefix = f"stage{stage}_block{block}"
            x = _block(blocks, x, 8 * 2**stage * width, strides=strides, dropout=dropout, prefix=prefix)
    x = blocks.bn(x, name="final_bn")
    return keras.Model(inputs, blocks.head(x, classes), name=name)


def _block(blocks: Blocks, x: tf.Tensor, filters: int, *, strides: int, dropout: float, prefix: str) -> tf.Tensor:
    active = blocks.relu(blocks.bn(x, name=f"{prefix}_bn1"), name=f"{prefix}_relu1")
    y = blocks.conv(active, filters, 3, strides=strides, name=f"{prefix}_conv1")
    y = blocks.relu(blocks.bn(y, name=f"{prefix}_bn2"), name=f"{prefix}_relu2")
    if dropout:
        y = keras.layers.Dropout(dropout, name=f"{prefix}_dropout")(y)
    y = blocks.conv(y, filters, 3, name=f"{prefix}_conv2")
    if x.shape[-1] != filters:
        x = blocks.conv(active, filters, 1, strides=strides, name=f"{prefix}_shortcut_conv")
    return keras.layers.Add(name=f"{prefix}_add")([y, x])


for _depth, _width in ((16, 8), (22, 8), (28, 10), (28, 12)):
    register(
        f"wide_resnet_{_depth}_{_width}",
        family="wide_resnet",
        fixed={"depth": _depth, "width": _width},
        options={"dropout": 0.0},
    )(build_wide_resnet)
