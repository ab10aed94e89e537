"""Start values for the ranges of int8 activations: what a few batches really reach.

The library starts every range at [-6, 6] and moves it by a thousandth of the way each step, so that after a short training the
int8 steps are still those of the start value, far too coarse for most layers and too narrow for some.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import tf_keras as keras

from keras_relu.compression.masks import short_name

if TYPE_CHECKING:
    from keras_relu.data import Normalization

__all__ = ["estimate_ranges"]

# Of the library's moving averages; its ranges of inputs follow every value and its ranges of weights the last one.
_DECAY = 0.999
_AVERAGED = ("output_", "post_activation_", "pre_activation_")


def estimate_ranges(
    quantized: keras.Model, split: Any, normalization: Normalization, *, images: int = 512, batch_size: int = 64
) -> None:
    """Set the activation ranges of `quantized` to their means over batches; weights and statistics stay as they are.

    Args:
        quantized: from `quantization.quantize`, outside of any distribution strategy; changed in place.
        split: its first `images` images are used (all, where there are fewer), without augmentation.
    """
    ranges = [v for v in quantized.variables if short_name(v).startswith(_AVERAGED)]
    kept = [(v, v.numpy()) for v in quantized.non_trainable_variables if "moving_" in short_name(v)]
    first = split.subset(np.arange(min(images, split.size)), name=split.name)
    sums = [np.zeros(v.shape, np.float64) for v in ranges]
    for count, (pictures, _) in enumerate(first.batches(min(batch_size, first.size)), start=1):
        before = [v.numpy().astype(np.float64) for v in ranges]
        quantized(normalization.apply(pictures), training=True)
        for variable, old, total in zip(ranges, before, sums, strict=True):
            # What the batch reached, from a moving average that went a thousandth of the way there.
            total += (variable.numpy() - _DECAY * old) / (1.0 - _DECAY)
            # Zero is always within a range; float32 may put the end that lies there a little to the other side.
            variable.assign(
                np.minimum(total / count, 0.0)
                if short_name(variable).endswith("_min")
                else np.maximum(total / count, 0.0)
            )
    for variable, value in kept:
        variable.assign(value)
