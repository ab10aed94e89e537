"""Where the runs of an experiment are: in its directory, and wherever --output put them.

A run elsewhere is noted in the experiment's directory (`.runs`, one JSON string per line), or its status could not be known.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from keras_relu.experiments.config import CONFIG_FILE, Experiment

__all__ = ["note_run", "runs_of"]

_NOTES = ".runs"


def note_run(experiment: Experiment, run: Path) -> None:
    """Remember a run that lies outside of the experiment's directory; one that cannot be written remembers nothing."""
    place, known = run.resolve(), _noted(experiment.directory)
    if place.parent == experiment.directory.resolve() or place in known:
        return
    with contextlib.suppress(OSError), open(experiment.directory / _NOTES, "a", encoding="utf-8") as notes:
        # One write: the tasks of an array append at the same time.
        notes.write(json.dumps(str(place)) + "\n")


def runs_of(directory: Path) -> list[Path]:
    """`run` in the directory, whether it is there or not; then its other runs (of sweeps, continued), then those elsewhere."""
    default = directory / "run"
    beside = sorted(path for path in directory.iterdir() if path != default and _is_run(path))
    return [default, *beside, *(path for path in _noted(directory) if _is_run(path))]


def _is_run(path: Path) -> bool:
    return (path / "config.yaml").is_file() and not (path / CONFIG_FILE).exists()


def _noted(directory: Path) -> list[Path]:
    found: dict[Path, None] = {}
    with contextlib.suppress(OSError), open(directory / _NOTES, encoding="utf-8", errors="replace") as notes:
        for line in notes:
            # A line that was cut off names no place.
            with contextlib.suppress(ValueError, TypeError):
                found[Path(os.fspath(json.loads(line)))] = None
    return list(found)
