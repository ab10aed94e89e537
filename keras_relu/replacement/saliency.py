"""What the single ReLUs of a network are worth before anything is trained: the ranking that a cost plan starts from."""

from __future__ import annotations

import itertools

import numpy as np
import tensorflow as tf
import tf_keras as keras

from keras_relu.data import Dataset
from keras_relu.replacement import lifecycle
from keras_relu.training import losses

__all__ = ["measure_saliency"]


def measure_saliency(
    model: keras.Model, dataset: Dataset, *, batches: int = 16, batch_size: int = 64
) -> dict[str, np.ndarray]:
    """Mean over training batches of the squared gradient of the loss to each gate, with the identity as replacement.

    The gate's gradient is dL/dy (relu(x) - x), so an element counts for what its ReLU changes and what that matters: the
    diagonal of the Fisher information of the masks, as in the search itself.

    Args:
        model: a trained functional model with logits; it is not changed.
        batches: read from the training split in order, without augmentation.

    Returns:
        By site name, float64 of the site's per-image shape, non-negative.
    """
    gated = lifecycle.replace_relus(model, replacement="identity")
    layers = lifecycle.gated_layers(gated)
    scores = [layer.score for layer in layers]
    slopes = [np.float64(tf.math.softplus(score).numpy()) for score in scores]

    @tf.function
    def gradients(images: tf.Tensor, labels: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(scores)
            logits = gated(dataset.normalization.apply(images), training=False)
            loss = tf.reduce_mean(losses.cross_entropy(labels, logits))
        return tape.gradient(loss, scores)

    sums = [np.zeros(score.shape) for score in scores]
    for images, labels in itertools.islice(dataset.train.batches(batch_size), batches):
        for total, gradient, slope in zip(sums, gradients(images, labels), slopes, strict=True):
            # The layer's score gradient carries the factor softplus(score).
            total += np.square(gradient.numpy() / slope)
    return {layer.name: total / batches for layer, total in zip(layers, sums, strict=True)}
