from __future__ import annotations

import os
import signal

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from keras_relu.errors import Interrupted, UserError
from keras_relu.evaluate import evaluate
from keras_relu.runs import Run
from keras_relu.training import supervised
from keras_relu.training.optimizers import get_optimizer
from keras_relu.training.precision import LossScale, set_precision
from keras_relu.training.schedules import get_schedule
from keras_relu.training.supervised import SupervisedStep, TrainConfig, train

CONFIG = {"epochs": 2, "batch_size": 10, "learning_rate": 0.05, "seed": 1}


def new_run(path, config, *, resume=False) -> Run:
    return Run.create(path, config=TrainConfig.parse(config).to_dict(), stage="train", resume=resume)


def do_train(model, dataset, run=None, config=None, **options):
    return train(model, dataset, run, config or CONFIG, progress=False, **options)


def make_supervised(model, dataset, **options) -> SupervisedStep:
    schedule = get_schedule("constant", peak=0.1, total_steps=10)
    return SupervisedStep(model, get_optimizer("sgd"), schedule, dataset.normalization, **options)


def first_batch(dataset):
    return next(iter(dataset.train.batches(10)))


class TestTrain:
    def test_result_model_and_metrics(self, tmp_path, make_model, tiny_dataset):
        model = make_model()
        run = new_run(tmp_path / "r", CONFIG)
        result = do_train(model, tiny_dataset, run, facts={"arch": "tiny"})
        assert run.finished
        assert run.result == result
        assert result["arch"] == "tiny"
        assert result["seed"] == 1
        assert result["total"] == tiny_dataset.test.size
        again = evaluate(run.path, tiny_dataset.test, tiny_dataset.normalization)
        assert {key: result[key] for key in again} == again
        assert [r["epoch"] for r in run.rows() if r["val_accuracy"] is not None] == [1, 2]

    @pytest.mark.parametrize("extra", [{}, {"ema_decay": 0.9, "keep": "best", "optimizer": "adam"}])
    def test_resume_is_exact(self, tmp_path, make_model, tiny_dataset, extra):
        config = CONFIG | extra
        whole, cut, resumed = (make_model() for _ in range(3))
        expected = do_train(whole, tiny_dataset, new_run(tmp_path / "a", config), config)
        seen = []

        class Stopping:
            """The dataset's train split; sends SIGTERM while the second epoch is under way."""

            def __getattr__(self, name):
                return getattr(tiny_dataset.train, name)

            def epoch(self, *args, **options):
                for i, batch in enumerate(tiny_dataset.train.epoch(*args, **options)):
                    seen.append(i)
                    if len(seen) == 8:
                        os.kill(os.getpid(), signal.SIGTERM)
                    yield batch

        stopping = type(tiny_dataset)(Stopping(), tiny_dataset.validation, tiny_dataset.test)
        with pytest.raises(Interrupted):
            do_train(cut, stopping, new_run(tmp_path / "b", config), config)
        run = new_run(tmp_path / "b", config, resume=True)
        result = do_train(resumed, tiny_dataset, run, config, resume=True)
        for a, b in zip(whole.get_weights(), resumed.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
        assert {k: result[k] for k in ("accuracy", "loss", "val_loss")} == {
            k: expected[k] for k in ("accuracy", "loss", "val_loss")
        }

    def test_best_weights_are_those_of_the_best_epoch(self, make_model, tiny_dataset):
        model = make_model()
        config = CONFIG | {"keep": "best", "epochs": 3, "learning_rate": 0.3, "schedule": "constant"}
        values = []
        original = supervised.Evaluator.__call__

        def spy(self, split, **options):
            measured = original(self, split, **options)
            if split is tiny_dataset.validation:
                values.append(measured["accuracy"])
            return measured

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(supervised.Evaluator, "__call__", spy)
            result = do_train(model, tiny_dataset, None, config)
        assert result["val_accuracy"] == max(values[:3])

    def test_without_a_run_the_measured_part_is_returned(self, make_model, tiny_dataset):
        result = do_train(make_model(), tiny_dataset, config=CONFIG | {"epochs": 0})
        assert result["dataset"] == "tiny"
        assert "versions" not in result


class TestStep:
    def test_distillation_from_oneself_adds_nothing(self, make_model, tiny_dataset):
        """In inference mode teacher and student agree; the tiny model without batch norm has no other mode."""
        model, teacher = make_model(batch_norm=False), make_model(batch_norm=False)
        images, labels = first_batch(tiny_dataset)
        plain = make_supervised(make_model(batch_norm=False), tiny_dataset)(images, labels, tf.constant(0))
        taught = make_supervised(model, tiny_dataset, teacher=teacher)(images, labels, tf.constant(0))
        assert float(taught["loss"]) == pytest.approx(float(plain["loss"]), rel=1e-5)

    def test_regularisation_losses_of_layers_count(self, tiny_dataset):
        inputs = keras.Input(tiny_dataset.image_shape)
        x = keras.layers.GlobalAveragePooling2D()(inputs)
        outputs = keras.layers.Dense(4, kernel_initializer="ones", kernel_regularizer=keras.regularizers.L2(1.0))(x)
        images, labels = first_batch(tiny_dataset)
        logs = make_supervised(keras.Model(inputs, outputs), tiny_dataset)(images, labels, tf.constant(0))
        assert float(logs["loss"]) == pytest.approx(12.0 + np.log(4.0), rel=1e-4)

    def test_gradient_norm_is_logged_with_clipping(self, make_model, tiny_dataset):
        images, labels = first_batch(tiny_dataset)
        logs = make_supervised(make_model(), tiny_dataset, clip_norm=1.0)(images, labels, tf.constant(0))
        assert float(logs["gradient_norm"]) > 0

    @pytest.mark.parametrize("precision", ["float16", "bfloat16"])
    def test_mixed_precision_trains_float32_weights(self, make_model, tiny_dataset, precision):
        try:
            set_precision(precision)
            model = make_model()
        finally:
            keras.mixed_precision.set_global_policy("float32")
        before = model.get_weights()
        result = do_train(model, tiny_dataset, config=CONFIG | {"epochs": 1, "precision": precision})
        assert np.isfinite(result["loss"])
        assert {w.dtype for w in model.get_weights()} == {np.dtype("float32")}
        assert any(not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))

    def test_an_overflow_skips_the_update_and_halves_the_scale(self, make_model, tiny_dataset):
        try:
            set_precision("float16")
            model = make_model(batch_norm=False)
        finally:
            keras.mixed_precision.set_global_policy("float32")
        scale = LossScale(2.0**40)
        step = make_supervised(model, tiny_dataset, loss_scale=scale)
        before = model.get_weights()
        images, labels = first_batch(tiny_dataset)
        logs = tf.function(step, autograph=False)(images, labels, tf.constant(0))
        assert np.isfinite(float(logs["loss"]))
        assert float(scale.value) == 2.0**39
        for a, b in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


