"""Ternary convolutions, rounded activations and the predicted ReLU, against the formulas of the specification."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keras_relu.activations import PredictedReLU, predicted_relu
from keras_relu.errors import UserError
from keras_relu.layers.fake_quant import FakeQuant
from keras_relu.layers.ternary import (
    TernaryConv2D,
    TernaryDepthwiseConv2D,
    straight_through_ternary,
    ternarise,
    ternary_parts,
)


def ternary_oracle(kernel):
    """Section 4.1 word by word, for one kernel tensor."""
    threshold = 0.7 * np.mean(np.abs(kernel))
    t = np.sign(np.sign(kernel + threshold) + np.sign(kernel - threshold))
    live = np.abs(kernel) > threshold
    scale = np.mean(np.abs(kernel)[live]) if live.any() else 0.0
    return scale * np.where(live, t, 0.0)


KERNELS = hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=4, max_side=5), elements=st.floats(-3, 3))


@given(KERNELS)
def test_ternarise_is_the_formula_and_idempotent(kernel):
    ternary = ternarise(tf.constant(kernel)).numpy()
    np.testing.assert_allclose(ternary, ternary_oracle(kernel), atol=1e-12)
    np.testing.assert_allclose(ternarise(tf.constant(ternary)).numpy(), ternary, atol=1e-12)


@pytest.mark.parametrize("groups", [2, 4])
def test_every_group_has_its_own_threshold_and_scale(groups):
    kernel = np.random.default_rng(0).standard_normal((1, 1, 6, 8)) * np.repeat([1, 10, 0.1, 3], 2)
    parts = np.split(kernel, groups, axis=-1)
    expected = np.concatenate([ternary_oracle(part) for part in parts], axis=-1)
    np.testing.assert_allclose(ternarise(tf.constant(kernel), groups).numpy(), expected, atol=1e-12)
    assert ternary_parts(tf.constant(kernel), groups)[1].shape == (groups,)


def test_zero_kernels_and_gaussian_constants():
    assert not ternarise(tf.zeros([3, 3, 4, 8]), 4).numpy().any()
    signs, scales = ternary_parts(tf.random.stateless_normal([100, 1000], [1, 2]))
    # T = 0.558 sigma, 58 % non-zero, a = 1.173 sigma.
    assert np.mean(np.abs(signs)) == pytest.approx(0.577, abs=0.01)
    assert scales.numpy() == pytest.approx([1.173], abs=0.01)


def test_after_magnitude_pruning_t_is_the_sign_of_every_survivor():
    kernel = np.random.default_rng(1).standard_normal((1, 1, 24, 864)).astype(np.float32)
    for sparsity in (0.7, 0.8):
        pruned = np.where(np.abs(kernel) > np.quantile(np.abs(kernel), sparsity), kernel, 0)
        signs, scales = ternary_parts(tf.constant(pruned))
        np.testing.assert_array_equal(signs.numpy(), np.sign(pruned))
        assert scales.numpy()[0] == pytest.approx(np.abs(pruned[pruned != 0]).mean(), rel=1e-5)


def test_the_gradient_goes_straight_through():
    kernel = tf.Variable(np.random.default_rng(2).standard_normal((1, 1, 4, 4)))
    weights = tf.constant(np.random.default_rng(3).standard_normal((1, 1, 4, 4)))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(weights * straight_through_ternary(kernel))
    np.testing.assert_array_equal(tape.gradient(loss, kernel), weights)


IMAGES = np.random.default_rng(4).standard_normal((2, 6, 6, 4)).astype(np.float32)


@pytest.mark.parametrize("mode", ["static", "ste", "projected"])
@pytest.mark.parametrize("groups", [1, 2])
def test_convolution_values_modes_and_serialisation(mode, groups, tmp_path):
    layer = TernaryConv2D(6, 3, strides=2, padding="same", groups=groups, use_bias=False, mode=mode, name="t")
    model = keras.Sequential([keras.Input((6, 6, 4)), layer])
    assert bool(model.trainable_weights) is (mode != "static")
    plain = keras.layers.Conv2D(6, 3, 2, "same", groups=groups, use_bias=False)
    plain.build((None, 6, 6, 4))
    plain.set_weights([ternarise(layer.kernel, groups).numpy()])
    np.testing.assert_allclose(model(IMAGES), plain(IMAGES), atol=1e-5)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.get_layer("t").mode == mode
    np.testing.assert_array_equal(loaded(IMAGES), model(IMAGES))
    model.compile(keras.optimizers.legacy.SGD(0.1), "mse")
    before = layer.kernel.numpy()
    model.fit(IMAGES, np.ones((2, 3, 3, 6)), verbose=0)
    after = layer.kernel.numpy()
    assert bool(np.abs(after - before).max() > 1e-3) is (mode != "static")
    is_ternary = np.allclose(after, ternarise(tf.constant(after), groups), atol=1e-6)
    assert is_ternary is (mode == "projected")


@pytest.mark.parametrize("mode", ["static", "ste", "projected"])
def test_depthwise_values_and_serialisation(mode):
    layer = TernaryDepthwiseConv2D(3, strides=2, padding="same", mode=mode)
    copy = TernaryDepthwiseConv2D.from_config(layer.get_config())
    assert copy.mode == mode
    for one in (layer, copy):
        one.build((None, 6, 6, 4))
    copy.set_weights(layer.get_weights())
    assert bool(layer.trainable_weights) is (mode != "static")
    plain = keras.layers.DepthwiseConv2D(3, 2, "same")
    plain.build((None, 6, 6, 4))
    plain.set_weights([ternarise(layer.depthwise_kernel).numpy(), layer.bias.numpy()])
    for one in (layer, copy):
        np.testing.assert_allclose(one(IMAGES), plain(IMAGES), atol=1e-5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TernaryConv2D(4, 1, mode="dynamic"), "Unknown mode"),
        (lambda: TernaryDepthwiseConv2D(3, mode="projekted"), "'projected'"),
        (lambda: TernaryConv2D(4, 1, kernel_regularizer="l2"), "kernel_regularizer has no effect"),
        (lambda: TernaryConv2D(4, 1, mode="projected", kernel_constraint="non_neg"), "kernel_constraint has no effect"),
        (lambda: TernaryDepthwiseConv2D(3, depthwise_constraint="non_neg"), "depthwise_constraint has no effect"),
        (lambda: FakeQuant(1.0, 6.0), "holds 0"),
        (lambda: FakeQuant(0.0, 0.0), "holds 0"),
        (lambda: FakeQuant(bits=1), "2 to 16"),
        (lambda: PredictedReLU()(tf.zeros([1, 4])), "takes"),
        (lambda: PredictedReLU()([tf.zeros([1, 4]), tf.zeros([1, 5])]), "of one shape"),
    ],
)
def test_bad_arguments(make, words):
    with pytest.raises(UserError, match=words):
        make()


@pytest.mark.parametrize(
    ("arguments", "levels"),
    [((-6.0, 6.0, 4), np.arange(-8, 8) * 0.8), ((0.0, 6.0, 4), np.arange(16) * 0.4), ((-1.0, 2.0, 2), [-1, 0, 1, 2])],
)
def test_fake_quant_levels_rounding_and_gradient_window(arguments, levels):
    layer = FakeQuant(*arguments[:2], bits=arguments[2])
    assert layer.levels() == pytest.approx(list(levels))
    x = tf.constant(np.linspace(-9, 9, 2001), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
    np.testing.assert_allclose(np.unique(np.round(y, 4)), levels, atol=1e-4)
    nearest = np.asarray(levels)[np.argmin(np.abs(x.numpy()[:, None] - levels), axis=1)]
    # Away from the middle between two levels, where either may be meant.
    middle = np.abs(np.abs(x.numpy() - nearest) - (levels[1] - levels[0]) / 2) < 1e-3
    np.testing.assert_allclose(y[~middle], nearest[~middle], atol=1e-4)
    built_in = tf.quantization.fake_quant_with_min_max_args(x, *arguments)
    np.testing.assert_allclose(y[~middle], built_in[~middle], atol=1e-5)
    inside = (x.numpy() >= levels[0]) & (x.numpy() <= levels[-1])
    np.testing.assert_array_equal(tape.gradient(y, x), inside.astype(np.float32))
    assert FakeQuant.from_config(layer.get_config()).levels() == layer.levels()


def test_fake_quant_rounds_halves_up():
    # Steps of 1, so that halves are exact.
    np.testing.assert_array_equal(FakeQuant(-7.0, 8.0)(tf.constant([-1.5, -0.5, 0.5, 1.5])), [-1.0, 0.0, 1.0, 2.0])


def test_predicted_relu_values_and_gradients():
    z = tf.constant([[-1.0, 2.0, 3.0, 0.0, -2.0]])
    exact = tf.constant([[5.0, -4.0, 7.0, 1.0, -3.0]])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([z, exact])
        h = predicted_relu(z, exact)
    np.testing.assert_array_equal(h, [[0.0, -4.0, 7.0, 0.0, 0.0]])
    np.testing.assert_array_equal(tape.gradient(h, z), [[0.0, 1.0, 1.0, 0.0, 0.0]])
    assert tape.gradient(h, exact) is None
    with tf.GradientTape() as tape:
        tape.watch(exact)
        h = predicted_relu(z, exact, train_exact=True)
    np.testing.assert_array_equal(h, [[0.0, -4.0, 7.0, 0.0, 0.0]])
    np.testing.assert_array_equal(tape.gradient(h, exact), [[0.0, 1.0, 1.0, 0.0, 0.0]])
    # With a perfect predictor it is the ReLU.
    np.testing.assert_array_equal(predicted_relu(exact, exact), tf.nn.relu(exact))


def test_cascade_also_returns_the_predictors_own_relu():
    z, exact = tf.constant([[-1.0, 2.0]]), tf.constant([[3.0, -4.0]])
    layer = PredictedReLU(cascade=True, train_exact=True)
    kept, own = layer([z, exact])
    np.testing.assert_array_equal(kept, [[0.0, -4.0]])
    np.testing.assert_array_equal(own, [[0.0, 2.0]])
    assert layer.site_facts()["relu_count"] == 2
    made = PredictedReLU.from_config(layer.get_config())
    assert (made.cascade, made.train_exact) == (True, True)
