"""A batch whose loss jumps out of its range leaves no trace in the network; a training that has gone elsewhere goes on."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from keras_relu import replacement
from keras_relu.activations import MaskedReLU
from keras_relu.data import get_normalization
from keras_relu.replacement.config import Finetune, Search
from keras_relu.replacement.guard import SpikeGuard
from keras_relu.replacement.lifecycle import set_masks
from keras_relu.replacement.step import GatedStep, SearchStep


def decisions(guard, losses):
    return [bool(guard.admits(tf.constant(loss))) for loss in losses]


class TestDecision:
    def test_a_spike_is_left_out_and_does_not_move_the_level(self):
        guard = SpikeGuard([])
        assert decisions(guard, [2.0, 2.2, 5e4, float("nan"), float("inf"), 1.9]) == [
            True,
            True,
            False,
            False,
            False,
            True,
        ]
        level = 0.98 * (0.98 * 2.0 + 0.02 * 2.2) + 0.02 * 1.9
        assert float(guard.level) == pytest.approx(level, rel=1e-6)

    def test_the_first_loss_is_admitted_whatever_it_is(self):
        assert decisions(SpikeGuard([]), [1e6]) == [True]

    def test_losses_that_stay_high_are_admitted_after_the_patience(self):
        guard = SpikeGuard([], patience=3)
        assert decisions(guard, [1.0, *[50.0] * 5]) == [True, False, False, False, True, True]

    def test_losses_that_stay_nan_are_admitted_so_that_the_run_stops(self):
        guard = SpikeGuard([], patience=2)
        assert decisions(guard, [1.0, *[float("nan")] * 3]) == [True, False, False, True]

    def test_a_loss_that_grows_step_by_step_is_no_spike(self):
        assert all(decisions(SpikeGuard([]), [0.2 * 1.05**step for step in range(120)]))

    def test_logs_show_the_level_in_place_of_the_spike(self):
        guard = SpikeGuard([])
        decisions(guard, [2.0])
        logs = guard.logged(tf.constant(1e5), guard.admits(tf.constant(1e5)))
        assert {key: float(value) for key, value in logs.items()} == {"loss": 2.0, "skipped": 1.0}


@pytest.fixture(scope="module")
def gated():
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((8, 8, 1))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3, padding="same")(x))
    x = keras.layers.ReLU(name="site")(x)
    outputs = keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x))
    model = replacement.replace_relus(keras.Model(inputs, outputs), replacement="quadratic")
    set_masks(model, 100)
    return model


def batch(seed=0):
    rng = np.random.default_rng(seed)
    return tf.constant(rng.integers(0, 256, (16, 8, 8, 1)), tf.uint8), tf.constant(rng.integers(0, 10, 16), tf.int32)


def snapshot(step):
    return {
        f"{group}{place}": variable.numpy()
        for group, variables in step.variables().items()
        for place, variable in enumerate(variables)
        if group != "guard" and "reach" not in variable.name
    }


@pytest.mark.parametrize(
    "make", [lambda m, **o: GatedStep(m, Finetune(), **o), lambda m, **o: SearchStep(m, Search(), **o)]
)
@pytest.mark.parametrize("graph", [False, True])
def test_a_spike_leaves_weights_statistics_scores_and_slots_as_they_were(gated, make, graph):
    step = make(gated, steps=100, normalization=get_normalization("unit"))
    call = tf.function(step.__call__, autograph=False) if graph else step
    call(*batch(), tf.constant(0))
    before = snapshot(step)
    step.guard.level.assign(1e-6)
    logs = call(*batch(1), tf.constant(2))
    assert float(logs["skipped"]) == 1.0
    assert float(logs["loss"]) == pytest.approx(1e-6)
    for name, value in snapshot(step).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)
    step.guard.level.assign(0.0)
    logs = call(*batch(1), tf.constant(2))
    assert float(logs["skipped"]) == 0.0
    assert any((value != before[name]).any() for name, value in snapshot(step).items())


def test_the_reach_grows_by_a_tenth_a_step_and_never_becomes_nan():
    layer = MaskedReLU(replacement="quadratic")
    x = np.ones((4, 2, 2, 3), np.float32)
    for value, expected in ((1.0, 1.0), (1e6, 1.1), (np.nan, 1.21), (np.inf, 1.331), (1.0, 0.998 * 1.331 + 0.002)):
        layer(tf.constant(value * x), training=True)
        np.testing.assert_allclose(layer.reach, np.full(3, expected), rtol=1e-6)
