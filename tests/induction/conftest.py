"""A tiny residual network named like ours, digits to run through it, and one trained run and cache for all tests."""

import json

import numpy as np
import pytest
import tf_keras as keras

from keras_relu import data
from keras_relu.cli import main

MAPPING = {"stem_relu": ["stem_relu", "stage1_block1_relu1", "stage1_block1_relu2"]}
SITES = ("stem_relu", "stage1_block1_relu1", "stage1_block1_relu2", "stage2_block1_relu1", "stage2_block1_relu2")


def _block(x, filters, prefix, strides=1):
    y = keras.layers.Conv2D(filters, 3, strides, "same", use_bias=False, name=f"{prefix}_conv1")(x)
    y = keras.layers.ReLU(name=f"{prefix}_relu1")(keras.layers.BatchNormalization(name=f"{prefix}_bn1")(y))
    y = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"{prefix}_conv2")(y)
    y = keras.layers.BatchNormalization(name=f"{prefix}_bn2")(y)
    if strides > 1:
        x = keras.layers.Conv2D(filters, 1, strides, use_bias=False, name=f"{prefix}_shortcut_conv")(x)
        x = keras.layers.BatchNormalization(name=f"{prefix}_shortcut_bn")(x)
    return keras.layers.ReLU(name=f"{prefix}_relu2")(keras.layers.Add(name=f"{prefix}_add")([y, x]))


def make_network(seed=0):
    """5 sites of 8x8x4 (three) and 4x4x6 (two): 256 * 3 + 96 * 2 = 960 ReLUs."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 1), name="image")
    x = keras.layers.Conv2D(4, 3, padding="same", use_bias=False, name="stem_conv")(inputs)
    x = keras.layers.ReLU(name="stem_relu")(keras.layers.BatchNormalization(name="stem_bn")(x))
    x = _block(_block(x, 4, "stage1_block1"), 6, "stage2_block1", strides=2)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, keras.layers.Dense(10, name="classifier")(x), name="tiny")


@pytest.fixture(scope="session")
def digits():
    return data.load("digits")


@pytest.fixture(scope="session")
def trained(digits, tmp_path_factory):
    """A run directory with the tiny network after a short training."""
    from keras_relu.runs import Run
    from keras_relu.training import supervised

    config = supervised.TrainConfig(epochs=6, batch_size=64, optimizer="adam", learning_rate=0.01, augment=False)
    run = Run.create(tmp_path_factory.mktemp("induction") / "base", config=config.to_dict(), stage="train")
    supervised.train(make_network(), digits, run, config, progress=False)
    return run.path


@pytest.fixture(scope="session")
def network(trained):
    from keras_relu.runs import load_model

    return load_model(trained)


@pytest.fixture(scope="session")
def cache(network, digits, tmp_path_factory):
    """Bits of 200 images, which are not a multiple of 64."""
    from keras_relu.induction import write_cache

    return write_cache(network, digits, tmp_path_factory.mktemp("cache") / "bits", images=200)


@pytest.fixture(scope="session")
def responses(network, digits):
    """{site: pre-activations [200, N]} of the images of `cache`."""
    from keras_relu import surgery

    probe = surgery.preactivations(network, SITES)
    pictures = digits.normalization.apply(digits.train.images[:200])
    return {name: x.numpy().reshape(200, -1) for name, x in zip(SITES, probe(pictures), strict=True)}


@pytest.fixture
def logits(digits):
    pictures = digits.normalization.apply(digits.test.images[:32])
    return lambda model: np.asarray(model(pictures, training=False))


@pytest.fixture
def command(capsys):
    """Runs `keras-relu induce ...` in this process: (exit code, parsed answer or text, messages)."""

    def run(*arguments, as_json=True):
        code = main(["induce", *map(str, arguments), *(["--json"] if as_json else [])])
        captured = capsys.readouterr()
        answer = json.loads(captured.out) if as_json and code == 0 else captured.out
        return code, answer, captured.err

    return run
