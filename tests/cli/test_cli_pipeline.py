"""train, evaluate, count, export, reduce, report on real digits: the numbers agree from end to end."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import yaml

QUICK = (
    "--dataset",
    "digits",
    "--limit",
    "200",
    "--batch-size",
    "50",
    "--search-epochs",
    "1",
    "--finetune-epochs",
    "1",
)
QUICK = (*QUICK, "--set", "search.score_interval=1", "--set", "search.mask_interval=1", "--json")
RELUS = 188_416 // 16  # ResNet-20 on 8x8 instead of 32x32 pixels


def result_of(run):
    return json.loads((run / "result.json").read_text())


@pytest.fixture(scope="module")
def evaluated(call, trained):
    return call("evaluate", trained, "--dataset", "digits", "--json").json


@pytest.fixture(scope="module")
def exported(call, trained):
    path = trained.parent / "exported"
    return path, call("export", trained, "--format", "savedmodel", "--output", path, "--json").json


@pytest.fixture(scope="module")
def reduced(call, trained):
    path = trained.parent / "reduced"
    return path, call("reduce", trained, "--budget", "0.1", *QUICK, "--output", path).json


def test_train_writes_a_whole_run(trained):
    assert {"config.yaml", "metrics.csv", "model.keras", "result.json", "checkpoints"} <= {
        p.name for p in trained.iterdir()
    }
    result = result_of(trained)
    assert (result["stage"], result["arch"], result["dataset"], result["total"]) == ("train", "resnet20", "digits", 360)
    assert {"versions", "git_revision", "config_hash", "wall_time_s", "seed", "val_accuracy"} <= set(result)
    config = yaml.safe_load((trained / "config.yaml").read_text())["config"]
    assert (config["epochs"], config["batch_size"], config["limit"], config["normalization"]) == (1, 50, 200, "digits")


def test_evaluate_says_what_the_run_says(trained, evaluated):
    assert {"accuracy", "correct", "total", "loss"} <= set(evaluated)
    result = result_of(trained)
    assert (evaluated["correct"], evaluated["total"]) == (result["correct"], 360)
    assert evaluated["accuracy"] == evaluated["correct"] / 360
    assert evaluated["loss"] == pytest.approx(result["loss"], rel=1e-5)


def test_evaluate_for_people_and_of_the_validation_split(call, small):
    text = call("evaluate", small, "--dataset", "digits", "--split", "validation").out
    assert re.match(
        r"\d+ of 144 digits validation images right: \d+\.\d\d%, loss \d+\.\d{4} \(normalization digits\)\n", text
    )


def test_count_of_the_run(call, trained):
    facts = call("count", trained, "--json").json
    assert facts["relu_count"] == RELUS
    assert len(facts["sites"]) == 19


def test_the_export_evaluates_to_the_same(call, exported, evaluated):
    path, report = exported
    assert (path / "saved_model.pb").exists()
    assert report["max_difference"] <= 1e-5
    assert report["relu_count"] == RELUS
    again = call("evaluate", path, "--dataset", "digits", "--json").json
    assert (again["accuracy"], again["correct"]) == (evaluated["accuracy"], evaluated["correct"])
    assert again["loss"] == pytest.approx(evaluated["loss"], rel=1e-5)


def test_the_export_remembers_its_normalization(call, small, tmp_path):
    call("export", small, "--normalization", "signed", "--output", tmp_path / "e")
    wanted = call("evaluate", small, "--dataset", "digits", "--normalization", "signed", "--json").json
    assert call("evaluate", tmp_path / "e", "--dataset", "digits", "--json").json == wanted


def test_an_export_is_replaced_only_on_request(call, refused, small, tmp_path):
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "precious.txt").write_text("mine")
    assert "exists; choose another output or pass overwrite=True" in refused(
        "export", small, "--output", tmp_path / "e"
    )
    assert (tmp_path / "e" / "precious.txt").exists()
    assert call("export", small, "--output", tmp_path / "e", "--overwrite").code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e"]


def test_reduce_meets_the_budget_in_the_file(call, trained, reduced):
    path, shown = reduced
    result = result_of(path)
    assert result["budget"] == RELUS // 10
    assert result["relu_count_before"] == RELUS
    assert call("count", path, "--json").json["relu_count"] == result["relu_count"] == RELUS // 10
    assert {key: shown[key] for key in shown if key != "output"} == {
        key: result[key] for key in shown if key != "output"
    }
    assert (result["arch"], result["parent"], result["normalization"]) == ("resnet20", str(trained), "digits")
    assert result["baseline_accuracy"] == result_of(trained)["accuracy"]
    with np.load(path / result["masks_file"]) as masks:
        kept = {site["name"]: site["kept"] for site in result["sites"]}
        assert {name: int(masks[name].sum()) for name in masks} == kept
        assert sum(kept.values()) == RELUS // 10


def test_the_reduced_network_evaluates_to_what_its_run_says(call, reduced):
    path, _ = reduced
    measured = call("evaluate", path, "--dataset", "digits", "--json").json
    assert (measured["correct"], measured["total"]) == (result_of(path)["correct"], 360)


def test_a_finished_run_is_not_written_over(refused, trained, reduced):
    path, _ = reduced
    before = {file: file.read_bytes() for file in path.iterdir() if file.is_file()}
    for extra in ((), ("--resume",)):
        message = refused("reduce", trained, "--budget", "0.1", *QUICK, "--output", path, *extra)
        assert "is finished; choose another output directory" in message
    assert {file: file.read_bytes() for file in path.iterdir() if file.is_file()} == before


def test_the_report_holds_both_runs_in_one_file(call, trained, reduced, tmp_path):
    page = tmp_path / "report.html"
    outcome = call("report", trained, reduced[0], "--output", page, "--figures", tmp_path / "figures", "--json")
    assert outcome.json["output"] == str(page)
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)=["']https?://""", text)
    assert f"{RELUS // 10:,}" in text
    assert {file.suffix for file in (tmp_path / "figures").iterdir()} == {".png", ".svg"}


