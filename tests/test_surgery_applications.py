"""Networks of keras.applications go through the whole life: found, gated, trained a step, frozen, stripped, saved."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from keras_relu import counting, surgery
from keras_relu.replacement import freeze, gated_layers, kept_count, replace_relus, strip

SIZE = 32
NETWORKS = {
    "mobilenet_v2": (lambda **options: keras.applications.MobileNetV2(alpha=0.35, **options), 35, {6.0}),
    "vgg16": (lambda **options: keras.applications.VGG16(**options), 15, {None}),
    "resnet50": (lambda **options: keras.applications.ResNet50(**options), 49, {None}),
}


def build(name):
    keras.utils.set_random_seed(0)
    return NETWORKS[name][0](weights=None, input_shape=(SIZE, SIZE, 3), classes=10)


def images(count=4):
    return np.random.default_rng(0).normal(size=(count, SIZE, SIZE, 3)).astype(np.float32)


def train_step(model):
    """One update by plain gradient descent; returns the loss and the number of weights without a gradient."""
    with tf.GradientTape() as tape:
        predictions = model(images(), training=True)
        loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(np.arange(4), predictions))
    gradients = tape.gradient(loss, model.trainable_weights)
    for gradient, weight in zip(gradients, model.trainable_weights, strict=True):
        if gradient is not None:
            weight.assign_sub(1e-3 * gradient)
    return float(loss), sum(gradient is None for gradient in gradients)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_the_whole_life(name, tmp_path):
    model = build(name)
    sites = surgery.find_sites(model)
    assert (len(sites), {site.max_value for site in sites}) == NETWORKS[name][1:]
    total = sum(math.prod(site.shape) for site in sites)
    assert counting.count(model).relu_count == total

    gated = replace_relus(model, replacement="quadratic")
    assert [layer.name for layer in gated_layers(gated)] == [site.name for site in sites]
    np.testing.assert_allclose(gated(images()), model(images()), atol=1e-6)

    before = [layer.score.numpy() for layer in gated_layers(gated)]
    loss, unreached = train_step(gated)
    assert math.isfinite(loss)
    assert unreached == 0
    moved = [not np.array_equal(old, layer.score) for old, layer in zip(before, gated_layers(gated), strict=True)]
    assert np.mean(moved) > 0.9

    budget = total // 10
    assert freeze(gated, budget) == kept_count(gated) == budget
    plain = strip(gated)
    np.testing.assert_allclose(plain(images()), gated(images()), atol=1e-6)
    plain.save(tmp_path / "plain.keras")
    loaded = keras.models.load_model(tmp_path / "plain.keras", compile=False)
    np.testing.assert_array_equal(loaded(images()), plain(images()))
    assert counting.count(loaded).relu_count == budget
    assert len(loaded.weights) == len(model.weights)
