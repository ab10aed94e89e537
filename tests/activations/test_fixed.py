"""The constant activation that a network ships with."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from hypothesis import given, settings
from hypothesis.extra import numpy as arrays
from reference import gated as reference

from keras_relu.activations.fixed import FixedActivation, pack_mask, unpack_mask
from keras_relu.errors import UserError

MASK = np.array([[[1, 0], [0, 1], [1, 1]], [[0, 0], [0, 1], [1, 0]]], bool)
COEFFICIENTS = [[0.5, -0.25], [0.75, 1.5], [0.125, -0.5]]
VARIANTS = {
    "quadratic": (MASK, COEFFICIENTS),
    "line": (MASK, COEFFICIENTS[:2]),
    "identity": (MASK, None),
    "none kept": (None, COEFFICIENTS),
    "all linear": (None, None),
}


def images(batch=4):
    return np.random.default_rng(0).normal(size=(batch, *MASK.shape)).astype(np.float32)


def make(name):
    mask, coefficients = VARIANTS[name]
    return FixedActivation(None if mask is None else pack_mask(mask), coefficients)


@settings(max_examples=30, deadline=None)
@given(arrays.arrays(np.bool_, arrays.array_shapes(max_dims=3, max_side=9)))
def test_packing_round_trip(mask):
    packed = pack_mask(mask)
    np.testing.assert_array_equal(unpack_mask(packed), mask)
    assert len(packed["bits"]) <= 4 * (mask.size // 24 + 1)


@pytest.mark.parametrize("name", VARIANTS)
def test_values_and_input_gradients_equal_the_oracle(name):
    mask, coefficients = VARIANTS[name]
    mask = np.zeros_like(MASK) if mask is None else mask
    x, upstream = images(), images()[::-1]
    expected = reference.gated(x, np.zeros(MASK.shape), mask, coefficients or [[0, 0], [1, 1]], upstream)
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = make(name)(x)
    np.testing.assert_allclose(y, expected.y, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(tape.gradient(y, x, tf.constant(upstream)), expected.x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", VARIANTS)
def test_files_hold_the_same_function_and_no_variables(name, tmp_path):
    model = keras.Sequential([keras.Input(MASK.shape), make(name)])
    assert model.weights == []
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(images()), model(images()))
    assert loaded.layers[-1].get_config() == model.layers[-1].get_config()
    model.export(tmp_path / "saved")
    np.testing.assert_allclose(tf.saved_model.load(str(tmp_path / "saved")).serve(images()), model(images()), rtol=1e-6)


def test_tflite_runs_it():
    model = keras.Sequential([keras.Input(MASK.shape, batch_size=4), make("quadratic")])
    content = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    interpreter = tf.lite.Interpreter(model_content=content)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], images())
    interpreter.invoke()
    result = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(result, model(images()), rtol=1e-5, atol=1e-6)


def test_half_precision():
    layer = FixedActivation(pack_mask(MASK), COEFFICIENTS, dtype="mixed_float16")
    y = layer(images())
    assert y.dtype == tf.float16
    np.testing.assert_allclose(tf.cast(y, tf.float32), make("quadratic")(images()), rtol=0.02, atol=0.02)


def test_infinities_of_kept_elements_stay_out_of_the_polynomial():
    layer = FixedActivation(pack_mask(np.array([True, False])), [[0.0, 0.0], [0.0, 0.0]])
    np.testing.assert_array_equal(layer(np.array([[np.inf, 1], [-np.inf, 2]], np.float32)), [[np.inf, 0], [0, 0]])


@pytest.mark.parametrize("name", VARIANTS)
def test_kept_indices_and_counts(name):
    layer = make(name)
    layer.build((None, *MASK.shape))
    kept = [] if VARIANTS[name][0] is None else np.flatnonzero(MASK)
    np.testing.assert_array_equal(layer.kept_indices(), kept)
    assert layer.relu_count() == len(kept)
    facts = layer.site_facts()
    degree = 0 if VARIANTS[name][1] is None else len(VARIANTS[name][1]) - 1
    assert facts["relu_count"] == facts["comparison_count"] == len(kept)
    assert facts["polynomial_count"] == (12 - len(kept)) * (degree > 0)
    assert facts["multiplications"] == (12 - len(kept)) * (degree > 1)
    assert facts["multiplicative_depth"] == int(degree > 1)


@pytest.mark.parametrize(
    "packed",
    [
        {"shape": [2, 3, 2]},
        {"shape": [2], "bits": "?"},
        {"shape": None, "bits": ""},
        {"shape": ["a"], "bits": "AA=="},
        3,
    ],
)
def test_refuses_malformed_masks(packed):
    with pytest.raises(UserError, match="packed mask needs"):
        unpack_mask(packed)


def test_refuses_too_few_bits():
    with pytest.raises(UserError, match="needs 2 bytes, received 1"):
        unpack_mask({"shape": [12], "bits": "AA=="})


@pytest.mark.parametrize("coefficients", [[[1.0]], [[1.0], [1.0, 2.0]], [[1.0]] * 4, []])
def test_refuses_malformed_coefficients(coefficients):
    with pytest.raises(UserError, match="Coefficients must be two or three rows"):
        FixedActivation(None, coefficients)


def test_refuses_inputs_of_another_shape():
    with pytest.raises(UserError, match="has a mask of shape"):
        make("identity")(np.zeros((1, 5, 3, 2), np.float32))
    with pytest.raises(UserError, match="has coefficients for 2 channels"):
        make("none kept")(np.zeros((1, 2, 3, 3), np.float32))


def test_an_unknown_size_cannot_be_counted():
    layer = make("none kept")
    layer(keras.Input((None, None, 2)))
    with pytest.raises(UserError, match="unknown size"):
        layer.site_facts()
