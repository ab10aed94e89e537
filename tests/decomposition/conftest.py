"""A tiny network whose last layer reads 12 pooled filters, and the embedded images."""

import json

import pytest
import tf_keras as keras

from keras_relu import data
from keras_relu.cli import main

# The published table for ResNet-20 on CIFAR-10 with five filters per class, as in its index file.
PUBLISHED_5 = [
    [7, 23, 54, 50, 22],
    [9, 47, 40, 55, 6],
    [1, 23, 13, 61, 53],
    [17, 57, 49, 53, 59],
    [46, 48, 57, 61, 25],
    [63, 37, 13, 42, 49],
    [56, 52, 9, 48, 61],
    [53, 16, 25, 0, 56],
    [9, 2, 29, 21, 22],
    [21, 8, 55, 54, 40],
]


def make_network(*, filters=12, classes=10, activation=None, use_bias=True):
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(6, 3, padding="same", name="first")(x)
    x = keras.layers.ReLU(name="first_relu")(x)
    x = keras.layers.ReLU(name="second_relu")(keras.layers.Conv2D(filters, 3, strides=2, name="second")(x))
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    dense = keras.layers.Dense(
        classes, name="classifier", activation=activation, use_bias=use_bias, bias_initializer="random_normal"
    )
    return keras.Model(inputs, dense(x), name="tiny")


@pytest.fixture(scope="session")
def network():
    return make_network()


@pytest.fixture(scope="session")
def digits():
    return data.load("digits", limit=256)


@pytest.fixture(scope="session")
def trained(network, digits, tmp_path_factory):
    """A run directory with the tiny network after a short training, so that its classes have filters of their own."""
    from keras_relu.runs import Run
    from keras_relu.training import supervised

    config = supervised.TrainConfig(epochs=30, batch_size=64, optimizer="adam", learning_rate=0.02, augment=False)
    run = Run.create(tmp_path_factory.mktemp("trained") / "run", config=config.to_dict(), stage="train")
    supervised.train(make_network(), digits, run, config, progress=False)
    return run.path


@pytest.fixture
def published_file(tmp_path):
    path = tmp_path / "published.json"
    path.write_text(json.dumps({str(number): row for number, row in enumerate(PUBLISHED_5)}))
    return path


@pytest.fixture
def command(capsys):
    """Runs `keras-relu decompose ... --json` in this process: (exit code, parsed answer, messages)."""

    def run(*arguments, as_json=True):
        code = main(["decompose", *map(str, arguments), *(["--json"] if as_json else [])])
        captured = capsys.readouterr()
        answer = json.loads(captured.out) if as_json and code == 0 else captured.out
        return code, answer, captured.err

    return run
