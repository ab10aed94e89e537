"""Choosing the k largest values of each row against sorting them."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from keras_relu.compression.largest import largest


def oracle(values, kept):
    """A stable sort, so that among equal values the first ones count as the larger."""
    mask = np.zeros(values.shape, bool)
    for row, chosen in zip(values, mask, strict=True):
        chosen[np.argsort(-row.astype(np.float64), kind="stable")[:kept]] = True
    return mask


def check(values, kept):
    mask, threshold = largest(tf.constant(values), tf.constant(kept))
    np.testing.assert_array_equal(mask, oracle(values, kept))
    expected = [row[chosen].min() for row, chosen in zip(values, oracle(values, kept), strict=True)]
    np.testing.assert_array_equal(threshold[:, 0], expected)


FLOATS = st.floats(0, 3.4028234663852886e38, width=32)


@given(arrays.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 30)), elements=FLOATS), st.data())
def test_any_values(values, data):
    check(values, data.draw(st.integers(1, values.shape[1])))


@given(
    arrays.arrays(np.float32, (3, 20), elements=st.sampled_from([0.0, 1e-45, 0.25, np.float32(0.25000003)])), st.data()
)
def test_many_equal_values(values, data):
    check(values, data.draw(st.integers(1, 20)))


@pytest.mark.parametrize("kept", [1, 2_000, 9_999, 10_000])
def test_weights_of_one_magnitude(kept):
    values = np.abs(np.random.default_rng(0).normal(0, 0.05, (4, 10_000))).astype("float32")
    check(values, kept)
    values[2] = values[2].round(2)
    check(values, kept)


def test_in_a_graph_that_does_not_know_how_many():
    values = np.random.default_rng(1).uniform(size=(2, 100)).astype("float32")
    graph = tf.function(largest).get_concrete_function(tf.TensorSpec([2, 100]), tf.TensorSpec([], tf.int32))
    for kept in (1, 20, 100):
        np.testing.assert_array_equal(graph(tf.constant(values), tf.constant(kept))[0], oracle(values, kept))
