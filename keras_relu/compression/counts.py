"""What layer fusion saves and costs, as exact integers per image: spec `fusion`, sections 5.2 and 5.3."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from keras_relu import counting
from keras_relu.compression.blocks import Block, find_blocks
from keras_relu.errors import UserError
from keras_relu.layers.ternary import ternary_parts

__all__ = [
    "SHUFFLE_CAVEAT",
    "BlockCounts",
    "FusionCounts",
    "block_counts",
    "count_fusion",
    "inside_taps",
    "per_channel",
]

SHUFFLE_CAVEAT = (
    "Blocks of kind 'pointwise_pair' have a channel shuffle between their pointwise convolutions, so that every output "
    "depends on all inputs. What is counted (and evaluated) is the fusion of the two pointwise convolutions alone, with "
    "the narrow depthwise convolution behind it. 'three_layers' is the fusion of all three; 'simulator' is the published "
    "count, which divides the inputs by the groups as if there were no shuffle, and 'simulator_joined' the same with the "
    "channels of the concatenation as outputs: no computation of these blocks has so few multiplications."
)


@dataclass(frozen=True)
class BlockCounts:
    """One block, per image.

    Attributes:
        name, kind: of the block.
        input_shape, hidden_shape, output_shape: (H, W, C).
        groups: of the pointwise convolutions.
        kernel_size: of the depthwise one.
        unfused: multiplications of the three convolutions, U.
        fused: multiplications of the fused block, M; independent of the hidden channels.
        border: those among `fused` that fall on zeros around the image and need not be done.
        composites_dense: composite weights without any zero.
        composites: composite weights to be stored, N.
        additions: N at every position, as if all activations were live.
        predictor_additions: of both predictors, zeros of their ternary kernels left out.
        predictor_multiplications: one scale per predicted activation; batch normalisation can absorb them.
        alternatives: other counts of M for a pointwise pair.
    """

    name: str
    kind: str
    input_shape: tuple[int, int, int]
    hidden_shape: tuple[int, int, int]
    output_shape: tuple[int, int, int]
    groups: int
    kernel_size: tuple[int, int]
    unfused: int
    fused: int
    border: int
    composites_dense: int
    composites: int
    additions: int
    predictor_additions: int
    predictor_multiplications: int
    alternatives: dict[str, int] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """U / M."""
        return self.unfused / self.fused

    @property
    def saves(self) -> bool:
        """Whether the fused block multiplies less."""
        return self.fused < self.unfused


@dataclass(frozen=True)
class FusionCounts:
    """A network whose blocks are fused, per image.

    Attributes:
        blocks: those that are fused.
        macs: multiply-accumulates of the network as it is, predictors left out.
        notes: what to know before reading the numbers.
    """

    blocks: tuple[BlockCounts, ...]
    macs: int
    notes: tuple[str, ...] = ()

    def total(self, key: str) -> int:
        """The sum of an attribute over the blocks."""
        return sum(getattr(block, key) for block in self.blocks)

    def alternative(self, key: str) -> int:
        """`fused` with the other count where a block has it."""
        return sum(block.alternatives.get(key, block.fused) for block in self.blocks)

    @property
    def rest(self) -> int:
        """Multiplications outside the fused blocks."""
        return self.macs - self.total("unfused")

    @property
    def whole_fused(self) -> int:
        """Multiplications of the whole network with fused blocks."""
        return self.rest + self.total("fused")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        sums = [f.name for f in fields(BlockCounts) if f.type == "int" and f.name != "groups"]
        names = sorted({name for block in self.blocks for name in block.alternatives})
        return {
            "blocks": [{**asdict(block), "ratio": block.ratio} for block in self.blocks],
            **{key: self.total(key) for key in sums},
            "ratio": self.total("unfused") / self.total("fused"),
            "rest": self.rest,
            "macs": self.macs,
            "whole_fused": self.whole_fused,
            "whole_ratio": self.macs / self.whole_fused,
            "alternatives": {name: self.alternative(name) for name in names},
            "notes": list(self.notes),
        }


def count_fusion(model: keras.Model, *, density: float | None = None, every_block: bool = False) -> FusionCounts:
    """The counts of a network whose blocks are fused.

    Args:
        model: with or without predictors. With some, the blocks are those with predictors at both sites; without, those
            that widen. Whether fusion makes a block cheaper depends on its width: see `BlockCounts.saves`.
        density: assume this part of the composite weights instead of counting the weights of the model.
        every_block: take all blocks that can be fused, whether or not that saves anything.

    Raises:
        UserError: no such block; a density outside [0, 1].
    """
    if density is not None and not 0 <= density <= 1:
        raise UserError(f"density must be in [0, 1], received {density}.")
    found = find_blocks(model)
    predicted = [block for block in found if all(site.predicted for site in block.sites)]
    chosen = found if every_block else predicted or [block for block in found if block.widens]
    if not chosen:
        raise UserError(
            f"{model.name!r} has no block to fuse: 1x1, depthwise and 1x1 convolutions, wide in between, with nothing but "
            "batch normalisation and ReLUs (without upper bound) between them."
        )
    blocks = tuple(block_counts(block, density=density) for block in chosen)
    notes = (SHUFFLE_CAVEAT,) if any(block.kind == "pointwise_pair" for block in blocks) else ()
    return FusionCounts(blocks, counting.count(model).macs, notes)


def block_counts(block: Block, *, density: float | None = None) -> BlockCounts:
    """The counts of one block; `density` as in `count_fusion`."""
    pixels_in, pixels_out = math.prod(block.input_shape[:2]), math.prod(block.output_shape[:2])
    inputs, hidden, outputs = block.input_shape[2], block.hidden_shape[2], block.output_shape[2]
    taps, groups = math.prod(block.depthwise.kernel_size), block.groups
    bottleneck = block.kind == "bottleneck"
    if bottleneck:
        unfused = pixels_in * inputs * hidden // groups + pixels_out * hidden * (taps + outputs // groups)
        fused, alternatives = pixels_out * taps * (inputs // groups) * outputs, {}
    else:
        unfused = pixels_in * hidden * (inputs + outputs) // groups + pixels_out * taps * outputs
        fused = pixels_in * inputs * outputs + pixels_out * taps * outputs
        alternatives = _pair_alternatives(block, pixels_out * taps)
    dense = (inputs // groups) * (hidden // groups) * outputs * (taps if bottleneck else 1)
    composites = _composites(block) if density is None else round(density * dense)
    return BlockCounts(
        name=block.name,
        kind=block.kind,
        input_shape=block.input_shape,
        hidden_shape=block.hidden_shape,
        output_shape=block.output_shape,
        groups=groups,
        kernel_size=tuple(block.depthwise.kernel_size),
        unfused=unfused,
        fused=fused,
        border=_outside(block) * ((inputs // groups) * outputs if bottleneck else outputs),
        composites_dense=dense,
        composites=composites,
        additions=composites * (pixels_out if bottleneck else pixels_in),
        predictor_additions=_predictor_additions(block),
        predictor_multiplications=sum(math.prod(site.output.shape[1:]) for site in block.sites),
        alternatives=alternatives,
    )


def _pair_alternatives(block: Block, positions: int) -> dict[str, int]:
    inputs, outputs = block.input_shape[2], block.output_shape[2]
    return {
        "three_layers": positions * inputs * outputs,
        "simulator": positions * inputs // block.groups * outputs,
        "simulator_joined": positions * inputs // block.groups * block.joined_channels,
    }


def _composites(block: Block) -> int:
    """Composite weights that are not zero: per hidden channel the product of the non-zero weights that meet there."""
    first, second, last = (layer.get_weights()[0] for layer in (block.first.conv, block.second.conv, block.last))
    into = np.count_nonzero(first[0, 0], axis=0).astype(np.int64)
    if block.kind == "bottleneck":
        through = np.count_nonzero(second.reshape(-1, second.shape[2]), axis=0)
        return int(np.sum(into * through * np.count_nonzero(per_channel(last, block.groups), axis=1)))
    return int(np.sum(into[block.permutation()] * np.count_nonzero(per_channel(second, block.groups), axis=1)))


def per_channel(kernel: np.ndarray, groups: int) -> np.ndarray:
    """A grouped 1x1 kernel [1, 1, C/g, F] by its input channels: [C, F/g], the filters of the channel's own group."""
    inputs, filters = kernel.shape[2:]
    split = kernel[0, 0].reshape(inputs, groups, filters // groups)
    return split.transpose(1, 0, 2).reshape(inputs * groups, filters // groups)


def _predictor_additions(block: Block) -> int:
    positions = [math.prod(site.output.shape[1:3]) for site in block.sites]
    groups = [1 if site.depthwise else site.conv.groups for site in block.sites]
    signs = [
        ternary_parts(tf.constant(site.predictor_kernel()), g)[0].numpy()
        for site, g in zip(block.sites, groups, strict=True)
    ]
    return sum(n * int(np.count_nonzero(t)) for n, t in zip(positions, signs, strict=True))


def _outside(block: Block) -> int:
    """(position, tap) pairs of the depthwise convolution that read a zero outside the image."""
    conv = block.depthwise
    shape = block.hidden_shape if block.kind == "bottleneck" else tuple(block.second.output.shape[1:])
    inside = [
        inside_taps(size, kernel, stride, before, count)
        for size, kernel, stride, (before, _), count in zip(
            shape[:2], conv.kernel_size, conv.strides, block.padding(), block.output_shape[:2], strict=True
        )
    ]
    pairs = math.prod(block.output_shape[:2]) * math.prod(conv.kernel_size)
    return pairs - math.prod(int(np.count_nonzero(one)) for one in inside)


def inside_taps(size: int, kernel: int, stride: int, before: int, count: int) -> np.ndarray:
    """[count, kernel]: whether tap r of output p, at p * stride + r - before, lies inside 0 .. size - 1."""
    places = np.arange(count)[:, None] * stride + np.arange(kernel) - before
    return (places >= 0) & (places < size)
