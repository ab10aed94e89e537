"""Batch normalisation of the back network, re-estimated for what the stitch gives it.

Much of what a stitched network loses is a mismatch of these statistics, not of the representation, so the reading with
re-estimated statistics stands beside the plain one. It is a copy: the frozen halves stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import tensorflow as tf
import tf_keras as keras

from keras_relu import surgery
from keras_relu.data import Normalization
from keras_relu.errors import UserError
from keras_relu.similarity import AffineMap
from keras_relu.stitching.pair import Joint
from keras_relu.training.recalibrate import reestimate_from

__all__ = ["recalibrated"]


def recalibrated(
    joint: Joint, affine: AffineMap, batches: Iterable[tuple[Any, Any]], normalization: Normalization
) -> keras.Model:
    """A copy of the back network whose moving statistics are the means over `batches` behind the map `affine`.

    Each batch counts the same. Dropout is left out while the statistics are taken.

    Raises:
        UserError: the back network has no batch normalisation, or there is no batch.
    """
    copy = surgery.copy_model(joint.pair.back)
    kernel, bias = tf.constant(affine.weight.T, tf.float32), tf.constant(affine.bias, tf.float32)
    fronts = (joint.pair.front(normalization.apply(pictures), training=False) for pictures, _ in batches)
    if not reestimate_from(copy, (joint.apply_weights(a1, kernel, bias) for a1 in fronts)):
        raise UserError(
            f"The back network behind {joint.pair.end_layer!r} has no batch normalisation; recalibrate_images must be 0."
        )
    copy.trainable = False
    return copy
