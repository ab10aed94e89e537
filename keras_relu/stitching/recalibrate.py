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

__all__ = ["recalibrated"]


def recalibrated(
    joint: Joint, affine: AffineMap, batches: Iterable[tuple[Any, Any]], normalization: Normalization
) -> keras.Model:
    """A copy of the back network whose moving statistics are the means over `batches` behind the map `affine`.

    Each batch counts the same. Dropout is left out while the statistics are taken.

    Raises:
        UserError: the back network has no batch normalisation, or there is no batch.
    """
    back = surgery.replace_layers(joint.pair.back, _without_dropout)
    layers = [layer for layer in surgery.iter_layers(back) if isinstance(layer, keras.layers.BatchNormalization)]
    if not layers:
        raise UserError(
            f"The back network behind {joint.pair.end_layer!r} has no batch normalisation; recalibrate_images must be 0."
        )
    for layer in layers:
        layer.trainable = True
    kernel, bias = tf.constant(affine.weight.T, tf.float32), tf.constant(affine.bias, tf.float32)
    seen = 0
    for pictures, _ in batches:
        a1 = joint.pair.front(normalization.apply(pictures), training=False)
        for layer in layers:
            # A running mean over all batches so far; the first replaces what was there.
            layer.momentum = seen / (seen + 1.0)
        back(joint.apply_weights(a1, kernel, bias), training=True)
        seen += 1
    if not seen:
        raise UserError("Statistics cannot be re-estimated on no images; recalibrate_images must be at least 1.")
    copy = surgery.copy_model(joint.pair.back)
    copy.set_weights(back.get_weights())
    copy.trainable = False
    return copy


def _without_dropout(layer: keras.layers.Layer) -> keras.layers.Layer | None:
    if isinstance(layer, (keras.layers.Dropout, keras.layers.SpatialDropout2D, keras.layers.GaussianDropout)):
        return keras.layers.Activation("linear", name=layer.name)
    return None
