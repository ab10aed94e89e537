"""The commands, the report and the original's step scripts: what they write, print and refuse."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml

from keras_relu.cli import main
from keras_relu.induction import read_assignment, read_matrices

ROOT = Path(__file__).parents[2]
STEM = "stem_relu"
MAPPING = {"relu0": ["relu0", "ResLayer0_BasicBlockV20_relu_1"]}


@pytest.fixture(scope="module")
def run_command():
    """Like `command`, for fixtures that several tests share."""
    import contextlib
    import io

    def run(*arguments):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(["induce", *map(str, arguments), "--json"])
        assert code == 0, err.getvalue()
        return json.loads(out.getvalue())

    return run


@pytest.fixture(scope="module")
def files(trained, tmp_path_factory, run_command):
    """cache -> cluster -> build -> finetune by the commands, with what each printed."""
    folder = tmp_path_factory.mktemp("commands")
    mapping = folder / "mapping.json"
    mapping.write_text(json.dumps(MAPPING))
    said = {}
    said["cache"] = run_command("cache", trained, "--dataset", "digits", "--images", 150, "--output", folder / "cache")
    options = ("--mapping", mapping, "--prototypes", 15, "--energy-images", 100)
    said["cluster"] = run_command("cluster", folder / "cache", *options, "--matrices", folder / "matrices.npz")
    said["build"] = run_command("build", trained, folder / "cache", "--bn-images", 200, "--output", folder / "built")
    training = ("--epochs", 1, "--lr", 0.01, "--batch-size", 64, "--set", "augment=false")
    said["finetune"] = run_command("finetune", folder / "built", *training, "--output", folder / "tuned")
    return folder, said


def test_plan(trained, files, tmp_path, command):
    folder, _ = files
    code, answer, _ = command(
        "plan", trained, "-m", folder / "mapping.json", "-k", 15, "--save", tmp_path / "plan.json"
    )
    assert code == 0
    assert (answer["comparisons"], answer["comparisons_before"]) == (448 + 15, 960)
    assert json.loads((tmp_path / "plan.json").read_text()) == answer
    code, text, _ = command("plan", trained, "-m", folder / "mapping.json", "-k", 15, as_json=False)
    assert code == 0
    assert "463 of 960 comparisons (48.23 %)" in text


def test_the_chain(files):
    folder, said = files
    assert said["cache"]["bytes"] == 960 * 8 * 3
    made = read_assignment(said["cluster"]["output"])
    assert Path(said["cluster"]["output"]).parent == folder / "cache"
    assert len(list((folder / "cache" / "prototypes").iterdir())) == 1
    assert list(read_matrices(folder / "matrices.npz")) == [f"{STEM}->{STEM}", f"{STEM}->stage1_block1_relu1"]
    left = 448 + made.used[STEM]
    assert said["build"]["comparison_count"] == said["finetune"]["comparison_count"] == left
    built, tuned = (json.loads((folder / name / "result.json").read_text()) for name in ("built", "tuned"))
    assert tuned["accuracy_before_finetune"] == built["accuracy"]
    assert tuned["distilled"]
    assert tuned["parent"] == str(folder / "built")
    assert tuned["comparison_count"] == left
    assert built["prototypes"] == tuned["prototypes"]


def test_matrices_there_and_back(files, tmp_path, command):
    folder, said = files
    code, answer, _ = command("matrices", said["cluster"]["output"], "--output", tmp_path / "m.npz")
    assert code == 0
    assert len(answer["pairs"]) == 2
    assert (tmp_path / "m.npz").read_bytes() == (folder / "matrices.npz").read_bytes()
    code, _, _ = command("matrices", tmp_path / "m.npz", "--read", "--output", tmp_path / "a.npz")
    assert code == 0
    assert read_assignment(tmp_path / "a.npz").groups[0].inducer == STEM
    code, _, message = command("matrices", tmp_path / "a.npz", "--output", tmp_path / "m.npz")
    assert code == 2
    assert "exists" in message


def test_reclustering_and_reuse(files, command, tmp_path):
    folder, said = files
    options = (
        "--mapping",
        folder / "mapping.json",
        "--prototypes",
        15,
        "--preset",
        "original",
        "--output",
        tmp_path / "a.npz",
    )
    code, answer, _ = command("cluster", folder / "cache", *options, "--reuse-prototypes")
    assert code == 0
    assert (answer["assignment"]["association"], answer["assignment"]["polarity"]) == ("hamming", False)
    first, second = read_assignment(said["cluster"]["output"]), read_assignment(tmp_path / "a.npz")
    np.testing.assert_array_equal(first.groups[0].prototypes, second.groups[0].prototypes)
    code, _, message = command("cluster", folder / "cache", *options, "--seed", 9, "--reuse-prototypes")
    assert code == 2
    assert "does not exist" in message


def test_search_writes_a_mapping_that_plan_takes(trained, files, tmp_path, command):
    folder, _ = files
    target = tmp_path / "found.yaml"
    options = (
        "--budget",
        0.6,
        "--prototypes",
        "10 30",
        "--images",
        100,
        "--output",
        target,
        "--trials",
        tmp_path / "t.json",
    )
    code, answer, _ = command("search", trained, folder / "cache", *options, "--energy-images", 64)
    assert code == 0
    assert answer["comparisons"] <= 576
    assert yaml.safe_load(target.read_text()) == answer["mapping"]
    code, plan, _ = command("plan", trained, "--mapping", target)
    assert (code, plan["comparisons"]) == (0, answer["comparisons"])
    assert json.loads((tmp_path / "t.json").read_text())["trials"] == answer["trials"]


def test_run_from_a_file(trained, tmp_path, command):
    (tmp_path / "mapping.json").write_text(json.dumps(MAPPING))
    values = {"model": str(trained), "dataset": "digits", "mapping": "mapping.json", "prototypes": 10, "images": 80}
    values |= {
        "energy_images": 80,
        "bn_images": 100,
        "finetune": {"epochs": 1, "batch_size": 64, "learning_rate": 0.01},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    arguments = ("run", tmp_path / "config.yaml", "--output", tmp_path / "run", "--set", "finetune.augment=false")
    code, answer, _ = command(*arguments)
    assert code == 0
    assert answer["comparison_count"] <= 448 + 10
    code, _, message = command(*arguments, "--resume")
    assert code == 2
    assert "finished" in message
    values["selektion"] = "fps"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    code, _, message = command(*arguments)
    assert code == 2
    assert "Did you mean 'selection'" in message


def test_report(files, tmp_path, command):
    folder, said = files
    page = tmp_path / "page.html"
    code, _, _ = command(
        "report", folder / "built", folder / "tuned", "--output", page, "--figures", tmp_path / "figures"
    )
    assert code == 0
    text = page.read_text()
    made = read_assignment(said["cluster"]["output"])
    assert text.count("<figure") == len(list((tmp_path / "figures").glob("*.png"))) == 1 + 2 * 3
    assert "fps + energy + polarity + constants" in text
    assert f"{made.used[STEM]:,} of 15 prototypes are used" in text
    for name in ("accuracy", "usage-1-1", "places-2-1", "mismatch-2"):
        assert (tmp_path / "figures" / f"{name}.svg").stat().st_size > 1000


def test_figures_hold_the_numbers(files):
    from keras_relu.report import induction as report
    from keras_relu.report import induction_figures as figures

    folder, _ = files
    built, tuned = report.load_results([folder / "built", folder / "tuned"])
    assert list(report.states_of(built)) == ["accuracy_before_bn", "accuracy_before_finetune"]
    assert report.states_of(tuned) == {key: tuned[key] for key in figures.STATES}
    entry = tuned["prototypes"][STEM]
    drawn = figures.places_drawing("run", STEM, entry["shape"], entry["places"], "places").draw(False)
    pixels = drawn.axes[0].images[0].get_array()
    assert pixels.sum() == 15
    y, x, _ = np.unravel_index(entry["places"], (8, 8, 4))
    assert pixels[y[0], x[0]] >= 1
    usage = figures.usage_drawing("run", STEM, entry["usage"], "usage")
    assert f"{sum(n > 0 for n in entry['usage'])} of 15" in usage.caption
    points = [
        {"name": "a", "comparisons": 400, "states": {"accuracy": 0.5}},
        {"name": "b", "comparisons": 500, "states": {}},
    ]
    axes = figures.accuracy_drawing(points, 0.9).draw(True).axes[0]
    assert axes.lines[0].get_ydata().tolist() == [50.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("plan", "{absent}", "-m", "{mapping}", "-k", 3), "does not exist"),
        (("plan", "{run}", "-m", "{absent}", "-k", 3), "does not exist"),
        (("plan", "{run}", "-m", "{mapping}", "-k", "many"), "takes whole numbers"),
        (("plan", "{run}", "-m", "{mapping}", "-k", ""), "at least one number"),
        (("plan", "{run}", "-m", "{mapping}"), "number of prototypes is missing"),
        (("plan", "{run}", "-m", "{mapping}", "-k", 257), "1 to 256 prototypes"),
        (("cache", "{run}", "--dataset", "digits", "--images", 10**6, "-o", "x"), "train split has"),
        (("cache", "{run}", "--dataset", "digits", "--sites", "a", "--mapping", "{mapping}", "-o", "x"), "not both"),
        (("cache", "{run}", "--dataset", "digits", "--sites", "stem", "--images", 9, "-o", "x"), "Unknown ReLU site"),
        (("cluster", "{absent}", "-m", "{mapping}", "-k", 3), "does not exist"),
        (("cluster", "{cache}", "-m", "{mapping}", "-k", 3, "--preset", "orignal"), "Did you mean 'original'"),
        (("cluster", "{cache}", "-m", "{mapping}", "-k", 3, "--selection", "fp"), "Did you mean 'fps'"),
        (("cluster", "{cache}", "-m", "{mapping}", "-k", 3, "--model", "{tuned}"), "Unknown ReLU site"),
        (("build", "{run}", "{absent}", "-o", "x"), "does not exist"),
        (("build", "{run}", "{built}", "-o", "x"), "must hold one assignment"),
        (("build", "{tuned}", "{cache}", "-o", "x"), "other weights"),
        (("finetune", "{run}", "-o", "x", "--dataset", "digits", "--no-distill"), "no induced site"),
        (("run", "{absent}", "-o", "x"), "does not exist"),
        (("search", "{run}", "{cache}", "--budget", "2", "-k", "10", "-o", "x"), "cheapest choice"),
        (("search", "{run}", "{cache}", "--budget", "lots", "-k", "10", "-o", "x"), "is not a number"),
        (("report", "{run}", "-o", "x"), "is no run of"),
        (("report", "{absent}", "-o", "x"), "does not exist"),
        (("flatten", "{run}", "-o", "{built}"), "exists"),
    ],
)
def test_bad_input_gets_one_sentence(trained, files, tmp_path, command, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    folder, _ = files
    paths = {name: folder / name for name in ("cache", "built", "tuned")}
    paths |= {"run": trained, "absent": tmp_path / "absent", "mapping": folder / "mapping.json"}
    code, _, said = command(*(str(part).format(**paths) for part in arguments))
    assert code == 2
    assert message in said
    assert "Traceback" not in said
    assert not (tmp_path / "x").exists()


def test_help_does_not_load_tensorflow(capsys):
    assert main(["induce", "--help"]) == 0
    text = capsys.readouterr().out
    for name in ("plan", "flatten", "cache", "cluster", "build", "finetune", "run", "search", "report", "matrices"):
        assert name in text


class TestSteps:
    """submission/induced: each step calls the command with what the original's variables say."""

    SCRIPTS = ROOT / "submission" / "induced"

    @pytest.fixture
    def recorded(self, tmp_path):
        """Stands in for keras-relu: writes its arguments down, and makes the output that later steps look for."""
        command = tmp_path / "keras-relu"
        command.write_text(f'#!/bin/bash\nprintf "%s|" "$@" >> {tmp_path}/calls; echo >> {tmp_path}/calls\n')
        command.chmod(0o755)
        kept = {key: value for key, value in os.environ.items() if not key.startswith("KERAS_RELU")}
        environment = {**kept, "KERAS_RELU": str(command), "PRESET": "original", "PROTOTYPES_COUNTS": "1000 500"}

        def run(script, *arguments, **variables):
            done = subprocess.run(
                ["bash", str(self.SCRIPTS / script), *arguments],
                env={**environment, **variables},
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=30,
            )
            assert done.returncode == 0, done.stderr
            return [line.split("|")[:-1] for line in (tmp_path / "calls").read_text().splitlines()]

        return run

    def test_all_steps_in_order(self, recorded):
        calls = recorded("run_all.sh", "--epochs", "1")
        assert [call[:2] if call[0] == "induce" else call[:1] for call in calls] == [
            ["induce", "flatten"],
            ["induce", "cache"],
            ["induce", "flatten"],
            ["evaluate"],
            ["evaluate"],
            ["induce", "plan"],
            ["induce", "cluster"],
            ["induce", "build"],
            ["induce", "finetune"],
        ]
        assert calls[5][calls[5].index("--prototypes") + 1] == "1000 500"
        assert "--reuse-prototypes" not in calls[6]
        assert calls[7][3] == "run/induced/cache/resnet18_one_layer_induces_ten_layers.npz"
        assert calls[8][-3:] == ["--resume", "--epochs", "1"]

    def test_only_true_reclusters(self, recorded):
        (call,) = recorded("create_permutation_matrices.sh", IS_RECLUSTER="true")
        assert call[-1] == "--reuse-prototypes"

    def test_torch_weights_are_converted_first(self, recorded):
        weights = {"BASELINE_STRUCTURED_CHECKPOINT_PATH": "latest.pth", "NETWORK_TYPE": "ResNet18"}
        first, second = recorded("inference_original_model.sh", **weights)
        assert first[:4] == ["convert", "latest.pth", "--arch", "resnet18"]
        assert second[:2] == ["evaluate", "run/induced/structured"]

    def test_every_option_exists(self, recorded, trained, tmp_path):
        """The commands that the scripts write are taken by the parser: a missing model is all that stops them."""
        for call in recorded("run_all.sh"):
            if call[0] == "induce":
                assert main([*call, "--json"]) == 2
