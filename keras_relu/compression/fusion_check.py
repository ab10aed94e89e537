"""Fused blocks against the network itself: the same images, the same masks, and what the evaluation really counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tf_keras as keras

from keras_relu.compression.blocks import Block, find_blocks
from keras_relu.compression.counts import FusionCounts, count_fusion
from keras_relu.compression.fusion import FusedBlock, Tally
from keras_relu.errors import KerasReLUError, UserError

__all__ = ["check_fusion"]


def check_fusion(
    model: keras.Model,
    images: np.ndarray,
    *,
    dtype: Any = np.float64,
    tolerance: float = 1e-4,
    every_block: bool = False,
) -> dict[str, Any]:
    """Evaluate every fused block on inputs and masks that the network has, and compare its output with the network's.

    Args:
        model: with or without predictors; the masks are those of its predictors, or of its own ReLUs.
        images: normalised, [N, H, W, C].
        dtype: of the fused arithmetic; the network computes in its own.
        tolerance: of the largest difference in a block, relative to the largest output there.
        every_block: as in `count_fusion`.

    Returns:
        {"images", "max_error", "blocks": per block name, max_error, live fractions of the two masks and of the pairs that
        are added, multiplications, additions and bias_additions per image, "multiplications", "additions"}.

    Raises:
        UserError: no images, or no block to fuse.
        KerasReLUError: a block differs by more than the tolerance, or multiplied another number of times than its count
            says.
    """
    if not len(images):
        raise UserError("The check of a fused network needs at least one image.")
    counts = count_fusion(model, every_block=every_block)
    wanted = {block.name: block for block in counts.blocks}
    blocks = [block for block in find_blocks(model) if block.name in wanted]
    values = _probe(model, blocks, images)
    found = [
        _compare(block, [np.asarray(value) for value in values[4 * index : 4 * index + 4]], dtype)
        for index, block in enumerate(blocks)
    ]
    for entry in found:
        _require(entry, counts, len(images), tolerance)
    return {
        "images": len(images),
        "max_error": max(entry["max_error"] for entry in found),
        "multiplications": sum(entry["multiplications"] for entry in found),
        "additions": sum(entry["additions"] for entry in found),
        "blocks": found,
    }


def _probe(model: keras.Model, blocks: Sequence[Block], images: np.ndarray) -> list[Any]:
    """Per block its input, both gates and its output."""
    tensors = [
        tensor for block in blocks for tensor in (block.first.source, block.first.gate, block.second.gate, block.output)
    ]
    return keras.Model(model.inputs, tensors)(images, training=False)


def _compare(block: Block, values: Sequence[np.ndarray], dtype: Any) -> dict[str, Any]:
    """The entry of one block; counts are means over the images."""
    inputs, first, second, expected = values
    fused, tally, error = FusedBlock(block, dtype), Tally(), 0.0
    for x, one, two, y in zip(inputs, first > 0, second > 0, expected, strict=True):
        output, done = fused(x, one, two)
        tally.add(done)
        error = max(error, float(np.max(np.abs(output - y))))
    # An all-zero block has nothing to be relative to.
    largest = float(np.max(np.abs(expected))) or 1.0
    counted = {key: getattr(tally, key) / len(inputs) for key in ("multiplications", "additions", "bias_additions")}
    return {
        "name": block.name,
        "max_error": error / largest,
        "first_live_fraction": float(np.mean(first > 0)),
        "second_live_fraction": float(np.mean(second > 0)),
        "live_pair_fraction": tally.live_pairs / tally.pairs,
        **counted,
    }


def _require(entry: dict[str, Any], counts: FusionCounts, images: int, tolerance: float) -> None:
    expected = next(block for block in counts.blocks if block.name == entry["name"])
    if not entry["max_error"] <= tolerance:
        raise KerasReLUError(
            f"Block {entry['name']!r} fused differs from the network by {entry['max_error']:.2g} of its largest output "
            f"on {images} images, allowed is {tolerance:.2g}; please report this."
        )
    if entry["multiplications"] != expected.fused - expected.border:
        raise KerasReLUError(
            f"Block {entry['name']!r} fused multiplied {entry['multiplications']:,.0f} times per image, its count says "
            f"{expected.fused - expected.border:,}; please report this."
        )
