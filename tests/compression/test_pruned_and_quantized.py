"""The stages pruned and pqat and the int8 file: zeros exact, kept, and read back from what was written."""

import os
import signal
import sys

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from reference.compression_nets import small_blocks

from keras_relu import compression, data, tflite
from keras_relu.activations import MaskedReLU
from keras_relu.compression import masks, quantization
from keras_relu.compression.ranges import estimate_ranges
from keras_relu.errors import Interrupted, KerasReLUError, UserError
from keras_relu.evaluate import evaluate
from keras_relu.export import export, read_metadata
from keras_relu.layers.class_specific import ClassSpecificDense
from keras_relu.runs import Run, load_model
from keras_relu.training.selection import Selection
from keras_relu.training.supervised import measure

PRUNE = {"epochs": 3, "batch_size": 32, "ramp_epochs": 1.5, "frequency": 3, "learning_rate": 0.05, "augment": False}
PQAT = {"epochs": 2, "batch_size": 32, "learning_rate": 0.01, "augment": False}
STAGES = {
    "pruned": (compression.prune, compression.PruneConfig, PRUNE),
    "pqat": (compression.pqat, compression.PqatConfig, PQAT),
}


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", limit=256)


def run_stage(stage, model, digits, path, *, resume=False, stop_at=None, monkeypatch=None, **changes):
    train, kind, settings = STAGES[stage]
    config = kind.parse({**settings, **changes})
    run = Run.create(path, config=config.to_dict(), stage=stage, resume=resume)
    if stop_at:
        signal_at(monkeypatch, stop_at)
    return train(model, digits, run, config, resume=resume, checkpoint_every=2, progress=False)


def signal_at(monkeypatch, step):
    """Send SIGTERM to this process before update `step`."""
    module = sys.modules["keras_relu.training.supervised"]
    original = module.fit

    def hooked(*args, on_step=None, **options):
        def both(done):
            if on_step is not None:
                on_step(done)
            if done == step:
                os.kill(os.getpid(), signal.SIGTERM)

        return original(*args, on_step=both, **options)

    monkeypatch.setattr(module, "fit", hooked)


@pytest.fixture(scope="module")
def pruned(tmp_path_factory, digits):
    """(run directory, result) of the stage pruned."""
    path = tmp_path_factory.mktemp("pruned") / "run"
    return path, run_stage("pruned", small_blocks(), digits, path)


@pytest.fixture(scope="module")
def quantized(tmp_path_factory, digits, pruned):
    """(run directory, result) of the stage pqat."""
    path = tmp_path_factory.mktemp("pqat") / "run"
    return path, run_stage("pqat", load_model(pruned[0]), digits, path)


@pytest.fixture(scope="module")
def exported(tmp_path_factory, digits, quantized):
    """(file, report) of the int8 export."""
    path = tmp_path_factory.mktemp("export") / "model.tflite"
    model = load_model(quantized[0], quantized=True)
    return path, export(model, path, format="tflite", int8=True, normalization=digits.normalization)


# block1: 24 channels of 8 inputs in two groups, 3x3 depthwise; block2: 20 channels, 5x5 depthwise.
EXPECTED = {
    "block1_expand_conv": 76,
    "block1_depthwise_conv": 151,
    "block1_se_squeeze_conv": 102,
    "block1_se_excite_conv": 102,
    "block1_project_conv": 76,
    "block2_expand_conv": 64,
    "block2_depthwise_conv": 350,
    "block2_project_conv": 96,
    "tail_conv": 154,
}


