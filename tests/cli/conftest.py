"""The command line in this process: a call, a small network to call it on, and one trained run for all tests of a worker."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import NamedTuple

import pytest

from keras_relu.cli import main

TRAINING = ("--dataset", "digits", "--limit", "200", "--batch-size", "50", "--epochs", "1")


class Outcome(NamedTuple):
    """What a call of the command returned and printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        assert self.code == 0, self.err
        return json.loads(self.out)


def call(*arguments: object) -> Outcome:
    """Run `keras-relu` with `arguments`."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return Outcome(code, out.getvalue(), err.getvalue())


def refused(*arguments: object) -> str:
    """The one sentence with which a wrong input is answered."""
    outcome = call(*arguments)
    assert outcome.code == 2, outcome
    assert outcome.out == ""
    assert outcome.err.count("\n") == 1, outcome.err
    assert outcome.err.startswith("keras-relu: ")
    assert "Traceback" not in outcome.err
    return outcome.err.removeprefix("keras-relu: ").strip()


def network(classes: int = 10, shape: tuple[int, int, int] = (8, 8, 1)):
    """An untrained network of 2 sites and, for digits, 136 ReLUs."""
    import tf_keras as keras

    keras.utils.set_random_seed(0)
    inputs = keras.Input(shape)
    x = keras.layers.Conv2D(8, 3, strides=2, padding="same", activation="relu", name="conv")(inputs)
    x = keras.layers.Dense(8, activation="relu", name="dense")(keras.layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, keras.layers.Dense(classes, name="classifier")(x), name="small")


@pytest.fixture(name="call", scope="session")
def _call():
    return call


@pytest.fixture(name="refused", scope="session")
def _refused():
    return refused


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Path:
    """A network for digits as a .keras file; quick to load, not trained."""
    path = tmp_path_factory.mktemp("small") / "small.keras"
    network().save(path)
    return path


@pytest.fixture(scope="session")
def make_network():
    return network


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """A run directory of `keras-relu train`: one epoch of ResNet-20 on 200 digits."""
    path = tmp_path_factory.mktemp("trained") / "run"
    outcome = call("train", "--arch", "resnet20", *TRAINING, "--output", path, "--json")
    assert outcome.code == 0, outcome.err
    return path
