"""The tree of experiments: which there are below a directory, in which order they can run, and how far each is."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from keras_relu.errors import UserError
from keras_relu.experiments.config import CONFIG_FILE, Experiment, load_experiment
from keras_relu.experiments.places import runs_of
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
    """How far each experiment is: its state, epochs done, accuracy beside the original's.

    One row for its run, or for its lack of one, and one for each other run of it that is known (`places.runs_of`).
    """
    return [_status(e, run) for e in experiments for run in runs_of(e.directory)]


def _status(experiment: Experiment, run: Path) -> dict[str, Any]:
    progress = progress_of(run)
    parent = experiment.parent
    waits = progress.state == "configured" and parent is not None and progress_of(parent / "run").state != "done"
    return {
        "experiment": str(experiment.directory),
        "run": run.name if run.parent == experiment.directory else str(run),
        "stage": experiment.config.stage,
        "state": "waits for its parent" if waits else progress.state,
        "epoch": progress.epoch,
        "val_accuracy": progress.val_accuracy,
        "accuracy": progress.accuracy,
        "published_accuracy": experiment.config.published_accuracy,
    }


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