class TestPruned:
    def test_the_written_file_has_exactly_the_zeros_asked_for(self, pruned):
        path, result = pruned
        found = {kernel.name: kernel.zeros for kernel in masks.sparsity_table(load_model(path)) if kernel.zeros}
        assert found == EXPECTED
        assert {k["name"]: k["zeros"] for k in result["kernels"] if k["zeros"]} == EXPECTED
        assert result["pruned"]["depthwise"] == {"size": 716, "zeros": 501, "sparsity": 501 / 716}

    def test_plain_layers_and_the_l2_terms_are_left(self, pruned):
        model = load_model(pruned[0])
        assert {type(layer).__module__.split(".")[0] for layer in model.layers} == {"tf_keras", "keras_relu"}
        assert not [w for w in model.weights if "mask" in w.name or "threshold" in w.name]
        assert len(model.losses) == len(small_blocks().losses) == 9

    def test_the_network_given_is_not_changed(self, digits):
        model = small_blocks()
        before = model.get_weights()
        compression.prune(model, digits, None, {**PRUNE, "epochs": 1, "ramp_epochs": 0.5}, progress=False)
        for a, b in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)

    @pytest.mark.parametrize("ramp", ["updates", "epochs"])
    def test_a_single_update_prunes_too(self, digits, ramp):
        settings = {**PRUNE, "epochs": 2, "ramp_epochs": 1, "ramp": ramp}
        result = compression.prune(small_blocks(), digits, None, settings, progress=False, max_steps=1)
        expected = 0.7 if ramp == "updates" else 0.0
        assert result["pruned"]["depthwise"]["sparsity"] == pytest.approx(expected, abs=0.01)

    def test_the_best_weights_are_those_of_an_epoch_after_the_ramp(self, digits, tmp_path, monkeypatch):
        """Validation is best before anything is pruned; that epoch must not win."""
        scores = iter([0.9, 0.8, 0.1])
        validate = Selection.validate

        def rigged(self):
            original, score = self.evaluator, next(scores)
            self.evaluator = lambda split: {"accuracy": score, "loss": 1.0}
            try:
                return validate(self)
            finally:
                self.evaluator = original

        monkeypatch.setattr(Selection, "validate", rigged)
        run_stage("pruned", small_blocks(), digits, tmp_path / "run", keep="best")
        assert {k.name: k.zeros for k in masks.sparsity_table(load_model(tmp_path / "run")) if k.zeros} == EXPECTED

    def test_resuming_changes_nothing(self, digits, pruned, tmp_path, monkeypatch):
        with pytest.raises(Interrupted):
            run_stage("pruned", small_blocks(), digits, tmp_path / "run", stop_at=9, monkeypatch=monkeypatch)
        monkeypatch.undo()
        run_stage("pruned", small_blocks(), digits, tmp_path / "run", resume=True)
        for a, b in zip(load_model(pruned[0]).get_weights(), load_model(tmp_path / "run").get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


class TestQuantized:
    def test_every_zero_is_kept_in_both_networks_of_the_run(self, pruned, quantized):
        path, result = quantized
        kept = masks.zero_masks(load_model(pruned[0]))
        masks.require_zeros(load_model(path), kept, "pqat")
        masks.require_zeros(load_model(path, quantized=True), kept, "pqat")
        assert {k["name"]: k["zeros"] for k in result["kernels"] if k["zeros"]} == EXPECTED

    def test_training_changed_the_weights_that_are_left(self, pruned, quantized):
        name = "block2_depthwise_conv"
        before, after = (masks.kernels(load_model(path))[name].numpy() for path in (pruned[0], quantized[0]))
        assert np.mean(before[before != 0] != after[after != 0]) > 0.9

    def test_the_loaded_network_predicts_as_the_trained_one(self, digits, pruned):
        result = compression.pqat(load_model(pruned[0]), digits, None, {**PQAT, "epochs": 1}, progress=False)
        trained = result["model"]
        model = load_model(pruned[0])
        plain = quantization.plain_model(model, trained)
        again = quantization.quantize(plain)
        quantization.assign_state(plain, again, quantization.collect_state(plain, trained))
        images = digits.normalization.apply(digits.test.images[:16])
        np.testing.assert_array_equal(again(images), trained(images))

    def test_the_result_is_that_of_the_network_that_rounds(self, digits, quantized):
        path, result = quantized
        measured = evaluate(path, digits.test, digits.normalization)
        assert (measured["correct"], measured["loss"]) == (result["correct"], pytest.approx(result["loss"]))
        loss = measure(load_model(path), digits, compression.PqatConfig())["loss"]
        assert loss != pytest.approx(result["loss"], rel=1e-6)

    def test_resuming_keeps_the_zeros_and_changes_nothing(self, digits, pruned, quantized, tmp_path, monkeypatch):
        model = load_model(pruned[0])
        with pytest.raises(Interrupted):
            run_stage("pqat", model, digits, tmp_path / "run", stop_at=11, monkeypatch=monkeypatch)
        monkeypatch.undo()
        run_stage("pqat", model, digits, tmp_path / "run", resume=True)
        for a, b in zip(
            load_model(quantized[0]).get_weights(), load_model(tmp_path / "run").get_weights(), strict=True
        ):
            np.testing.assert_array_equal(a, b)

    def test_ranges_start_at_what_batches_reach(self, digits):
        model = small_blocks()
        rounding = quantization.quantize(model)
        before = [value.copy() for value in rounding.get_weights()]
        names = [variable.name for variable in rounding.weights]
        estimate_ranges(rounding, digits.train, digits.normalization, images=64, batch_size=32)
        changed = {n for n, a, b in zip(names, before, rounding.get_weights(), strict=True) if not np.array_equal(a, b)}
        assert changed
        assert not any("moving_" in name or name.endswith(("/kernel:0", "gamma:0", "beta:0")) for name in changed)
        stem = keras.Model(model.input, model.get_layer("stem_relu").output)
        batches = [digits.normalization.apply(digits.train.images[start : start + 32]) for start in (0, 32)]
        reached = np.mean([stem(batch, training=True).numpy().max() for batch in batches])
        found = {
            v.name.split("/")[-1]: float(v) for v in rounding.get_layer("quant_stem_relu").weights if v.shape == ()
        }
        assert found["output_max:0"] == pytest.approx(reached, rel=0.02)
        assert found["output_min:0"] == 0.0

    def test_training_goes_on_from_the_run_without_losing_zeros(self, digits, pruned, quantized, tmp_path):
        run_stage("pqat", load_model(quantized[0]), digits, tmp_path / "run", epochs=1)
        masks.require_zeros(load_model(tmp_path / "run"), masks.zero_masks(load_model(pruned[0])), "pqat")

    @pytest.mark.parametrize("damage", ["cut", "foreign", "missing"])
    def test_damaged_ranges_are_refused(self, quantized, tmp_path, damage):
        import shutil

        path = tmp_path / "run"
        shutil.copytree(quantized[0], path)
        state = path / "quantization.npz"
        if damage == "cut":
            state.write_bytes(state.read_bytes()[:200])
        elif damage == "foreign":
            small_blocks(groups=1).save(path / "model.keras")
            quantization_of_another(path)
        else:
            (path / "model.keras").unlink()
        with pytest.raises(
            UserError, match={"cut": "corrupt", "foreign": "another network", "missing": "no model"}[damage]
        ):
            load_model(path, quantized=True)


def quantization_of_another(path):
    """Replace the ranges of a run by those of a network with other layers."""
    from keras_relu.training import checkpoint

    checkpoint.write(path / "quantization.npz", {"conv9/kernel_min": np.zeros(3)}, {"exclude": []})


class TestFile:
    def test_zeros_in_the_file(self, exported):
        path, report = exported
        kernels = tflite.kernels(path)
        assert {kernel.values.dtype for kernel in kernels} == {np.dtype(np.int8)}
        assert sum(report_["zeros"] for report_ in report["kernels"]) >= sum(EXPECTED.values())
        by_size = {kernel.values.size: int(np.sum(kernel.values == 0)) for kernel in kernels}
        assert by_size[216] >= EXPECTED["block1_depthwise_conv"]
        assert by_size[500] >= EXPECTED["block2_depthwise_conv"]
        assert by_size[80] >= EXPECTED["block2_expand_conv"]

    def test_the_file_predicts_what_the_network_predicts(self, digits, exported, quantized):
        images = digits.normalization.apply(digits.test.images[:64]).numpy()
        expected = load_model(quantized[0], quantized=True)(images, training=False).numpy()
        found = tflite.load(exported[0])(images)
        assert np.mean(found.argmax(-1) == expected.argmax(-1)) >= 0.95
        assert np.mean(np.abs(found - expected)) < 0.1 * np.abs(expected).max()
        measured = evaluate(exported[0], digits.test, digits.normalization)
        assert measured["accuracy"] == pytest.approx(quantized[1]["accuracy"], abs=0.05)

    def test_the_record_travels_in_the_file(self, digits, exported):
        path, report = exported
        record = read_metadata(path)
        assert record["normalization"] == digits.normalization.name
        assert record["int8"] is True
        assert report["bytes"] == path.stat().st_size
        assert report["compressed_bytes"] < report["bytes"]
        assert report["ops"]["DEPTHWISE_CONV_2D"] == 2
        assert report["ops"]["CONV_2D"] == 8

    def test_float_and_calibrated_files(self, digits, pruned, tmp_path):
        model = load_model(pruned[0])
        report = export(model, tmp_path / "float.tflite", format="tflite")
        assert report["int8"] is False
        assert report["max_difference"] < 1e-3
        batch = digits.normalization.apply(digits.train.images[:100]).numpy()
        small = export(model, tmp_path / "int8.tflite", format="tflite", int8=True, calibration=[batch])
        assert small["bytes"] < report["bytes"]
        for file in ("float.tflite", "int8.tflite"):
            assert sum(np.sum(k.values == 0) for k in tflite.kernels(tmp_path / file)) >= sum(EXPECTED.values())

    def test_lost_zeros_are_noticed(self, pruned, tmp_path, monkeypatch):
        model = load_model(pruned[0])
        dense = small_blocks()
        convert = tflite.convert
        monkeypatch.setattr(tflite, "convert", lambda model, **options: convert(dense, **options))
        with pytest.raises(KerasReLUError, match="lost zeros"):
            export(model, tmp_path / "x.tflite", format="tflite", tolerance=1e9)
        assert not (tmp_path / "x.tflite").exists()

    def test_refusals(self, pruned, quantized, tmp_path):
        model, rounding = load_model(pruned[0]), load_model(quantized[0], quantized=True)
        batch = [np.zeros([1, 8, 8, 1], "float32")]
        with pytest.raises(UserError, match="has learned no int8 ranges"):
            export(model, tmp_path / "x", format="tflite", int8=True)
        with pytest.raises(UserError, match="has no effect on the format 'savedmodel'"):
            export(model, tmp_path / "x", int8=True)
        with pytest.raises(UserError, match="nothing is rounded without int8"):
            export(model, tmp_path / "x", format="tflite", calibration=batch)
        with pytest.raises(UserError, match="has learned its ranges"):
            export(rounding, tmp_path / "x", format="tflite", int8=True, calibration=batch)
        (tmp_path / "no.tflite").write_bytes(b"no file of that kind")
        with pytest.raises(UserError, match="no TFLite file"):
            tflite.kernels(tmp_path / "no.tflite")
        with pytest.raises(UserError, match="does not exist"):
            tflite.operations(tmp_path / "none.tflite")


class TestOwnLayers:
    """Layers of this package and others that the library does not know by itself."""

    def network(self):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((6, 6, 2), name="image")
        x = keras.layers.BatchNormalization(name="first_bn")(inputs)
        x = keras.layers.Conv2D(8, 3, padding="same", name="conv")(x)
        x = MaskedReLU(replacement="quadratic", name="masked")(x)
        x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
        x = ClassSpecificDense([[0, 1], [2, 3], [4, 7]], name="classes")(x)
        return keras.Model(inputs, x)

    def test_they_are_quantized(self):
        model = self.network()
        layer = model.get_layer("classes")
        layer.set_weights([np.array([[0, 0.5], [0.25, -1], [0, 2]], "float32"), *layer.get_weights()[1:]])
        rounding = quantization.quantize(model)
        images = np.random.default_rng(0).standard_normal((8, 6, 6, 2)).astype("float32")
        for _ in range(3):
            found = rounding(images, training=True)
        assert np.abs(rounding(images) - model(images)).max() < 0.3
        assert found.shape == (8, 3)
        assert isinstance(rounding.get_layer("quant_classes").quantize_config, quantization.KernelConfig)
        assert isinstance(rounding.get_layer("quant_masked").quantize_config, quantization.OutputConfig)
        assert list(masks.zero_masks(rounding)) == ["classes"]

    @pytest.mark.parametrize("kind", [quantization.PassConfig, quantization.OutputConfig, quantization.KernelConfig])
    def test_the_configurations_are_registered(self, kind):
        config = keras.saving.serialize_keras_object(kind())
        assert type(keras.saving.deserialize_keras_object(config)) is kind

    def test_an_unknown_layer_is_named_and_can_be_left_out(self):
        inputs = keras.Input((4, 4, 2))
        x = keras.layers.PReLU(name="strange")(keras.layers.Conv2D(2, 1, name="conv")(inputs))
        model = keras.Model(inputs, keras.layers.Flatten()(x))
        with pytest.raises(UserError, match="Layer 'strange' \\(PReLU\\) cannot be quantized"):
            quantization.quantize(model)
        assert "quant_strange" not in [layer.name for layer in quantization.quantize(model, exclude=["strange"]).layers]
        with pytest.raises(UserError, match="Unknown layer 'other'"):
            quantization.quantize(model, exclude=["other"])

    def test_a_model_inside_the_model_is_refused(self):
        inner = keras.Sequential([keras.layers.Conv2D(2, 1, input_shape=(4, 4, 2))], name="inner")
        inputs = keras.Input((4, 4, 2))
        with pytest.raises(UserError, match="'inner' is a model inside the model"):
            quantization.quantize(keras.Model(inputs, inner(inputs)))

    def test_the_librarys_pruning_takes_a_whole_network_of_ours(self):
        import tensorflow_model_optimization as tfmot

        model = self.network()
        schedule = tfmot.sparsity.keras.ConstantSparsity(0.5, 0)
        wrapped = tfmot.sparsity.keras.prune_low_magnitude(keras.models.clone_model(model), pruning_schedule=schedule)
        assert wrapped.count_params() > model.count_params()
        kernel = wrapped.get_layer("prune_low_magnitude_classes").pruning_vars[0][0]
        assert tuple(kernel.shape) == (3, 2)
        assert tf.is_tensor(wrapped(np.zeros([1, 6, 6, 2], "float32")))
