from __future__ import annotations

import os

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from keras_relu.data import NORMALIZATIONS, ArraySplit
from keras_relu.errors import UserError
from keras_relu.evaluate import Evaluator, NonFiniteLogitsError, evaluate
from keras_relu.export import export

SHAPE = (6, 6, 3)
NORMALIZATION = NORMALIZATIONS["signed"]


def build(*, classes: int = 4, shape=SHAPE, softmax: bool = False) -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input(shape)
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3)(inputs))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    return keras.Model(inputs, keras.layers.Dense(classes, activation="softmax" if softmax else None)(x))


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return build()


@pytest.fixture(scope="module")
def split() -> ArraySplit:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (23, *SHAPE)).astype(np.uint8)
    return ArraySplit(images=images, labels=random.integers(0, 4, 23).astype(np.int32), name="test")


def oracle(model: keras.Model, split: ArraySplit) -> dict:
    logits = model((split.images / 255.0 - 0.5) / 0.5, training=False).numpy().astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    correct = int((logits.argmax(-1) == split.labels).sum())
    loss = float(-log_p[np.arange(len(logits)), split.labels].mean())
    return {"accuracy": correct / len(logits), "correct": correct, "total": len(logits), "loss": loss}


class TestValues:
    @pytest.mark.parametrize("batch_size", [5, 23, 500])
    def test_oracle_with_a_partial_last_batch(self, model, split, batch_size):
        measured = evaluate(model, split, NORMALIZATION, batch_size=batch_size)
        assert measured == pytest.approx(oracle(model, split), rel=1e-5)
        assert [type(v) for v in measured.values()] == [float, int, int, float]

    def test_softmax_outputs_give_the_same_loss(self, split):
        plain, softmax = build(), build(softmax=True)
        softmax.set_weights(plain.get_weights())
        assert evaluate(softmax, split, NORMALIZATION) == pytest.approx(evaluate(plain, split, NORMALIZATION), rel=1e-4)

    def test_the_model_is_not_changed(self, model, split):
        before = model.get_weights()
        evaluate(model, split, NORMALIZATION)
        for a, b in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_an_evaluator_sees_new_weights(self, split):
        model = build()
        evaluator = Evaluator(model, NORMALIZATION)
        first = evaluator(split)
        model.set_weights([w + 0.1 for w in model.get_weights()])
        assert evaluator(split)["loss"] != first["loss"]
        assert evaluator(split) == pytest.approx(oracle(model, split), rel=1e-5)


class TestFiles:
    def test_keras_file_and_saved_models(self, tmp_path, model, split):
        model.save(tmp_path / "m.keras")
        model.save(tmp_path / "keras_savedmodel", save_format="tf")
        export(model, tmp_path / "exported")
        for name in ("m.keras", "keras_savedmodel", "exported"):
            assert evaluate(tmp_path / name, split, NORMALIZATION) == pytest.approx(oracle(model, split), rel=1e-5)

    def test_lambda_code_in_a_saved_model_does_not_run(self, tmp_path, split):
        marker = tmp_path / "ran"
        path = str(marker)
        inputs = keras.Input(SHAPE)
        x = keras.layers.Lambda(lambda x, path=path: [os.makedirs(path, exist_ok=True), x][1])(inputs)
        keras.Model(inputs, keras.layers.Dense(4)(keras.layers.Flatten()(x))).save(tmp_path / "s", save_format="tf")
        marker.rmdir()
        assert evaluate(tmp_path / "s", split, NORMALIZATION)["total"] == 23
        assert not marker.exists()

    @pytest.mark.parametrize("quantized", [False, True])
    def test_tflite(self, tmp_path, model, split, quantized):
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        if quantized:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            images = NORMALIZATION.apply(split.images).numpy()
            converter.representative_dataset = lambda: ([image[None]] for image in images)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.int8
        (tmp_path / "m.tflite").write_bytes(converter.convert())
        measured = evaluate(tmp_path / "m.tflite", split, NORMALIZATION, batch_size=10)
        assert measured["loss"] == pytest.approx(oracle(model, split)["loss"], abs=0.05 if quantized else 1e-5)
        assert measured["total"] == 23


class TestRefusals:
    def test_other_image_shape_names_both(self, split):
        with pytest.raises(UserError, match=r"shape \[8, 8, 1\], the dataset has images of shape \[6, 6, 3\]"):
            evaluate(build(shape=(8, 8, 1)), split, NORMALIZATION)

    def test_an_open_image_size_fits_any(self, split):
        assert evaluate(build(shape=(None, None, 3)), split, NORMALIZATION)["total"] == 23

    def test_labels_without_an_output(self, split):
        with pytest.raises(UserError, match="2 outputs, the dataset has labels up to 3"):
            evaluate(build(classes=2), split, NORMALIZATION)

    def test_other_number_of_classes(self, model, split):
        with pytest.raises(UserError, match="4 outputs, the dataset has 10 classes"):
            evaluate(model, split, NORMALIZATION, classes=10)

    def test_nan_logits(self, split):
        model = build()
        model.set_weights([np.full_like(w, np.nan) for w in model.get_weights()])
        with pytest.raises(NonFiniteLogitsError, match="NaN or infinite for 23 of 23 images"):
            evaluate(model, split, NORMALIZATION)

    def test_no_model(self, split):
        with pytest.raises(UserError, match="Expected a tf_keras model or a path, received int"):
            evaluate(3, split, NORMALIZATION)

    def test_a_keras_3_model(self, split):
        model = type("Functional", (), {"__module__": "keras.src.models.functional"})()
        with pytest.raises(UserError, match="Functional of Keras 3; build it with tf_keras"):
            evaluate(model, split, NORMALIZATION)

    def test_two_outputs(self, split):
        inputs = keras.Input(SHAPE)
        x = keras.layers.Flatten()(inputs)
        model = keras.Model(inputs, [keras.layers.Dense(4)(x), keras.layers.Dense(4)(x)])
        with pytest.raises(UserError, match="one input and one output"):
            evaluate(model, split, NORMALIZATION)

    def test_corrupt_saved_model(self, tmp_path, split):
        (tmp_path / "saved_model.pb").write_bytes(b"garbage")
        with pytest.raises(UserError, match="corrupt or incomplete"):
            evaluate(tmp_path, split, NORMALIZATION)

    def test_saved_model_without_the_signature(self, tmp_path, split):
        tf.saved_model.save(tf.Module(), str(tmp_path / "s"))
        with pytest.raises(UserError, match="needs a signature 'serving_default'"):
            evaluate(tmp_path / "s", split, NORMALIZATION)

    def test_corrupt_tflite(self, tmp_path, split):
        (tmp_path / "m.tflite").write_bytes(b"garbage")
        with pytest.raises(UserError, match=r"TFLite file .* is corrupt"):
            evaluate(tmp_path / "m.tflite", split, NORMALIZATION)
