"""MnasNet-A1 for 32x32 images (Tan et al. 2019, arXiv 1807.11626), and its variant made for layer fusion.

The modified network has one hidden width, and its squeeze-and-excite parts stand behind the projection, since nothing
but normalisation and ReLUs may stand between the convolutions of a fused block (spec fusion, sections 1.4 and 1.5).
"""

from __future__ import annotations

from collections.abc import Sequence

import tf_keras as keras

from keras_relu.models.compact_blocks import CompactBlocks, Decay, Row, chosen_decay, rows
from keras_relu.models.registry import register

__all__ = ["build_mnasnet"]

_BASELINE = rows(
    (1, Row(24, 96)),
    (1, Row(24, 144)),
    (1, Row(40, 72, 5, 2, se=0.25)),
    (2, Row(40, 120, 5, se=0.25)),
    (1, Row(80, 240)),
    (3, Row(80, 480)),
    (1, Row(112, 480, se=0.25)),
    (1, Row(112, 672, se=0.25)),
    (1, Row(160, 672, 5, 2, se=0.25)),
    (2, Row(160, 960, 5, se=0.25)),
    (1, Row(320, 960)),
)
_MODIFIED = rows(
    (2, Row(24, 960)),
    (1, Row(24, 960, 5, 2, se=16)),
    (2, Row(32, 960, 5, se=16)),
    (2, Row(32, 960)),
    (1, Row(40, 960)),
    (1, Row(40, 960, strides=2)),
    (1, Row(40, 960, se=64)),
    (1, Row(40, 960, se=128)),
    (1, Row(40, 960, 5, se=64)),
    (2, Row(40, 960, 5, se=128)),
    (1, Row(80, 960)),
)


def build_mnasnet(
    name: str,
    input_shape: tuple[int, int, int],
    classes: int,
    seed: int | None,
    *,
    table: Sequence[Row],
    decay: Decay,
    se_after: bool,
    tail: int,
    width: float,
    l2: float | str,
) -> keras.Model:
    """A MnasNet.

    Args:
        se_after: squeeze-and-excite behind the projections instead of in front of them.
        tail: channels of the last convolution, 0 for none.
        width: factor of the hidden channels of the blocks.
        l2: "original", or one coefficient for all convolution and dense kernels.

    Raises:
        UserError: an option out of range.
    """
    blocks = CompactBlocks(seed, chosen_decay(l2, decay))
    inputs = keras.Input(input_shape, name="image")
    x = blocks.conv_bn(inputs, 32, 3, l2=blocks.decay.stem, relu=True, prefix="stem")
    x = blocks.depthwise_bn(x, 3, relu=True, prefix="stem_depthwise")
    x = blocks.conv_bn(x, 16, l2=blocks.decay.stem, relu=False, prefix="stem_project")
    x = blocks.bottlenecks(x, table, 1, width=width, se_after=se_after)
    if tail:
        x = blocks.conv_bn(x, tail, l2=blocks.decay.tail, relu=True, prefix="tail")
    return keras.Model(inputs, blocks.head(x, classes), name=name)


_MODIFIED_DECAY = Decay(4e-5, ((1, 8e-4), (4, 4e-4), (10, 1e-4)), 0.0, 4e-5, 4e-5)

for _name, _classes, _fixed in (
    ("mnasnet_baseline_cifar10", 10, {"table": _BASELINE, "decay": Decay.uniform(1e-4), "se_after": False, "tail": 0}),
    ("mnasnet_modified_cifar10", 10, {"table": _MODIFIED, "decay": _MODIFIED_DECAY, "se_after": True, "tail": 0}),
    ("mnasnet_cifar100", 100, {"table": _BASELINE, "decay": Decay.uniform(4e-5), "se_after": False, "tail": 1280}),
):
    register(_name, family="mnasnet", classes=_classes, fixed=_fixed, options={"width": 1.0, "l2": 0.0})(build_mnasnet)
