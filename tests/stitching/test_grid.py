"""Grids of stitchings: the cells, one run each, going on, the table."""

import json

import numpy as np
import pytest

from keras_relu.errors import UserError
from keras_relu.runs import Run
from keras_relu.stitching import grid as system

SETTINGS = {"epochs": 0, "fit_images": 100, "cka_images": 40}


def plan(networks, **values):
    given = {"models": {"a": "a.keras", "b": "b.keras"}, "layers": ["bn1"], "settings": SETTINGS, **values}
    grid = system.GridConfig.parse(given)
    return grid, system.cells(grid, dict(zip("ab", networks, strict=True)))


@pytest.mark.parametrize(
    ("values", "count"),
    [
        ({}, 2),
        ({"pairs": "self"}, 2),
        ({"pairs": "all"}, 4),
        ({"pairs": [("b", "a")]}, 1),
        ({"layers": "cuts"}, 16),
        ({"layers": ["bn1", ["relu1", "bn1"]]}, 4),
        ({"inits": ["eye", "ps_inv"], "masks": ["identity", "semi-match"], "targets": ["hard"], "seeds": [0, 1]}, 16),
    ],
)
def test_one_cell_for_each_combination(networks, values, count):
    cells = plan(networks, **values)[1]
    assert len(cells) == len({cell.name for cell in cells}) == count


def test_a_cell_is_named_by_what_it_does(networks):
    cell = plan(networks, inits=["ps_inv"], targets=["soft_2"], seeds=[3])[1][0]
    assert cell.name == "a-b-bn1-bn1-ps_inv-identity-soft_2-s3"
    assert (cell.config.init, cell.config.target, cell.config.seed, cell.config.epochs) == ("ps_inv", "soft_2", 3, 0)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"layers": ["bn7"]}, "Did you mean 'bn"),
        ({"inits": ["pinv"]}, "init"),
        ({"inits": []}, "inits"),
        ({"settings": {"epoch": 3}}, "epochs"),
        ({"pairs": [("a", "c")]}, "names 'c'"),
        ({"models": {"a": "a.keras"}}, "at least two models"),
        ({"models": {"../a": "a.keras", "b": "b"}}, "names directories"),
        ({"seeds": [0, 0]}, "twice"),
        ({"layers": []}, "no cells"),
        ({"pairs": []}, "no cells"),
        ({"settings": {"init": "eye"}}, "axis of the grid"),
        ({"pears": "all"}, "Did you mean 'pairs'"),
    ],
)
def test_grids_that_cannot_be_are_refused_before_training(networks, values, match):
    with pytest.raises(UserError, match=match):
        plan(networks, **values)


def test_cells_are_runs_and_finished_ones_are_kept(networks, digits, tmp_path):
    grid, cells = plan(networks, inits=["ps_inv"])
    models = dict(zip("ab", networks, strict=True))
    done = []
    options = {"resume": True, "progress": False, "on_done": lambda run: done.append(run.path.name)}
    system.run_cells(cells[:1], grid, models, digits, tmp_path, **options)
    half = system.collect(tmp_path, cells)
    assert list(half["run"]) == [cells[0].name]
    assert json.loads((tmp_path / "grid.json").read_text())["unfinished"] == [cells[1].name]
    assert system.run_cells(cells, grid, models, digits, tmp_path, **options) == {}
    assert done == [cell.name for cell in cells]
    frame = system.collect(tmp_path, cells)
    assert tuple(frame.columns) == system.GRID_COLUMNS
    assert frame["accuracy"].tolist() == frame["least_squares_accuracy"].tolist()
    run = Run.open(tmp_path / cells[1].name)
    assert (run.stage, run.parent, run.result["front"]) == ("stitch", "b.keras", "b")
    assert np.isfinite(frame.select_dtypes("number").to_numpy()).all()


def test_a_refused_cell_does_not_stop_the_others(networks, digits, tmp_path):
    grid, cells = plan(networks, layers=[["relu1", "relu2"], "bn1"], pairs=[("a", "b")], inits=["ps_inv"])
    models = dict(zip("ab", networks, strict=True))
    refused = system.run_cells(cells, grid, models, digits, tmp_path, progress=False)
    assert list(refused) == [cells[0].name]
    assert "unequal size" in refused[cells[0].name]
    assert not (tmp_path / cells[0].name).exists()
    assert list(system.collect(tmp_path, cells, refused)["run"]) == [cells[1].name]
    assert json.loads((tmp_path / "grid.json").read_text())["refused"] == refused
    with pytest.raises(UserError, match=r"No cell of the grid can run.*unequal size"):
        system.run_cells(cells[:1], grid, models, digits, tmp_path, progress=False)


def test_a_finished_cell_of_other_settings_is_not_taken_for_this_one(networks, digits, tmp_path):
    grid, cells = plan(networks, pairs=[("a", "b")], inits=["ps_inv"])
    models = dict(zip("ab", networks, strict=True))
    system.run_cells(cells, grid, models, digits, tmp_path, progress=False)
    other = plan(networks, pairs=[("a", "b")], inits=["ps_inv"], settings={**SETTINGS, "ridge": 0.5})
    with pytest.raises(UserError, match="'ridge'"):
        system.run_cells(other[1], other[0], models, digits, tmp_path, progress=False, resume=True)
