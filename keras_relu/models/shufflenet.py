"""ShuffleNet v1 with three groups for 32x32 images (Zhang et al. 2018, arXiv 1707.01083), and its variant for fusion.

The modified unit is turned inside out: it expands, shuffles, reduces, and convolves depthwise on the narrow side, with
two ReLUs where the original has one, and none behind the sum (spec fusion, sections 1.6 and 1.7).
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras as keras

from keras_relu.models.compact_blocks import CompactBlocks, Decay, Row, chosen_decay, rows, scaled
from keras_relu.models.registry import register

__all__ = ["build_shufflenet", "build_shufflenet_inverted"]

_GROUPS = 3

_BASELINE = rows(
    (1, Row(240, 24)),
    (3, Row(240, 60)),
    (1, Row(480, 60, strides=2)),
    (7, Row(480, 120)),
    (1, Row(960, 120, strides=2)),
    (3, Row(960, 240)),
)
_MODIFIED = rows(
    (1, Row(18, 2574, residual=False)),
    (1, Row(18, 2574)),
    (1, Row(24, 2574, strides=2)),
    (3, Row(24, 2574)),
    (1, Row(42, 2574, strides=2)),
    (7, Row(42, 2604)),
    (1, Row(84, 2604)),
)


def build_shufflenet(
    name: str,
    input_shape: tuple[int, int, int],
    classes: int,
    seed: int | None,
    *,
    decay: Decay,
    width: float,
    l2: float | str,
) -> keras.Model:
    """The original ShuffleNet.

    Args:
        width: factor of the bottleneck channels of the units.
        l2: "original", or one coefficient for all convolution and dense kernels.

    Raises:
        UserError: an option out of range.
    """
    blocks = CompactBlocks(seed, chosen_decay(l2, decay))
    inputs = keras.Input(input_shape, name="image")
    x = blocks.conv_bn(inputs, 24, 3, l2=blocks.decay.stem, relu=True, prefix="stem")
    for number, row in enumerate(_BASELINE):
        x = _unit(blocks, x, row, number, width)
    return keras.Model(inputs, blocks.head(x, classes), name=name)


def _unit(blocks: CompactBlocks, x: tf.Tensor, row: Row, number: int, width: float) -> tf.Tensor:
    prefix = f"block{number}"
    options: dict[str, Any] = {"l2": blocks.decay.block(number), "groups": _GROUPS}
    hidden = scaled(row.hidden, width, _GROUPS)
    y = blocks.conv_bn(x, hidden, relu=True, prefix=f"{prefix}_reduce", **options)
    y = blocks.shuffle(y, _GROUPS, prefix=prefix)
    y = blocks.depthwise_bn(y, row.kernel, row.strides, relu=False, prefix=f"{prefix}_depthwise")
    y = blocks.conv_bn(y, _branch_channels(x, row), relu=False, prefix=f"{prefix}_expand", **options)
    return keras.layers.ReLU(name=f"{prefix}_relu")(_combine(x, y, row, prefix))


def build_shufflenet_inverted(
    name: str,
    input_shape: tuple[int, int, int],
    classes: int,
    seed: int | None,
    *,
    decay: Decay,
    width: float,
    l2: float | str,
) -> keras.Model:
    """The modified ShuffleNet; options and errors as in `build_shufflenet`."""
    blocks = CompactBlocks(seed, chosen_decay(l2, decay))
    inputs = keras.Input(input_shape, name="image")
    x = blocks.conv_bn(inputs, 24, 3, l2=blocks.decay.stem, relu=True, prefix="stem")
    x = blocks.conv_bn(x, 24, l2=blocks.decay.stem, relu=True, prefix="stem_pointwise", groups=_GROUPS)
    x = blocks.shuffle(x, _GROUPS, prefix="stem")
    x = blocks.depthwise_bn(x, 3, relu=False, prefix="stem_depthwise")
    for number, row in enumerate(_MODIFIED, 1):
        x = _inverted_unit(blocks, x, row, number, width)
    x = blocks.conv_bn(x, 960, l2=blocks.decay.tail, relu=True, prefix="tail", groups=_GROUPS)
    return keras.Model(inputs, blocks.head(x, classes), name=name)


def _inverted_unit(blocks: CompactBlocks, x: tf.Tensor, row: Row, number: int, width: float) -> tf.Tensor:
    prefix = f"block{number}"
    options: dict[str, Any] = {"l2": blocks.decay.block(number), "groups": _GROUPS}
    hidden = scaled(row.hidden, width, _GROUPS)
    y = blocks.conv_bn(x, hidden, relu=True, prefix=f"{prefix}_expand", **options)
    y = blocks.shuffle(y, _GROUPS, prefix=prefix)
    y = blocks.conv_bn(y, _branch_channels(x, row), relu=True, prefix=f"{prefix}_project", **options)
    y = blocks.depthwise_bn(y, row.kernel, row.strides, relu=False, prefix=f"{prefix}_depthwise")
    return _combine(x, y, row, prefix)


def _branch_channels(x: tf.Tensor, row: Row) -> int:
    """The channels that the branch has to supply: all of them, unless the pooled input is set beside it."""
    return row.outputs - x.shape[-1] if _concatenates(x, row) else row.outputs


def _concatenates(x: tf.Tensor, row: Row) -> bool:
    return row.residual and (row.strides != 1 or x.shape[-1] != row.outputs)


def _combine(x: tf.Tensor, branch: tf.Tensor, row: Row, prefix: str) -> tf.Tensor:
    """The sum with the input, or branch and averaged input side by side."""
    if not row.residual:
        return branch
    if not _concatenates(x, row):
        return keras.layers.Add(name=f"{prefix}_add")([branch, x])
    pooled = keras.layers.AveragePooling2D(3, row.strides, "same", name=f"{prefix}_pool")(x)
    return keras.layers.Concatenate(name=f"{prefix}_concat")([branch, pooled])


_MODIFIED_DECAY = Decay(4e-5, ((1, 2e-4), (3, 1e-4)), 1e-4, 4e-5)

for _name, _builder, _decay in (
    ("shufflenet_baseline_cifar10", build_shufflenet, Decay.uniform(1e-4)),
    ("shufflenet_modified_cifar10", build_shufflenet_inverted, _MODIFIED_DECAY),
):
    register(_name, family="shufflenet", fixed={"decay": _decay}, options={"width": 1.0, "l2": 0.0})(_builder)
