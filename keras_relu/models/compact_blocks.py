"""The pieces of the compact networks (MobileNetV2, MnasNet, ShuffleNet, FusioNet) at 32x32: spec fusion, section 1.

Their conventions differ from those of `models.blocks`: "same" padding, Keras' batch normalisation (momentum 0.99,
epsilon 1e-3), He-normal kernels, Glorot-uniform depthwise kernels, and L2 terms that belong to the layers. A layer is
named after its block and role: `block3_expand_conv`, `block3_expand_bn`, `block3_expand_relu`, `block3_add`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import tensorflow as tf
import tf_keras as keras

from keras_relu.errors import UserError
from keras_relu.layers.channel_shuffle import ChannelShuffle

__all__ = ["CompactBlocks", "Decay", "Row", "chosen_decay", "rows", "scaled"]


class Row(NamedTuple):
    """One block of a table: spec fusion, sections 1.2 to 1.8.

    Attributes:
        outputs: channels after the block.
        hidden: channels C_mid between its pointwise convolutions.
        kernel: size of the depthwise kernel.
        strides: of the depthwise convolution.
        se: ratio of the squeeze-and-excite part, 0 for none.
        residual: whether the input may be added; it is where strides are 1 and the channels stay as they are.
    """

    outputs: int
    hidden: int
    kernel: int = 3
    strides: int = 1
    se: float = 0
    residual: bool = True


def rows(*groups: tuple[int, Row]) -> tuple[Row, ...]:
    """A table from (repeats, row) pairs."""
    return tuple(row for repeats, row in groups for _ in range(repeats))


def scaled(hidden: int, width: float, groups: int = 1) -> int:
    """`width` times `hidden` channels, rounded to a positive multiple of `groups`.

    Raises:
        UserError: width is not positive.
    """
    if not width > 0:
        raise UserError(f"width must be above 0, received {width!r}.")
    return hidden if width == 1 else max(1, round(width * hidden / groups)) * groups


@dataclass(frozen=True)
class Decay:
    """L2 coefficients (loss term: coefficient times the sum of squares) of the parts of a network.

    Attributes:
        stem, tail, dense, se: of the kernels of those parts.
        blocks: (first block, coefficient) pairs in rising order; each holds up to the next.
    """

    stem: float = 0.0
    blocks: tuple[tuple[int, float], ...] = ((0, 0.0),)
    tail: float = 0.0
    dense: float = 0.0
    se: float = 0.0

    @classmethod
    def uniform(cls, value: float) -> Decay:
        """The same coefficient for every part."""
        return cls(value, ((0, value),), value, value, value)

    def block(self, number: int) -> float:
        """The coefficient of the pointwise kernels of one block."""
        return [value for first, value in self.blocks if first <= number][-1]


def chosen_decay(l2: Any, original: Decay) -> Decay:
    """The meaning of the option `l2`: "original", or one coefficient for all convolution and dense kernels.

    Raises:
        UserError: something else.
    """
    if l2 == "original":
        return original
    if isinstance(l2, bool) or not isinstance(l2, int | float) or not 0 <= l2 < float("inf"):
        raise UserError(f"l2 must be 'original' or a number of at least 0, received {l2!r}.")
    return Decay.uniform(float(l2))


class CompactBlocks:
    """Makes the layers of one network and hands each kernel its own seed.

    Args:
        seed: seed of the whole network; None starts all kernels at zero, for counting.
        decay: L2 coefficients; depthwise kernels have none, as in the originals.
    """

    def __init__(self, seed: int | None, decay: Decay) -> None:
        self._seed = seed
        self._drawn = 0
        self.decay = decay

    def _kernel(self, kind: type[keras.initializers.Initializer]) -> keras.initializers.Initializer:
        if self._seed is None:
            return keras.initializers.Zeros()
        self._drawn += 1
        # Two kernels of one shape and one seed would be equal; 1009 exceeds the kernels of the deepest network.
        return kind(seed=(self._seed * 1009 + self._drawn) % 2**31)

    def conv(self, x: tf.Tensor, filters: int, kernel: int = 1, *, l2: float, name: str, **options: Any) -> tf.Tensor:
        """Bias-free convolution with "same" padding; options: `groups`."""
        layer = keras.layers.Conv2D(
            filters,
            kernel,
            padding="same",
            use_bias=False,
            kernel_initializer=self._kernel(keras.initializers.HeNormal),
            kernel_regularizer=keras.regularizers.L2(l2) if l2 else None,
            name=name,
            **options,
        )
        return layer(x)

    def normalized(self, x: tf.Tensor, *, relu: bool, prefix: str) -> tf.Tensor:
        """Batch normalisation and, where asked for, one ReLU site."""
        x = keras.layers.BatchNormalization(name=f"{prefix}_bn")(x)
        return keras.layers.ReLU(name=f"{prefix}_relu")(x) if relu else x

    def conv_bn(
        self, x: tf.Tensor, filters: int, kernel: int = 1, *, l2: float, relu: bool, prefix: str, groups: int = 1
    ) -> tf.Tensor:
        """`<prefix>_conv`, `<prefix>_bn` and perhaps `<prefix>_relu`."""
        x = self.conv(x, filters, kernel, l2=l2, name=f"{prefix}_conv", groups=groups)
        return self.normalized(x, relu=relu, prefix=prefix)

    def depthwise_bn(self, x: tf.Tensor, kernel: int, strides: int = 1, *, relu: bool, prefix: str) -> tf.Tensor:
        """Depthwise convolution, batch normalisation and perhaps a ReLU."""
        layer = keras.layers.DepthwiseConv2D(
            kernel,
            strides,
            "same",
            use_bias=False,
            depthwise_initializer=self._kernel(keras.initializers.GlorotUniform),
            name=f"{prefix}_conv",
        )
        return self.normalized(layer(x), relu=relu, prefix=prefix)

    def squeeze_excite(self, x: tf.Tensor, hidden: int, *, prefix: str) -> tf.Tensor:
        """x times sigmoid(expand(relu(squeeze(mean over the image)))) per channel (Hu et al. 2018, arXiv 1709.01507)."""
        scale = keras.layers.GlobalAveragePooling2D(keepdims=True, name=f"{prefix}_pool")(x)
        scale = self._biased(scale, hidden, name=f"{prefix}_squeeze_conv")
        scale = keras.layers.ReLU(name=f"{prefix}_relu")(scale)
        scale = self._biased(scale, x.shape[-1], name=f"{prefix}_excite_conv")
        scale = keras.layers.Activation("sigmoid", name=f"{prefix}_sigmoid")(scale)
        return keras.layers.Multiply(name=f"{prefix}_scale")([x, scale])

    def _biased(self, x: tf.Tensor, filters: int, *, name: str) -> tf.Tensor:
        layer = keras.layers.Conv2D(
            filters,
            1,
            kernel_initializer=self._kernel(keras.initializers.GlorotUniform),
            kernel_regularizer=keras.regularizers.L2(self.decay.se) if self.decay.se else None,
            name=name,
        )
        return layer(x)

    def shuffle(self, x: tf.Tensor, groups: int, *, prefix: str) -> tf.Tensor:
        """Channel shuffle."""
        return ChannelShuffle(groups, name=f"{prefix}_shuffle")(x)

    def add(self, x: tf.Tensor, branch: tf.Tensor, row: Row, *, prefix: str) -> tf.Tensor:
        """The branch, plus the input of the block where the row allows it and the shapes agree."""
        if not row.residual or row.strides != 1 or x.shape[-1] != branch.shape[-1]:
            return branch
        return keras.layers.Add(name=f"{prefix}_add")([branch, x])

    def head(self, x: tf.Tensor, classes: int) -> tf.Tensor:
        """Mean over the image, then logits in float32 whatever the precision of the network."""
        x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
        dense = keras.layers.Dense(
            classes,
            kernel_initializer=self._kernel(keras.initializers.GlorotUniform),
            kernel_regularizer=keras.regularizers.L2(self.decay.dense) if self.decay.dense else None,
            name="classifier",
            dtype="float32",
        )
        return dense(x)

    def bottleneck(
        self,
        x: tf.Tensor,
        row: Row,
        number: int,
        *,
        width: float,
        groups: int = 1,
        se_after: bool = False,
        shuffle: bool = False,
    ) -> tf.Tensor:
        """The inverted bottleneck: expand, depthwise, project (Sandler et al. 2018, arXiv 1801.04381).

        Args:
            width: factor of the hidden channels.
            groups: of both pointwise convolutions.
            se_after: squeeze-and-excite behind the projection, its ratio taken of the outputs, instead of in front.
            shuffle: channel shuffle at the end of the branch.
        """
        prefix, l2 = f"block{number}", self.decay.block(number)
        hidden = scaled(row.hidden, width, groups)
        y = self.conv_bn(x, hidden, l2=l2, relu=True, prefix=f"{prefix}_expand", groups=groups)
        y = self.depthwise_bn(y, row.kernel, row.strides, relu=True, prefix=f"{prefix}_depthwise")
        if row.se and not se_after:
            y = self.squeeze_excite(y, max(1, int(row.se * hidden)), prefix=f"{prefix}_se")
        y = self.conv_bn(y, row.outputs, l2=l2, relu=False, prefix=f"{prefix}_project", groups=groups)
        if row.se and se_after:
            y = self.squeeze_excite(y, int(row.se * row.outputs), prefix=f"{prefix}_se")
        if shuffle:
            y = self.shuffle(y, groups, prefix=prefix)
        return self.add(x, y, row, prefix=prefix)

    def bottlenecks(self, x: tf.Tensor, table: Iterable[Row], first: int, **options: Any) -> tf.Tensor:
        """The blocks of a table, numbered from `first`; options as in `bottleneck`."""
        for number, row in enumerate(table, first):
            x = self.bottleneck(x, row, number, **options)
        return x
