"""The zero-padding shortcut and the padding in front of a max-pool."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_relu.errors import UserError
from keras_relu.layers.padding import EdgePadding2D
from keras_relu.layers.shortcut import ZeroPadShortcut, zero_pad_shortcut


def images(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def max_pool_minus_infinity(x, size, strides, padding):
    """Max-pool over an image framed by minus infinity, one window at a time."""
    sides = (padding, padding)
    x = np.pad(x, [(0, 0), sides, sides, (0, 0)], constant_values=-np.inf)
    rows, cols = ((n - size) // strides + 1 for n in x.shape[1:3])
    out = np.empty((len(x), rows, cols, x.shape[3]), x.dtype)
    for i in range(rows):
        for j in range(cols):
            window = x[:, i * strides : i * strides + size, j * strides : j * strides + size]
            out[:, i, j] = window.max((1, 2))
    return out


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 9), st.integers(2, 9), st.sampled_from([(3, 1), (2, 1), (5, 2), (4, 2)]), st.integers(1, 3))
def test_edge_padding_and_max_pool_equal_padding_with_minus_infinity(height, width, pool, strides):
    size, padding = pool
    x = images(2, height, width, 3, seed=height * 10 + width) - 5
    if min(height, width) + 2 * padding < size:
        return
    ours = keras.layers.MaxPooling2D(size, strides)(EdgePadding2D(padding)(x))
    assert np.array_equal(ours, max_pool_minus_infinity(x, size, strides, padding))


def test_edge_padding_passes_each_gradient_once():
    x = tf.constant(images(1, 4, 4, 1))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.reduce_sum(keras.layers.MaxPooling2D(3, 2)(EdgePadding2D()(x)))
    gradient = tape.gradient(y, x).numpy()
    assert gradient.sum() == 4
    assert set(np.unique(gradient)) <= {0, 1, 2, 3, 4}


def test_zero_pad_shortcut_takes_every_second_pixel_and_centres_the_channels():
    x = images(2, 5, 4, 4)
    y = zero_pad_shortcut(tf.constant(x), 8, 2).numpy()
    assert y.shape == (2, 3, 2, 8)
    assert np.array_equal(y[..., 2:6], x[:, ::2, ::2])
    assert not y[..., :2].any()
    assert not y[..., 6:].any()


@pytest.mark.parametrize("layer", [ZeroPadShortcut(7, 2, name="a"), EdgePadding2D(2, name="b")])
def test_shapes_and_configs(layer):
    x = images(1, 5, 6, 3)
    copy = type(layer).from_config(layer.get_config())
    assert np.array_equal(copy(x), layer(x))
    assert layer(x).shape == layer.compute_output_shape(x.shape)
    assert layer.compute_output_shape((None, None, None, 3))[1:3] == (None, None)


def test_zero_pad_shortcut_refuses_to_shorten():
    with pytest.raises(UserError, match="cannot shorten 8 channels to 4"):
        ZeroPadShortcut(4, 2)(images(1, 4, 4, 8))


@pytest.mark.parametrize("make", [lambda: ZeroPadShortcut(0), lambda: ZeroPadShortcut(8, 0), lambda: EdgePadding2D(0)])
def test_bad_arguments_are_refused(make):
    with pytest.raises(UserError, match=">= 1"):
        make()
