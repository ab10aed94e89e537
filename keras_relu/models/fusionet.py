"""FusioNet, a network designed for layer fusion (Olyaiy, Ng and Lis 2021, DOI 10.1145/3447818.3460378).

Inverted bottlenecks with four groups; the channel shuffle stands at the end of a block, so that the groups stay separate
inside the fused block. Spec fusion, section 1.8.
"""

from __future__ import annotations

import tf_keras as keras

from keras_relu.models.compact_blocks import CompactBlocks, Decay, Row, chosen_decay, rows
from keras_relu.models.registry import register

__all__ = ["build_fusionet"]

_GROUPS = 4

_TABLE = rows(
    (1, Row(32, 2368, residual=False)),
    (2, Row(32, 2368)),
    (1, Row(64, 2368, strides=2)),
    (3, Row(64, 2368)),
    (1, Row(96, 2368, strides=2)),
    (7, Row(96, 3456)),
    (1, Row(160, 3456)),
)


def build_fusionet(
    name: str,
    input_shape: tuple[int, int, int],
    classes: int,
    seed: int | None,
    *,
    decay: Decay,
    tail: int,
    tail_groups: int,
    width: float,
    l2: float | str,
) -> keras.Model:
    """A FusioNet.

    Args:
        tail: channels of the last convolution.
        tail_groups: its groups.
        width: factor of the hidden channels of the blocks.
        l2: "original", or one coefficient for all convolution and dense kernels.

    Raises:
        UserError: an option out of range.
    """
    blocks = CompactBlocks(seed, chosen_decay(l2, decay))
    inputs = keras.Input(input_shape, name="image")
    x = blocks.conv_bn(inputs, 32, 3, l2=blocks.decay.stem, relu=True, prefix="stem")
    x = blocks.conv_bn(x, 32, l2=blocks.decay.stem, relu=True, prefix="stem_pointwise", groups=_GROUPS)
    x = blocks.shuffle(x, _GROUPS, prefix="stem")
    x = blocks.depthwise_bn(x, 3, relu=False, prefix="stem_depthwise")
    x = blocks.bottlenecks(x, _TABLE, 1, width=width, groups=_GROUPS, shuffle=True)
    x = blocks.conv_bn(x, tail, l2=blocks.decay.tail, relu=True, prefix="tail", groups=tail_groups)
    return keras.Model(inputs, blocks.head(x, classes), name=name)


for _name, _classes, _fixed in (
    ("fusionet_cifar10", 10, {"decay": Decay(4e-5, ((1, 1e-4),), 1e-4, 4e-5), "tail": 960, "tail_groups": 4}),
    ("fusionet_cifar100", 100, {"decay": Decay.uniform(4e-5), "tail": 1280, "tail_groups": 1}),
):
    register(_name, family="fusionet", classes=_classes, fixed=_fixed, options={"width": 1.0, "l2": 0.0})(
        build_fusionet
    )