class TestConfig:
    def test_sgd_defaults_are_recorded(self):
        resolved = TrainConfig.parse({}).to_dict()
        assert (resolved["momentum"], resolved["weight_decay"]) == (0.9, 5e-4)
        assert TrainConfig.parse(resolved).to_dict() == resolved

    def test_an_option_can_be_set_to_zero(self):
        assert TrainConfig.parse({"momentum": 0.0, "weight_decay": 0.0}).make_optimizer().variables == []

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"optimizer": "adam", "momentum": 0.9}, "no effect with the optimizer 'adam'"),
            ({"optimizer": "sdg"}, "Did you mean 'sgd'"),
            ({"schedule": "constant", "minimum_learning_rate": 0.01}, "no effect"),
            ({"temperature": 2.0}, "no effect without a teacher"),
            ({"precision": "float16"}, "built with float32"),
        ],
    )
    def test_settings_without_effect_are_refused(self, make_model, tiny_dataset, values, message):
        with pytest.raises(UserError, match=message):
            do_train(make_model(), tiny_dataset, config=CONFIG | values)

    def test_unknown_key(self):
        with pytest.raises(UserError, match="Did you mean 'learning_rate'"):
            TrainConfig.parse({"learing_rate": 0.1})

    def test_best_without_validation(self, make_model, tiny_dataset):
        empty = tiny_dataset.validation.subset(np.arange(0), name="validation")
        dataset = type(tiny_dataset)(tiny_dataset.train, empty, tiny_dataset.test)
        with pytest.raises(UserError, match="needs a validation split"):
            do_train(make_model(), dataset, config=CONFIG | {"keep": "best"})

    def test_other_number_of_classes(self, make_model, tiny_dataset):
        dataset = type(tiny_dataset)(tiny_dataset.train, tiny_dataset.validation, tiny_dataset.test, classes=7)
        with pytest.raises(UserError, match="4 outputs, the dataset has 7 classes"):
            do_train(make_model(), dataset)

    def test_softmax_output(self, tiny_dataset):
        inputs = keras.Input(tiny_dataset.image_shape)
        outputs = keras.layers.Dense(4, activation="softmax")(keras.layers.Flatten()(inputs))
        with pytest.raises(UserError, match="ends in a softmax"):
            do_train(keras.Model(inputs, outputs), tiny_dataset)
