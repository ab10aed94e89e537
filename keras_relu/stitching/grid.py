"""Stitch all pairs of networks at all layers: a table of runs, each a directory of its own, resumable and one array job."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pydantic
import tf_keras as keras
from pydantic import Field

from keras_relu import splitting
from keras_relu.config import Config
from keras_relu.data import Dataset
from keras_relu.errors import UserError
from keras_relu.files import write_json, write_text
from keras_relu.runs import Run, RunBusyError
from keras_relu.stitching.config import StitchConfig
from keras_relu.stitching.run import stitch

__all__ = ["GRID_COLUMNS", "Cell", "GridConfig", "cells", "collect", "run_cells"]

GRID_COLUMNS = (
    *("front", "end", "front_layer", "end_layer", "init", "mask", "target", "seed", "accuracy", "relative_accuracy"),
    *("end_accuracy", "loss", "same_class", "cka", "l2", "least_squares_accuracy", "least_squares_cka"),
    *("least_squares_l2", "cka_before", "wall_time_s", "run"),
)
_AXES = {"init": "inits", "mask": "masks", "target": "targets", "seed": "seeds"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_]*")


class GridConfig(Config):
    """A grid of stitchings.

    Attributes:
        models: path of each network by a short name.
        pairs: "ordered" takes every pair of different networks in both directions, "self" each network with itself, "all"
            both; or a list of [front, end].
        layers: names, used on both sides; [front layer, end layer]; or "cuts" for all valid cuts (of the front network).
        inits, masks, targets, seeds: one run for each combination.
        settings: everything else of a `StitchConfig`, for all runs.
    """

    models: dict[str, str] = Field(min_length=1)
    pairs: Literal["ordered", "self", "all"] | list[tuple[str, str]] = "ordered"
    layers: Literal["cuts"] | list[str | tuple[str, str]]
    inits: list[str] = Field(["random"], min_length=1)
    masks: list[str] = Field(["identity"], min_length=1)
    targets: list[str] = Field(["hard"], min_length=1)
    seeds: list[int] = Field([0], min_length=1)
    settings: dict[str, Any] = Field(default_factory=dict)

    @pydantic.field_validator("models")
    @classmethod
    def _speakable(cls, models: dict[str, str]) -> dict[str, str]:
        for name in models:
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} names directories, so it may hold letters, digits and _ only")
        return models

    @pydantic.field_validator("settings")
    @classmethod
    def _no_axes(cls, settings: dict[str, Any]) -> dict[str, Any]:
        for key, axis in _AXES.items():
            if key in settings:
                raise ValueError(f"{key!r} is an axis of the grid; name its values under {axis!r}")
        return settings


@dataclass(frozen=True)
class Cell:
    """One run of a grid; `name` is its directory."""

    name: str
    front: str
    end: str
    front_layer: str
    end_layer: str
    config: StitchConfig


def cells(grid: GridConfig, models: Mapping[str, keras.Model]) -> list[Cell]:
    """All runs of a grid in a fixed order; layers and settings are checked here, before any training.

    Args:
        models: the networks by their names in the grid.

    Raises:
        UserError: an unknown network, layer or setting, or the same run twice.
    """
    made: dict[str, Cell] = {}
    for front, end in _pairs(grid):
        for front_layer, end_layer in _layers(grid, models[front], models[end]):
            for init, mask, target, seed in itertools.product(grid.inits, grid.masks, grid.targets, grid.seeds):
                chosen = {"init": init, "mask": mask, "target": target, "seed": seed}
                config = StitchConfig.parse({**grid.settings, **chosen})
                name = f"{front}-{end}-{front_layer}-{end_layer}-{init}-{mask}-{target}-s{seed}".replace("/", "_")
                if name in made:
                    raise UserError(f"The grid holds {name} twice.")
                made[name] = Cell(name, front, end, front_layer, end_layer, config)
    if not made:
        raise UserError("The grid has no cells: its pairs or its layers are empty.")
    return list(made.values())


def run_cells(
    planned: Sequence[Cell],
    grid: GridConfig,
    models: Mapping[str, keras.Model],
    dataset: Dataset,
    output: str | Path,
    *,
    resume: bool = False,
    record: Mapping[str, Any] | None = None,
    on_done: Callable[[Run], None] | None = None,
    **options: Any,
) -> dict[str, str]:
    """Run every cell that is not finished, each as the run `output/<name>`; a cell in another process's hands is left.

    Args:
        record: further keys of the runs' configuration, the data set for example.
        on_done: called with each run that this call finished.
        options: passed to `stitch` (strategy, checkpoint_every, progress).

    Returns:
        Why cells were refused, by name: two layers that cannot be joined do not stop the others.

    Raises:
        UserError: a directory holds a run of another configuration, or an unfinished one without `resume`; or every
            cell was refused.
    """
    refused: dict[str, str] = {}
    for cell in planned:
        run = _open(cell, grid, Path(output), resume=resume, record=record or {})
        if run is None:
            continue
        try:
            with run.withdrawn_if_refused():
                _stitch(cell, models, dataset, run, resume=resume, **options)
        except UserError as error:
            refused[cell.name] = str(error)
            continue
        if on_done:
            on_done(run)
    if refused and len(refused) == len(planned):
        raise UserError(f"No cell of the grid can run; the first, {planned[0].name}: {refused[planned[0].name]}")
    return refused


def _open(cell: Cell, grid: GridConfig, output: Path, *, resume: bool, record: Mapping[str, Any]) -> Run | None:
    """The run of a cell; None when it is finished or somebody else works on it."""
    names = {"front_path": grid.models[cell.front], "end_path": grid.models[cell.end]}
    layers = {"front_layer": cell.front_layer, "end_layer": cell.end_layer}
    config = {**cell.config.to_dict(), **names, **layers, **record}
    if (output / cell.name / "result.json").exists():
        Run.open(output / cell.name).require_same(config)
        return None
    try:
        return Run.create(output / cell.name, config=config, stage="stitch", parent=names["front_path"], resume=resume)
    except RunBusyError:
        return None


def _stitch(cell: Cell, models: Mapping[str, keras.Model], dataset: Dataset, run: Run, **options: Any) -> None:
    paths = {key: run.config[key] for key in ("front_path", "end_path")}
    facts = {"front": cell.front, "end": cell.end, **paths}
    networks = models[cell.front], models[cell.end]
    stitch(*networks, cell.front_layer, cell.end_layer, dataset, cell.config, run=run, facts=facts, **options)


def collect(output: str | Path, planned: Sequence[Cell], refused: Mapping[str, str] | None = None) -> pd.DataFrame:
    """The table of the finished cells; also written as grid.csv and grid.json, with the reasons of refused cells."""
    output = Path(output)
    rows = [_row(Run.open(output / c.name).result, c) for c in planned if (output / c.name / "result.json").exists()]
    frame = pd.DataFrame(rows, columns=list(GRID_COLUMNS))
    write_text(output / "grid.csv", frame.to_csv(index=False))
    done = {row["run"] for row in rows}
    left = [cell.name for cell in planned if cell.name not in done]
    write_json(output / "grid.json", {"cells": rows, "unfinished": left, "refused": dict(refused or {})})
    return frame


def _row(result: Mapping[str, Any], cell: Cell) -> dict[str, Any]:
    readings = result["readings"]
    stitched, fitted = readings["stitched"], readings.get("least_squares", {})
    return {
        **{key: getattr(cell, key) for key in ("front", "end", "front_layer", "end_layer")},
        **{key: getattr(cell.config, key) for key in ("init", "mask", "target", "seed")},
        **{key: stitched[key] for key in ("accuracy", "relative_accuracy", "loss", "same_class", "cka", "l2")},
        "end_accuracy": readings["end"]["accuracy"],
        **{f"least_squares_{key}": fitted.get(key) for key in ("accuracy", "cka", "l2")},
        "cka_before": result["layer"]["cka"],
        "wall_time_s": result["wall_time_s"],
        "run": cell.name,
    }


def _pairs(grid: GridConfig) -> Iterator[tuple[str, str]]:
    if not isinstance(grid.pairs, str):
        for pair in grid.pairs:
            for name in pair:
                if name not in grid.models:
                    raise UserError(f"The pair {list(pair)} names {name!r}; the models are {', '.join(grid.models)}.")
            yield pair
        return
    if grid.pairs == "ordered" and len(grid.models) < 2:
        raise UserError("A grid of ordered pairs needs at least two models; use pairs: self for one.")
    for front, end in itertools.product(grid.models, repeat=2):
        if grid.pairs == "all" or (front == end) == (grid.pairs == "self"):
            yield front, end


def _layers(grid: GridConfig, front: keras.Model, end: keras.Model) -> Iterator[tuple[str, str]]:
    if isinstance(grid.layers, str):
        names: list[Any] = [cut.name for cut in splitting.cuts(front) if cut.valid]
    else:
        names = list(grid.layers)
    unpacked = splitting.unpack(front), splitting.unpack(end)
    for name in names:
        first, second = (name, name) if isinstance(name, str) else name
        yield splitting.resolve_layer(unpacked[0], first), splitting.resolve_layer(unpacked[1], second)
