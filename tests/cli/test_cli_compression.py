"""prune, quantize, export --int8, evaluate and sparsity on the command line, one after the other on one small network."""

import pytest
from reference.compression_nets import small_blocks

DATA = ("--dataset", "digits", "--limit", "200", "--batch-size", "50", "--epochs", "1")


@pytest.fixture(scope="module")
def runs(call, tmp_path_factory):
    """Folder with start.keras, the runs pruned and pqat, and model.tflite; and what the commands printed."""
    folder = tmp_path_factory.mktemp("compression")
    small_blocks().save(folder / "start.keras")
    printed = {
        "pruned": call(
            "prune", folder / "start.keras", *DATA, "--ramp-epochs", "0.5", "--output", folder / "pruned", "--json"
        ).json,
        "pqat": call("quantize", folder / "pruned", *DATA, "--output", folder / "pqat", "--json").json,
    }
    file = folder / "model.tflite"
    printed["export"] = call("export", folder / "pqat", "--format", "tflite", "--int8", "--output", file, "--json").json
    return folder, printed


def test_the_chain_keeps_its_zeros(call, runs):
    folder, printed = runs
    assert printed["pruned"]["pruned"]["depthwise"] == {"size": 716, "zeros": 501, "sparsity": 501 / 716}
    assert printed["pqat"]["pruned"] == printed["pruned"]["pruned"]
    tables = {name: call("sparsity", folder / name, "--json").json for name in ("pruned", "pqat", "model.tflite")}
    assert tables["pruned"]["zeros"] == tables["pqat"]["zeros"] == 1_171
    assert tables["model.tflite"]["zeros"] >= 1_171
    assert tables["model.tflite"]["size"] == tables["pqat"]["size"]
    assert printed["export"]["int8"] is True


def test_the_file_is_evaluated_with_its_own_normalization(call, runs):
    folder, printed = runs
    measured = call("evaluate", folder / "model.tflite", "--dataset", "digits", "--json").json
    assert measured["normalization"] == "digits"
    assert measured["accuracy"] == pytest.approx(printed["pqat"]["accuracy"], abs=0.05)
    assert (
        call("evaluate", folder / "pqat", "--dataset", "digits", "--json").json["accuracy"]
        == printed["pqat"]["accuracy"]
    )


def test_tables_for_people(call, runs):
    folder, _ = runs
    outcome = call("sparsity", folder / "pruned")
    assert "block1_depthwise_conv" in outcome.out
    assert "1,171 of" in outcome.out
    assert (
        call("count", folder / "pqat", "--json").json["relu_count"]
        == call("count", folder / "pruned", "--json").json["relu_count"]
    )


def test_calibrated_export(call, runs, tmp_path):
    folder, _ = runs
    options = ("--format", "tflite", "--int8", "--calibrate", "digits", "--output", tmp_path / "x.tflite")
    printed = call("export", folder / "pruned", *options)
    assert "kernel weights in the file are zero" in printed.out


def test_wrong_input(refused, runs, tmp_path):
    folder, _ = runs
    out = ("--output", tmp_path / "out")
    assert "Unknown prunable layer 'conv9'" in refused(
        "prune", folder / "start.keras", *DATA, "--include", "conv9", *out
    )
    assert not (tmp_path / "out").exists()
    assert "pointwise_sparsity" in refused("prune", folder / "start.keras", *DATA, "--pointwise", "1.5", *out)
    assert "does not exist" in refused("quantize", folder / "none", *DATA, *out)
    assert "Unknown layer 'conv9'" in refused("quantize", folder / "pruned", *DATA, "--exclude", "conv9", *out)
    assert "has learned no int8 ranges" in refused("export", folder / "pruned", "--format", "tflite", "--int8", *out)
    assert "has no effect" in refused("export", folder / "pruned", "--int8", *out)
    assert "--data-dir has no effect" in refused("export", folder / "pruned", "--data-dir", tmp_path, *out)
    assert "option for model" in refused("train", "--arch", "fusionet_cifar10", *DATA, "--arch-set", "classes=3", *out)
    (tmp_path / "bad.tflite").write_bytes(b"\0\0\0\0TFL3" + b"\xff" * 40)
    assert "corrupt" in refused("sparsity", tmp_path / "bad.tflite")
    assert "corrupt" in refused("evaluate", tmp_path / "bad.tflite", "--dataset", "digits")
