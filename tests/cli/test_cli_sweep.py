"""sweep: one run per cell, a table after each, and a second call that leaves finished cells alone."""

from __future__ import annotations

import csv
import json
import shutil

import pytest

SETTINGS = (
    "--dataset",
    "digits",
    "--limit",
    "60",
    "--batch-size",
    "20",
    "--search-epochs",
    "1",
    "--finetune-epochs",
    "1",
)
SETTINGS = (*SETTINGS, "--no-distillation", "--set", "search.mask_interval=1", "--set", "search.score_interval=1")
CELLS = ["identity-13", "identity-68"]  # in the order of the table


def files_of(cell):
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in cell.iterdir() if path.is_file()}


def rows_of(sweep):
    with open(sweep / "sweep.csv", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def command(small, tmp_path_factory):
    """The arguments of a sweep of two cells; the output comes last."""
    return ["sweep", small, "--budgets", "0.5,0.1", "--replacements", "identity", *SETTINGS, "--output"]


@pytest.fixture(scope="module")
def swept(call, command, tmp_path_factory):
    path = tmp_path_factory.mktemp("sweep") / "swept"
    return path, call(*command, path, "--json").json


def test_every_cell_is_a_run_that_keeps_its_budget(call, swept):
    path, shown = swept
    assert [cell["run"] for cell in shown["cells"]] == CELLS
    assert [cell["relu_count"] for cell in shown["cells"]] == [13, 68]
    for cell in shown["cells"]:
        result = json.loads((path / cell["run"] / "result.json").read_text())
        assert {key: result[key] for key in cell if key != "run"} == {key: cell[key] for key in cell if key != "run"}
        assert call("count", path / cell["run"], "--json").json["relu_count"] == cell["budget"]


def test_the_table_and_the_report_are_written(swept):
    path, shown = swept
    assert [row["run"] for row in rows_of(path)] == CELLS
    assert json.loads((path / "sweep.json").read_text()) == {"cells": shown["cells"], "unfinished": []}
    assert shown["report"] == str(path / "report.html")
    assert "<html" in (path / "report.html").read_text(encoding="utf-8")


def test_a_second_call_is_refused_or_leaves_finished_cells_alone(call, refused, command, swept):
    path, shown = swept
    before = {name: files_of(path / name) for name in CELLS}
    assert "pass resume (--resume) to go on with a sweep" in refused(*command, path)
    assert call(*command, path, "--resume", "--json").json["cells"] == shown["cells"]
    assert {name: files_of(path / name) for name in CELLS} == before


def test_the_table_in_a_log_is_not_cut_to_the_width_of_a_terminal(call, command, swept):
    path, shown = swept
    text = call(*command, path, "--resume").out
    assert [key for key in shown["cells"][0] if key not in text] == []
    assert [name for name in CELLS if name not in text] == []
    assert str(path / "report.html") in text


def test_an_unfinished_cell_is_finished_with_the_same_result(call, command, swept, tmp_path):
    path, shown = swept
    copy = tmp_path / "copy"
    shutil.copytree(path, copy)
    (copy / CELLS[1] / "result.json").unlink()
    (copy / CELLS[1] / "model.keras").unlink()
    before = files_of(copy / CELLS[0])
    again = call(*command, copy, "--resume", "--json").json
    measured = ("accuracy", "val_accuracy", "relu_count", "budget", "run")
    assert [[cell[key] for key in measured] for cell in again["cells"]] == [
        [cell[key] for key in measured] for cell in shown["cells"]
    ]
    assert files_of(copy / CELLS[0]) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--search-epochs", "2"], "'search.epochs' was 1, now it is 2"),
        (["--limit", "80"], "'limit' was 60, now it is 80"),
        (["--normalization", "signed"], "'normalization' was 'digits', now it is 'signed'"),
    ],
)
def test_cells_of_other_settings_are_not_mixed(refused, command, swept, options, message):
    path, _ = swept
    assert message in refused(*command, path, "--resume", *options)


def test_one_cell_of_an_array_job(call, refused, command, tmp_path):
    path = tmp_path / "array"
    shown = call(*command, path, "--cell", "1", "--json").json
    assert [cell["run"] for cell in shown["cells"]] == [row["run"] for row in rows_of(path)] == [CELLS[0]]
    assert [folder.name for folder in path.iterdir() if (folder / "config.yaml").exists()] == [CELLS[0]]
    assert "--cell is 2, the sweep has 2 cells, numbered from 0" in refused(*command, path, "--cell", "2")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--budgets", "0.5,2000"], "The budget 2,000 is out of range: the network has 136 ReLUs"),
        (["--budgets", "0.5,half"], "The budget 'half' is not a number"),
        (["--budgets", ","], "at least one budget and one replacement"),
        (["--budgets", "0.5,68"], "The sweep holds identity-68 twice"),
        (["--replacements", "identity,quadratics"], "Did you mean 'quadratic'"),
        (["--set", "budgte=3"], "Unknown key in ReduceConfig 'budgte'. Did you mean 'budget'?"),
    ],
)
def test_all_cells_are_checked_before_the_first_is_trained(refused, command, tmp_path, options, message):
    assert message in refused(*command, tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()
