"""A small network with everything that costs: normalisation, a partial mask, a line, a quadratic, max-pooling, a sum."""

import numpy as np
import pytest
import tf_keras as keras

from keras_relu.replacement import lifecycle

KEPT = {"relu1": 0.25, "relu2": 0.0, "relu3": 0.5}


def make_network():
    keras.utils.set_random_seed(3)
    inputs = keras.Input((8, 8, 3), name="image")
    x = keras.layers.Conv2D(8, 3, padding="same", use_bias=False, name="conv1")(inputs)
    x = keras.layers.BatchNormalization(name="bn1")(x)
    x = keras.layers.ReLU(name="relu1")(x)
    y = keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="conv2")(x)
    y = keras.layers.BatchNormalization(scale=False, name="bn2")(y)
    y = keras.layers.ReLU(name="relu2")(y)
    x = keras.layers.Add(name="add")([x, y])
    x = keras.layers.BatchNormalization(name="bn3")(x)
    x = keras.layers.ReLU(name="relu3")(x)
    x = keras.layers.MaxPooling2D(2, name="pool")(x)
    x = keras.layers.GlobalAveragePooling2D(name="mean")(x)
    network = keras.Model(inputs, keras.layers.Dense(5, name="dense")(keras.layers.Dropout(0.5)(x)), name="costly")
    random = np.random.default_rng(0)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([random.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()])
    return network


def reduce(network, replacement="quadratic", kept=KEPT):
    """`network` with a random part of each site's ReLUs kept, stripped."""
    gated = lifecycle.replace_relus(network, replacement=replacement)
    random = np.random.default_rng(1)
    for layer in lifecycle.gated_layers(gated):
        layer.mask.assign((random.random(layer.mask.shape) < kept[layer.name]).astype(np.float32))
        if layer.coefficients is not None:
            layer.coefficients.assign_add(0.1 * random.normal(size=layer.coefficients.shape))
    return lifecycle.strip(gated)


@pytest.fixture(scope="session")
def network():
    return make_network()


@pytest.fixture(scope="session")
def images():
    return np.random.default_rng(2).normal(size=(4, 8, 8, 3)).astype(np.float32)


@pytest.fixture(scope="session")
def reduced(network):
    return {name: reduce(network, name) for name in ("identity", "line", "quadratic")}
