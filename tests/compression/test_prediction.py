"""The stage pred, from a pruned parent to a saved, resumed, exported network; and the commands predict-relus and fuse."""

import json
import os
import signal

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from reference.compact import network

from keras_relu import data
from keras_relu.cli import main
from keras_relu.compression import PredConfig, predict
from keras_relu.compression.masks import zero_masks
from keras_relu.compression.predictors import Predictors, insert_predictors, predicted_sites
from keras_relu.compression.quality import QualityMeter, joined_quality, predictor_quality
from keras_relu.errors import Interrupted, UserError
from keras_relu.evaluate import evaluate
from keras_relu.export import export
from keras_relu.layers.ternary import ternarise
from keras_relu.runs import Run, load_model
from keras_relu.training import supervised
from keras_relu.training.progress import Progress

DIGITS = ("--dataset", "digits", "--limit", "256")


def prune_by_magnitude(model, sparsity=0.6):
    for layer in model.layers:
        if layer.name.endswith("_conv"):
            kernel = layer.get_weights()[0]
            layer.set_weights([np.where(np.abs(kernel) > np.quantile(np.abs(kernel), sparsity), kernel, 0)])
    return model


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", limit=256)


@pytest.fixture(scope="module")
def pruned(digits, tmp_path_factory):
    """A run with a small pruned network that knows the digits a little."""
    model = network()
    settings = {"epochs": 6, "batch_size": 64, "optimizer": "adam", "learning_rate": 0.01, "augment": False}
    supervised.train(model, digits, None, settings, progress=False)
    prune_by_magnitude(model)
    run = Run.create(tmp_path_factory.mktemp("pruned") / "run", config={"seed": 0}, stage="pruned")
    run.save_model(model)
    accuracy = evaluate(model, digits.test, digits.normalization)["accuracy"]
    run.finish({"arch": "small", "normalization": digits.normalization.name, "accuracy": accuracy})
    return run.path


@pytest.fixture(scope="module")
def stages(pruned, digits, tmp_path_factory):
    """`stages(mode)`: the run of a stage and its result; each trained once."""
    made = {}

    def stage(mode):
        if mode not in made:
            settings = {"mode": mode, "epochs": 2, "batch_size": 64, "learning_rate": 0.05, "augment": False}
            config = PredConfig.parse(settings)
            path = tmp_path_factory.mktemp(mode) / "pred"
            run = Run.create(path, config=config.to_dict(), stage="pred", parent=str(pruned))
            made[mode] = run, predict(load_model(pruned), digits, run, config, progress=False)
        return made[mode]

    return stage


@pytest.mark.parametrize("mode", ["static", "projected"])
def test_a_stage_keeps_zeros_and_measures_predictors(pruned, digits, stages, mode):
    parent = load_model(pruned)
    run, result = stages(mode)
    loaded = load_model(run.path)
    assert len(predicted_sites(loaded)) == len(result["predictors"]) == 4
    # The stem is pruned and trained: its zeros stay, its other weights do not.
    before, after = (m.get_layer("stem_conv").get_weights()[0] for m in (parent, loaded))
    np.testing.assert_array_equal(before == 0, after == 0)
    assert np.abs(before - after).max() > 0
    for name, mask in zero_masks(parent).items():
        kernel = loaded.get_layer(name).get_weights()[0]
        assert not kernel[mask == 0].any()
        if name.startswith("block"):
            np.testing.assert_array_equal(kernel, parent.get_layer(name).get_weights()[0])
    start = insert_predictors(parent, Predictors(mode=mode))
    for site in predicted_sites(loaded):
        kernel = tf.constant(site.predictor_kernel())
        first = start.get_layer(f"{site.conv.name}_predictor").get_weights()[0]
        assert bool(np.abs(first - kernel).max() > 1e-6) is (mode != "static")
        groups = 1 if site.depthwise else site.conv.groups
        np.testing.assert_allclose(kernel, ternarise(kernel, groups), atol=1e-5)
    rows = [row for row in run.rows() if row["seconds"] is not None]
    assert len(rows) == 2
    assert all(0 < row["val_predictor_recall"] <= 1 for row in rows)
    assert all(0 <= row["val_precision/block1_expand_relu"] <= 1 for row in rows)
    assert result["sparsity"] > 0.4
    assert result["fusion"]["macs"] == result["macs"]
    assert result["total"] == digits.test.size
    assert result["baseline_accuracy"] == json.loads((pruned / "result.json").read_text())["accuracy"]
    assert json.loads((run.path / "result.json").read_text())["predictors"] == result["predictors"]


def test_quality_is_what_it_says(pruned, digits):
    model = insert_predictors(load_model(pruned))
    entries = predictor_quality(model, digits.validation, digits.normalization, batch_size=7)
    batch, _ = next(iter(digits.validation.batches(digits.validation.size)))
    tensors = [t for site in predicted_sites(model) for t in (site.gate, site.norm.output)]
    values = keras.Model(model.input, tensors)(digits.normalization.apply(batch))
    for entry, gate, exact in zip(entries, values[::2], values[1::2], strict=True):
        predicted, live = gate.numpy() > 0, exact.numpy() > 0
        assert entry["precision"] == pytest.approx(np.mean(live[predicted]))
        assert entry["recall"] == pytest.approx(np.mean(predicted[live]))
        assert entry["live_fraction"] == pytest.approx(np.mean(live))
        assert entry["predicted_fraction"] == pytest.approx(np.mean(predicted))
        assert entry["false_negative_fraction"] == pytest.approx(np.mean(live & ~predicted))
        assert entry["false_positive_fraction"] == pytest.approx(np.mean(predicted & ~live))
        assert (entry["elements"], entry["images"]) == (gate[0].numpy().size, digits.validation.size)
    every = [np.concatenate([np.ravel(v) for v in values[k::2]]) > 0 for k in (0, 1)]
    joined = joined_quality(entries)
    assert joined["precision"] == pytest.approx(np.mean(every[1][every[0]]))
    assert joined["recall"] == pytest.approx(np.mean(every[0][every[1]]))
    with pytest.raises(UserError, match="has no predictors"):
        QualityMeter(load_model(pruned), digits.normalization)