def torch_state(model) -> dict:
    """Weights of `model` under the names and in the layouts of the PyTorch code."""
    import torch

    state = {}
    for layer in (layer for layer in model.layers if layer.weights):
        block = re.fullmatch(r"stage(\d)_block(\d)_(\w+)", layer.name)
        fixed = {"stem_conv": "conv1", "stem_bn": "bn1", "classifier": "linear"}
        module = f"layer{block[1]}.{int(block[2]) - 1}.{block[3]}" if block else fixed[layer.name]
        names = ("weight", "bias", "running_mean", "running_var")
        for name, value in zip(names, layer.get_weights(), strict=False):
            turned = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
            state[f"{module}.{name}"] = torch.from_numpy(turned.copy())
    return state


@pytest.mark.torch
def test_convert_makes_what_every_other_command_takes(call, refused, tmp_path):
    torch = pytest.importorskip("torch")
    from keras_relu import models
    from keras_relu.runs import load_model

    model = models.build("resnet20", seed=1)
    torch.save(torch_state(model), tmp_path / "weights.pt")
    arguments = ("convert", tmp_path / "weights.pt", "--arch", "resnet20", "--output", tmp_path / "base")
    assert call(*arguments, "--normalization", "imagenet", "--json").json["relu_count"] == 188_416
    assert call("count", tmp_path / "base", "--json").json["relu_count"] == 188_416
    assert result_of(tmp_path / "base")["normalization"] == "imagenet"
    for old, new in zip(model.get_weights(), load_model(tmp_path / "base").get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert "exists; choose a new directory for --output" in refused(*arguments)
    (tmp_path / "noise.pt").write_bytes(b"noise")
    message = refused("convert", tmp_path / "noise.pt", "--arch", "resnet20", "--output", tmp_path / "other")
    assert "noise.pt' cannot be read as PyTorch weights" in message
    assert not (tmp_path / "other").exists()
