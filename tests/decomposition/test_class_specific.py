"""The layer: its values against an obvious oracle, its sizes, its files, its refusals."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from keras_relu import counting, decomposition, models
from keras_relu.class_filters import checked_rows
from keras_relu.errors import UserError
from keras_relu.export import export
from keras_relu.layers.class_specific import ClassSpecificDense, class_specific_logits
from keras_relu.runs import load_model

EQUAL = [[3, 0], [1, 2], [4, 3]]
RAGGED = [[3], [1, 2, 0], [4, 3]]


def oracle(features, kernel, bias, rows):
    """One image, one class, one filter at a time."""
    logits = np.zeros((len(features), len(rows)))
    for n, image in enumerate(features):
        for c, row in enumerate(rows):
            logits[n, c] = bias[c] + sum(image[i] * kernel[i, c] for i in row)
    return logits


@pytest.fixture
def dense():
    layer = keras.layers.Dense(3, bias_initializer="random_normal")
    layer(np.zeros((1, 5), np.float32))
    return layer


def features(count=7, filters=5):
    return np.random.default_rng(0).normal(size=(count, filters)).astype(np.float32)


@pytest.mark.parametrize("rows", [EQUAL, RAGGED])
def test_values(dense, rows):
    layer = ClassSpecificDense.from_dense(dense, rows)
    expected = oracle(features(), dense.kernel.numpy(), dense.bias.numpy(), rows)
    np.testing.assert_allclose(layer(features()), expected, atol=1e-5)
    np.testing.assert_allclose(tf.function(layer)(features()), expected, atol=1e-5)


@pytest.mark.parametrize("rows", [EQUAL, RAGGED])
def test_gradients_reach_only_the_selected_filters(dense, rows):
    layer = ClassSpecificDense.from_dense(dense, rows)
    x = tf.constant(features(1))
    with tf.GradientTape() as tape:
        tape.watch(x)
        logit = layer(x)[0, 0]
    gradient, of_kernel = tape.gradient(logit, [x, layer.kernel])
    assert set(np.flatnonzero(gradient[0])) == set(rows[0])
    selected = x.numpy()[0, rows[0]]
    np.testing.assert_allclose(tf.reshape(of_kernel, [-1])[: len(rows[0])], selected, atol=1e-6)


def test_all_filters_give_the_original_logits(network):
    images = np.random.default_rng(0).random((4, 8, 8, 1), np.float32)
    whole = decomposition.decompose(network, [list(range(12))] * 10)
    np.testing.assert_allclose(whole(images), network(images), atol=1e-5)


def test_sizes_of_the_published_head():
    rows = [list(range(number, number + 5)) for number in range(10)]
    model = decomposition.decompose(models.build("resnet20"), rows)
    layer = model.get_layer("classifier")
    assert (layer.count_params(), layer.mac_count) == (60, 50)
    assert counting.count(models.build("resnet20")).macs - counting.count(model).macs == 640 - 50
    assert model.count_params() - layer.count_params() == models.build("resnet20").count_params() - 650


def test_without_bias_and_with_softmax(dense):
    plain = keras.layers.Dense(3, use_bias=False, activation="softmax", name="answer")
    plain(np.zeros((1, 5), np.float32))
    layer = ClassSpecificDense.from_dense(plain, EQUAL)
    assert layer.name == "answer"
    assert layer.count_params() == 6
    np.testing.assert_allclose(np.sum(layer(features()), axis=1), 1, atol=1e-5)


def test_trained_from_scratch():
    layer = ClassSpecificDense(EQUAL)
    assert layer(features()).shape == (7, 3)
    assert layer.compute_output_shape((None, 5)) == (None, 3)
    assert layer.units == 3
    assert layer.indices == EQUAL


@pytest.mark.parametrize("rows", [[[3, 0]] * 10, [[n] * 1 if n % 2 else [n, 11] for n in range(10)]])
def test_saved_loaded_and_exported(network, tmp_path, rows):
    model = decomposition.decompose(network, rows)
    images = np.random.default_rng(0).random((4, 8, 8, 1), np.float32)
    model.save(tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras")
    assert loaded.get_layer("classifier").indices == rows
    np.testing.assert_array_equal(loaded(images), model(images))
    report = export(model, tmp_path / "exported")
    assert report["ops"]["GatherV2"] == 1
    assert report["max_difference"] < 1e-5


def test_imagenet_size():
    generator = np.random.default_rng(0)
    rows = [generator.permutation(2048)[:50].tolist() for _ in range(1000)]
    layer = ClassSpecificDense(rows)
    x = generator.random((2, 2048), np.float32)
    logits = layer(x).numpy()
    assert layer.count_params() == 51_000
    assert layer.mac_count == 50_000
    expected = [x[1, row] @ layer.kernel.numpy()[c] for c, row in enumerate(rows)]
    np.testing.assert_allclose(logits[1], expected, atol=1e-4)


def test_pure_function_without_bias():
    kernel = np.ones((3, 2), np.float32)
    logits = class_specific_logits(tf.constant(features()), kernel, EQUAL)
    np.testing.assert_allclose(logits[:, 0], features()[:, [3, 0]].sum(axis=1), atol=1e-6)


class TestRefusals:
    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ([], "at least one class"),
            ([[1], []], "Class 1 has no filter"),
            ([[1], [-1]], "filter -1"),
            ([[1], [1.5]], r"filter 1\.5"),
            ([[1], [True]], "filter True"),
            ([[1], ["2"]], "filter '2'"),
            ([[1, 2, 1]], "filter 1 more than once"),
        ],
    )
    def test_malformed_rows(self, rows, message):
        with pytest.raises(UserError, match=message):
            ClassSpecificDense(rows)

    def test_filters_the_input_lacks(self, dense):
        with pytest.raises(UserError, match="whole numbers from 0 to 4"):
            ClassSpecificDense.from_dense(dense, [[0], [1], [5]])
        with pytest.raises(UserError, match="filter 5"):
            ClassSpecificDense([[5]])(features())
        assert checked_rows([[5]]) == [[5]]

    def test_other_classes(self, dense):
        with pytest.raises(UserError, match="for 2 classes"):
            ClassSpecificDense.from_dense(dense, [[0], [1]])
