"""Accuracy against budget: one reduction per pair of budget and replacement, each a run of its own, resumable."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tf_keras as keras

from keras_relu import surgery
from keras_relu.data import Dataset
from keras_relu.errors import UserError
from keras_relu.files import write_json, write_text
from keras_relu.replacement.config import ReduceConfig
from keras_relu.replacement.ranking import parse_budget
from keras_relu.replacement.reduce import reduce
from keras_relu.runs import Run, RunBusyError

__all__ = ["SWEEP_COLUMNS", "cells", "collect", "sweep"]

SWEEP_COLUMNS = (
    "replacement",
    "budget",
    "relu_count",
    "accuracy",
    "val_accuracy",
    "baseline_accuracy",
    "wall_time_s",
    "run",
)


def cells(
    model: keras.Model, budgets: Sequence[str | float | int], replacements: Sequence[str], settings: Mapping[str, Any]
) -> dict[str, ReduceConfig]:
    """The configurations of a sweep by directory name, `<replacement>-<budget>`; all are checked here, before any training.

    Raises:
        UserError: an empty list, an unknown replacement, a budget out of range or the same twice.
    """
    if not budgets or not replacements:
        raise UserError("A sweep needs at least one budget and one replacement.")
    total = sum(int(np.prod(site.shape)) for site in surgery.find_sites(model))
    made: dict[str, ReduceConfig] = {}
    for replacement, budget in itertools.product(replacements, (parse_budget(value, total) for value in budgets)):
        name = f"{replacement}-{budget}"
        if name in made:
            raise UserError(f"The sweep holds {name} twice; budgets are {', '.join(map(str, budgets))}.")
        made[name] = ReduceConfig.parse({**settings, "budget": budget, "replacement": replacement})
    return made


def sweep(
    model: keras.Model,
    dataset: Dataset,
    output: str | Path,
    configs: Mapping[str, ReduceConfig],
    *,
    resume: bool = False,
    parent: str | None = None,
    record: Mapping[str, Any] | None = None,
    on_cell: Callable[[str, dict[str, Any]], None] | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Run every cell that is not finished, and write sweep.csv and sweep.json after each.

    Args:
        model: the baseline.
        output: directory of the sweep; each cell is the run `output/<name>`.
        configs: from `cells`.
        resume: go on with a sweep that is there: finished cells are kept, an unfinished one continues, and one that
            another process is working on is left to it.
        parent: path of the baseline, for the records.
        record: what else the cells' configurations must agree in, the data set for example; kept with them.
        on_cell: called with the name and the result of each cell.
        options: passed to `reduce` (strategy, checkpoint_every, progress, facts).

    Returns:
        One row per finished cell, columns `SWEEP_COLUMNS`.

    Raises:
        UserError: the directory holds a sweep and `resume` is not given, or a cell there has another configuration.
    """
    output = Path(output)
    if output.exists() and any(output.iterdir()) and not resume:
        raise UserError(
            f"{str(output)!r} exists; pass resume (--resume) to go on with a sweep, or choose a new directory."
        )
    for name, config in configs.items():
        settings = {**config.to_dict(), **(record or {})}
        if (output / name / "result.json").exists():
            Run.open(output / name).require_same(settings)
        else:
            try:
                run = Run.create(output / name, config=settings, stage="reduce", parent=parent, resume=resume)
            except RunBusyError:
                # Sweeps side by side share their cells: each takes those that nobody works on.
                continue
            with run.withdrawn_if_refused():
                reduce(model, dataset, config, run=run, resume=resume, **options)
        collect(output)
        if on_cell:
            on_cell(name, Run.open(output / name).result)
    return collect(output)


def collect(output: str | Path) -> pd.DataFrame:
    """The table of the finished cells, whoever ran them, in order of replacement and budget; also written as sweep.csv and
    sweep.json, which names the unfinished ones too."""
    output = Path(output)
    runs = [Run.open(file.parent) for file in sorted(output.glob("*/config.yaml"))]
    done = [run for run in runs if run.finished]
    rows = [{**{key: run.result.get(key) for key in SWEEP_COLUMNS}, "run": run.path.name} for run in done]
    rows.sort(key=lambda row: (row["replacement"], row["budget"]))
    frame = pd.DataFrame(rows, columns=list(SWEEP_COLUMNS))
    write_text(output / "sweep.csv", frame.to_csv(index=False))
    write_json(output / "sweep.json", {"cells": rows, "unfinished": [r.path.name for r in runs if not r.finished]})
    return frame
