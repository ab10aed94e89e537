"""Batch normalisation re-estimated: the running statistics a network has after something before them was changed.

Forward passes in training mode, no gradient. Every normalisation sees inputs that the ones before it have normalised by the
statistics of the same batch, so one pass corrects them all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from keras_relu import surgery
from keras_relu.errors import UserError

if TYPE_CHECKING:
    from keras_relu.data import Normalization

__all__ = ["reestimate_batch_norm", "reestimate_from"]

_RANDOM = (
    keras.layers.Dropout,
    keras.layers.SpatialDropout2D,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
)


def reestimate_batch_norm(
    model: keras.Model, split: Any, normalization: Normalization, *, images: int, batch_size: int = 250
) -> int:
    """Set the moving mean and variance of every batch normalisation of `model` to their means over batches of images.

    Args:
        model: functional; changed in place, nothing but those statistics.
        split: its first `images` images are used, without augmentation; a last smaller batch is left out.
        images: at least one, at most what the split has.
        batch_size: images that share one estimate.

    Returns:
        The number of layers re-estimated; 0 when the model has none, which leaves it as it is.

    Raises:
        UserError: more images than the split has, or none.
    """
    if not 1 <= images <= split.size:
        raise UserError(f"Statistics can be estimated on 1 to {split.size} images of {split.name}, received {images}.")
    batch_size = min(batch_size, images)
    batches = split.subset(np.arange(images // batch_size * batch_size), name=split.name).batches(batch_size)
    return reestimate_from(model, (normalization.apply(pictures) for pictures, _ in batches))


def reestimate_from(model: keras.Model, inputs: Iterable[tf.Tensor]) -> int:
    """`reestimate_batch_norm` on any inputs of `model`: the back half of a stitched network gets mapped activations.

    Args:
        model: functional, with one input; changed in place, nothing but the moving statistics.
        inputs: batches [n, ...]; each counts the same. Not read when the model has no batch normalisation.

    Returns:
        The number of layers re-estimated; 0 when the model has none, which leaves it as it is.

    Raises:
        UserError: there is no batch.
    """
    targets = _normalisations(model)
    if not targets:
        return 0
    copy = surgery.replace_layers(model, _without_noise)
    sources = _normalisations(copy)
    for layer in sources:
        layer.trainable = True
    weight = tf.Variable(0.0)
    sums = [[tf.Variable(tf.zeros_like(v)) for v in (layer.moving_mean, layer.moving_variance)] for layer in sources]
    step = _make_step(copy, sources, sums, weight)
    for batch in inputs:
        step(batch)
    if not float(weight):
        raise UserError("Statistics cannot be re-estimated on no images.")
    for layer, (mean, variance) in zip(targets, sums, strict=True):
        layer.moving_mean.assign(mean / weight)
        layer.moving_variance.assign(variance / weight)
    return len(targets)


def _make_step(copy: keras.Model, sources: list[Any], sums: list[Any], weight: tf.Variable) -> Any:
    # With momentum 0 the moving statistics after a call are those of its batch.
    for layer in sources:
        layer.momentum = 0.0

    @tf.function(input_signature=[tf.TensorSpec([None, *copy.input_shape[1:]], tf.float32)], autograph=False)
    def step(batch: tf.Tensor) -> None:
        outputs = copy(batch, training=True)
        # The graph alone does not say that the statistics are read after the pass that moves them.
        with tf.control_dependencies(tf.nest.flatten(outputs)):
            weight.assign_add(1.0)
        for layer, (mean, variance) in zip(sources, sums, strict=True):
            mean.assign_add(layer.moving_mean)
            variance.assign_add(layer.moving_variance)

    return step


def _normalisations(model: keras.Model) -> list[Any]:
    layers = surgery.iter_layers(model)
    return [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]


def _without_noise(layer: keras.layers.Layer) -> keras.layers.Layer | None:
    if isinstance(layer, _RANDOM):
        return keras.layers.Activation("linear", name=layer.name)
    return None