def test_resumed_it_ends_the_same(pruned, digits, tmp_path, monkeypatch):
    config = PredConfig(mode="projected", epochs=2, batch_size=64, learning_rate=0.05, keep="best")
    record = config.to_dict()

    def stage(path, **options):
        run = Run.create(path, config=record, stage="pred", parent=str(pruned), resume=True)
        return predict(load_model(pruned), digits, run, config, progress=False, resume=True, **options)

    whole = stage(tmp_path / "whole")

    def interrupt(bar, done):
        if done == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "step", interrupt)
        with pytest.raises(Interrupted):
            stage(tmp_path / "halves")
    halves = stage(tmp_path / "halves")
    one, other = load_model(tmp_path / "whole"), load_model(tmp_path / "halves")
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert halves["predictors"] == whole["predictors"]


def test_exported_it_answers_the_same(pruned, digits, tmp_path):
    model = insert_predictors(load_model(pruned), Predictors(mode="ste"))
    export(model, tmp_path / "saved", normalization=digits.normalization)
    measured = evaluate(tmp_path / "saved", digits.test, digits.normalization)
    assert measured["correct"] == evaluate(model, digits.test, digits.normalization)["correct"]


@pytest.fixture
def command(capsys):
    def run(*arguments, as_json=True):
        code = main([*map(str, arguments), *(["--json"] if as_json else [])])
        captured = capsys.readouterr()
        return code, json.loads(captured.out) if as_json and code == 0 else captured.out, captured.err

    return run


def test_commands(pruned, tmp_path, command):
    output = tmp_path / "pred"
    options = ("--epochs", 0, "--output", output)
    code, answer, error = command("predict-relus", pruned, *DIGITS, *options)
    assert (code, error) == (0, error)
    result = json.loads((output / "result.json").read_text())
    assert (result["stage"], result["parent"], result["arch"]) == ("pred", str(pruned), "small")
    assert answer["predictor_quality"] == result["predictor_quality"]
    code, _, message = command("predict-relus", pruned, *DIGITS, *options)
    assert (code, "finished" in message) == (2, True)
    saved = tmp_path / "fused.json"
    code, answer, _ = command("fuse", output, "--check", "--images", 3, "--dataset", "digits", "--save", saved)
    assert code == 0
    assert answer == json.loads(saved.read_text())
    assert answer["check"]["max_error"] < 1e-4
    assert answer["check"]["multiplications"] == answer["fused"] - answer["border"]
    assert [block["name"] for block in answer["blocks"]] == ["block1", "block2"]
    code, text, _ = command("fuse", pruned, "--check", as_json=False)
    assert code == 0
    assert "whole network" in text
    assert "live pairs" in text


def test_variants_in_one_table_and_plot(pruned, stages, tmp_path, command):
    output = stages("static")[0].path
    saved, page = tmp_path / "variants.json", tmp_path / "page.html"
    options = ("--images", 3, "--save", saved, "--figures", tmp_path / "figures", "-o", page)
    code, answer, error = command("variants", pruned, output, *options)
    assert (code, error) == (0, error)
    one, other = answer["variants"]
    assert (one["stage"], other["stage"]) == ("pruned", "pred")
    assert one["sparsity"] == pytest.approx(other["sparsity"])
    assert one["macs"] == other["macs"]
    # Four more normalisations of 24 channels.
    assert other["parameters"] - one["parameters"] == 4 * 4 * 24
    assert min(one["bytes"], one["compressed_bytes"], one["latency_ms"]) > 0
    html = page.read_text()
    assert "Predictors of pred" in html
    assert f"{one['parameters']:,}" in html
    assert len(list((tmp_path / "figures").glob("*.png"))) == 4
    # The saved table alone is enough, without TensorFlow.
    page.unlink()
    code, text, _ = command("variants", saved, "-o", page, as_json=False)
    assert (code, page.exists()) == (0, True)
    assert "multiplications" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("variants", "nowhere", "-o", "OUT"), "does not exist"),
        (("variants", "BAD", "-o", "OUT"), "is no table of variants"),
        (("fuse", "RUN", "--dataset", "digits"), "no effect without --check"),
        (("fuse", "RUN", "--density", "2"), "density must be in"),
        (("fuse", "nowhere"), "does not exist"),
        (("predict-relus", "RUN", *DIGITS, "-o", "OUT", "--mode", "statik"), "Did you mean 'static'"),
        (("predict-relus", "RUN", *DIGITS, "-o", "OUT", "--include", "blok1"), "'blok1' matches no block"),
        (("predict-relus", "RUN", *DIGITS, "-o", "OUT", "--set", "bit=4"), "Did you mean 'bits'"),
        (("predict-relus", "RUN", *DIGITS, "-o", "OUT", "--set", "quality_images=0"), "quality_images"),
    ],
)
def test_bad_input_leaves_nothing(pruned, tmp_path, command, arguments, words):
    (tmp_path / "bad.json").write_text('{"variants": [{"name": "x"}]}')
    names = {"RUN": pruned, "OUT": tmp_path / "out", "BAD": tmp_path / "bad.json"}
    code, _, message = command(*(names.get(word, word) for word in arguments))
    assert code == 2
    assert words in message
    assert not (tmp_path / "out").exists()
