from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from keras_relu import export as module
from keras_relu.data import NORMALIZATIONS
from keras_relu.errors import KerasReLUError, UserError
from keras_relu.export import export, read_metadata, read_normalization


@pytest.fixture(scope="module")
def model() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 3))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3)(inputs))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    return keras.Model(inputs, keras.layers.Dense(4)(x))


class TestSavedModel:
    def test_the_signature_computes_the_logits(self, tmp_path, model):
        report = export(model, tmp_path / "e")
        signature = tf.saved_model.load(str(tmp_path / "e")).signatures["serving_default"]
        x = tf.random.stateless_normal([3, 6, 6, 3], [0, 1])
        np.testing.assert_allclose(signature(image=x)["logits"], model(x, training=False), atol=1e-6)
        assert report["max_difference"] <= 1e-5

    def test_report_counts_operations(self, tmp_path, model):
        report = export(model, tmp_path / "e")
        assert report["ops"]["Relu"] == 1
        assert report["ops"]["Conv2D"] == 1
        assert report["bytes"] > 0
        assert report["input"] == {"name": "image", "dtype": "float32", "shape": [None, 6, 6, 3], "normalized": True}

    def test_the_files_hold_no_keras_objects(self, tmp_path, model):
        export(model, tmp_path / "e")
        assert not (tmp_path / "e" / "keras_metadata.pb").exists()
        assert b"_tf_keras" not in (tmp_path / "e" / "saved_model.pb").read_bytes()

    def test_metadata_is_stored_beside(self, tmp_path, model):
        facts = {"arch": "tiny", "relu_count": 64}
        export(model, tmp_path / "e", normalization=NORMALIZATIONS["cifar10"], facts=facts)
        assert read_metadata(tmp_path / "e").items() >= facts.items()
        stored = read_normalization(tmp_path / "e")
        assert stored.to_dict() == NORMALIZATIONS["cifar10"].to_dict()

    def test_metadata_may_be_missing(self, tmp_path, model):
        export(model, tmp_path / "e")
        assert read_normalization(tmp_path / "e") is None
        assert read_metadata(tmp_path) is None


class TestRefusals:
    def test_an_existing_target(self, tmp_path, model):
        (tmp_path / "e").mkdir()
        (tmp_path / "e" / "old").touch()
        with pytest.raises(UserError, match="overwrite=True"):
            export(model, tmp_path / "e")
        assert (tmp_path / "e" / "old").exists()
        export(model, tmp_path / "e", overwrite=True)
        assert not (tmp_path / "e" / "old").exists()

    def test_a_tflite_file_of_another_ending(self, tmp_path, model):
        with pytest.raises(UserError, match=r"must end in \.tflite.*'.*small'"):
            export(model, tmp_path / "small", format="tflite")
        assert not list(tmp_path.iterdir())

    def test_unknown_format(self, tmp_path, model):
        with pytest.raises(UserError, match="Did you mean 'savedmodel'"):
            export(model, tmp_path / "e", format="saved_model")

    def test_open_input_size(self, tmp_path):
        inputs = keras.Input((None, None, 3))
        with pytest.raises(UserError, match="exports need a fixed one"):
            export(keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(inputs)), tmp_path / "e")

    def test_two_inputs(self, tmp_path):
        first, second = keras.Input((2, 2, 1)), keras.Input((2, 2, 1))
        with pytest.raises(UserError, match="one input and one output"):
            export(keras.Model([first, second], keras.layers.Add()([first, second])), tmp_path / "e")

    def test_files_that_compute_something_else_are_not_kept(self, tmp_path, model, monkeypatch):
        real = tf.saved_model.save

        def damaging(saved, path, **options):
            real(saved, path, **options)
            model.layers[1].bias.assign_add(tf.ones(4))

        monkeypatch.setattr(module.tf.saved_model, "save", damaging)
        with pytest.raises(KerasReLUError, match="differ from the model"):
            export(model, tmp_path / "e")
        assert list(tmp_path.iterdir()) == []
