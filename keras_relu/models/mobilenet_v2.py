"""MobileNetV2 for 32x32 images (Sandler et al. 2018, arXiv 1801.04381), and its variant made for layer fusion.

Two down-samplings only, plain ReLUs, an expansion in every block. The modified network keeps the ends of its blocks
thin and its hidden width constant, because a fused block costs the same whatever that width is (spec fusion, 1.2, 1.3).
"""

from __future__ import annotations

from collections.abc import Sequence

import tf_keras as keras

from keras_relu.models.compact_blocks import CompactBlocks, Decay, Row, chosen_decay, rows
from keras_relu.models.registry import register

__all__ = ["build_mobilenet_v2"]

_BASELINE = rows(
    (1, Row(16, 32)),
    (1, Row(24, 96)),
    (1, Row(24, 144)),
    (1, Row(32, 144)),
    (2, Row(32, 192)),
    (1, Row(64, 192, strides=2)),
    (3, Row(64, 384)),
    (1, Row(96, 384)),
    (2, Row(96, 576)),
    (1, Row(160, 576, strides=2)),
    (2, Row(160, 960)),
    (1, Row(320, 960)),
)
_MODIFIED = rows(
    (1, Row(16, 32)),
    (3, Row(24, 864)),
    (1, Row(32, 864, strides=2)),
    (3, Row(32, 864)),
    (1, Row(40, 864, strides=2)),
    (5, Row(40, 864)),
    (1, Row(80, 864)),
)


def build_mobilenet_v2(
    name: str,
    input_shape: tuple[int, int, int],
    classes: int,
    seed: int | None,
    *,
    table: Sequence[Row],
    decay: Decay,
    width: float,
    l2: float | str,
) -> keras.Model:
    """A MobileNetV2.

    Args:
        width: factor of the hidden channels of the blocks.
        l2: "original", or one coefficient for all convolution and dense kernels.

    Raises:
        UserError: an option out of range.
    """
    blocks = CompactBlocks(seed, chosen_decay(l2, decay))
    inputs = keras.Input(input_shape, name="image")
    x = blocks.conv_bn(inputs, 32, 3, l2=blocks.decay.stem, relu=True, prefix="stem")
    x = blocks.bottlenecks(x, table, 0, width=width)
    x = blocks.conv_bn(x, 1280, l2=blocks.decay.tail, relu=True, prefix="tail")
    return keras.Model(inputs, blocks.head(x, classes), name=name)


_MODIFIED_DECAY = Decay(4e-5, ((0, 4e-5), (1, 2e-4), (8, 1e-4)), 4e-5, 4e-5)

for _name, _classes, _table, _decay in (
    ("mobilenet_v2_baseline_cifar10", 10, _BASELINE, Decay.uniform(1e-4)),
    ("mobilenet_v2_modified_cifar10", 10, _MODIFIED, _MODIFIED_DECAY),
    ("mobilenet_v2_cifar100", 100, _BASELINE, Decay.uniform(4e-5)),
):
    register(
        _name,
        family="mobilenet_v2",
        classes=_classes,
        fixed={"table": _table, "decay": _decay},
        options={"width": 1.0, "l2": 0.0},
    )(build_mobilenet_v2)
