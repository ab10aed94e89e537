"""The rules that turn scores into masks."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from reference import gated as reference

from keras_relu.activations import gates
from keras_relu.errors import UserError


def update(gate, score, mask):
    return float(gate.update(tf.constant([score], tf.float32), tf.constant([mask], tf.float32)).numpy()[0])


@pytest.mark.parametrize(
    ("mask", "score", "expected"), [(1, -0.003, 0), (1, 0, 1), (0, 0.003, 0), (0, 0.0030001, 1), (0, 0, 0)]
)
def test_hysteresis_boundaries_are_strict(mask, score, expected):
    assert update(gates.Hysteresis(tau=0.003), score, mask) == expected


def test_hysteresis_follows_the_published_sequence():
    state, states = 1.0, []
    for score in (-0.011, 0.005, 0.001, 0.011, -0.009, -0.011, 0, 0.011):
        state = update(gates.Hysteresis(tau=0.01), score, state)
        states.append(int(state))
    assert states == [0, 0, 0, 1, 1, 0, 0, 1]


@pytest.mark.parametrize(("score", "expected"), [(0.0, 0), (1e-30, 1), (-1.0, 0)])
@pytest.mark.parametrize("mask", [0, 1])
def test_threshold_ignores_the_previous_mask(score, expected, mask):
    assert update(gates.Threshold(), score, mask) == expected


# TensorFlow flushes subnormal numbers to zero.
scores = arrays.arrays(np.float32, (3, 4), elements=st.floats(-2, 2, width=32, allow_subnormal=False))
masks = arrays.arrays(np.bool_, (3, 4)).map(lambda a: a.astype(np.float32))


@settings(max_examples=50, deadline=None)
@given(scores, masks, st.sampled_from([0.0, 0.25, 0.5]))
def test_hysteresis_equals_the_oracle_and_is_idempotent(score, mask, tau):
    gate = gates.Hysteresis(tau=tau)
    once = gate.update(tf.constant(score), tf.constant(mask))
    np.testing.assert_array_equal(once, reference.hysteresis(score, mask, tau))
    np.testing.assert_array_equal(gate.update(tf.constant(score), once), once)


def test_zero_tau_is_the_threshold_gate():
    score, mask = tf.constant([-1.0, 0.0, 1.0]), tf.constant([1.0, 1.0, 0.0])
    expected = gates.Threshold().update(score, mask)
    np.testing.assert_array_equal(gates.Hysteresis(tau=0.0).update(score, mask), expected)


@pytest.mark.parametrize("gate", [gates.Threshold(), gates.Hysteresis(), gates.Hysteresis(tau=0.5)])
def test_get_takes_names_configurations_and_instances(gate):
    assert gates.get(gate) is gate
    assert gates.get(gate.get_config()) == gate
    assert type(gates.get(gate.name)) is type(gate)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("hysterisis", "Did you mean 'hysteresis'"),
        ({"name": "hysteresis", "tao": 1}, "Did you mean 'tau'"),
        ({"tau": 1}, "a configuration with a 'name'"),
        (3, "received 3"),
    ],
)
def test_get_refuses(wrong, message):
    with pytest.raises(UserError, match=message):
        gates.get(wrong)


@pytest.mark.parametrize("tau", [-0.1, float("nan")])
def test_hysteresis_refuses_a_tau_below_zero(tau):
    with pytest.raises(UserError, match="tau must be"):
        gates.Hysteresis(tau=tau)


def test_a_gate_of_ones_own_states_its_rule():
    with pytest.raises(NotImplementedError):
        gates.Gate().update(tf.zeros([1]), tf.zeros([1]))
