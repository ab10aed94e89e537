"""The tree of experiments: which there are below a directory, in which order they can run, and how far each is."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from keras_relu.errors import UserError
from keras_relu.experiments.config import CONFIG_FILE, Experiment, load_experiment
from keras_relu.experiments.progress import progress_of

__all__ = ["find_experiments", "in_order", "list_rows", "status_rows"]


def find_experiments(root: str | Path) -> list[Experiment]:
    """All experiments in `root` and below, by path.

    Raises:
        UserError: there is none, or one of them is wrong.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"The directory {str(root)!r} does not exist.")
    found = sorted(Path(folder) for folder, _, files in os.walk(root) if CONFIG_FILE in files)
    if not found:
        raise UserError(f"There is no experiment in {str(root)!r}: no directory there has an {CONFIG_FILE}.")
    return [load_experiment(directory) for directory in found]


def in_order(experiments: Sequence[Experiment]) -> list[Experiment]:
    """Parents before their children, otherwise as given; parents that are not among them are left out.

    Raises:
        UserError: experiments that are each other's parents.
    """
    waiting = {_key(experiment.directory): experiment for experiment in experiments}
    ordered: list[Experiment] = []
    while waiting:
        ready = [key for key, e in waiting.items() if e.parent is None or _key(e.parent) not in waiting]
        if not ready:
            names = ", ".join(str(e.directory) for e in waiting.values())
            raise UserError(f"These experiments wait for each other: {names}.")
        # The first ready one, so that a chain is finished before the next one starts.
        ordered.append(waiting.pop(ready[0]))
    return ordered


def list_rows(experiments: Iterable[Experiment]) -> list[dict[str, Any]]:
    """What is configured: one row per experiment."""
    by_place = {_key(e.directory): e for e in experiments}
    return [
        {
            "experiment": str(e.directory),
            "stage": e.config.stage,
            "dataset": e.config.dataset,
            "network": _network(e, by_place),
            "parent": None if e.parent is None else str(e.parent),
            "recipe": e.recipe,
            "batch_size": e.settings.get("batch_size"),
            "published_accuracy": e.config.published_accuracy,
        }
        for e in by_place.values()
    ]


def status_rows(experiments: Iterable[Experiment]) -> list[dict[str, Any]]:
    """How far each experiment is: its state, epochs done, accuracy beside the original's."""
    rows = []
    for e in experiments:
        progress = progress_of(e.run_path)
        if progress.state == "configured" and e.parent is not None:
            waits = progress_of(e.parent / "run").state != "done"
        else:
            waits = False
        rows.append(
            {
                "experiment": str(e.directory),
                "stage": e.config.stage,
                "state": "waits for its parent" if waits else progress.state,
                "epoch": progress.epoch,
                "val_accuracy": progress.val_accuracy,
                "accuracy": progress.accuracy,
                "published_accuracy": e.config.published_accuracy,
            }
        )
    return rows


def _network(experiment: Experiment, by_place: dict[str, Experiment]) -> str | None:
    """The registered name of the network at the start of the chain."""
    seen: set[str] = set()
    while experiment.parent is not None and _key(experiment.directory) not in seen:
        seen.add(_key(experiment.directory))
        parent = by_place.get(_key(experiment.parent))
        if parent is None:
            try:
                parent = load_experiment(experiment.parent)
            except UserError:
                return None
        experiment = parent
    return experiment.config.network


def _key(directory: Path) -> str:
    return str(directory.resolve())
