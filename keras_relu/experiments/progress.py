"""How far a run is, read from its directory without TensorFlow and without disturbing it."""

from __future__ import annotations

import csv
import io
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

from keras_relu.errors import UserError
from keras_relu.files import read_json

__all__ = ["Progress", "progress_of"]


@dataclass(frozen=True)
class Progress:
    """State of a run.

    Attributes:
        state: "configured" (nothing has started), "running", "stopped" (unfinished, and no process of this machine
            works on it) or "done".
        epoch: the last one that its metrics mention, or None.
        val_accuracy: on the validation split, the last one logged.
        accuracy: on the test split, once it is done.
    """

    state: str
    epoch: int | None = None
    val_accuracy: float | None = None
    accuracy: float | None = None


def progress_of(run: Path) -> Progress:
    """The progress of the run in a directory that need not exist."""
    if not (run / "config.yaml").exists():
        return Progress("configured")
    epoch, val_accuracy = _last_metrics(run / "metrics.csv")
    if not (run / "result.json").exists():
        return Progress("running" if _is_held(run / ".lock") else "stopped", epoch, val_accuracy)
    try:
        result = read_json(run / "result.json", "result")
    except UserError:
        return Progress("damaged", epoch, val_accuracy)
    return Progress("done", epoch, result.get("val_accuracy", val_accuracy), result.get("accuracy"))


def _last_metrics(file: Path) -> tuple[int | None, float | None]:
    """The highest epoch of the last phase and the last validation accuracy."""
    if not file.exists():
        return None, None
    rows = list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8", errors="replace"))))
    epochs = [row["epoch"] for row in rows if (row.get("epoch") or "").isdigit()]
    validated = [row["val_accuracy"] for row in rows if row.get("val_accuracy")]
    return (int(epochs[-1]) if epochs else None), (_number(validated[-1]) if validated else None)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _is_held(lock: Path) -> bool:
    """Whether a process holds the run's lock; asked without taking it, so that a job that starts now is not refused."""
    if not lock.exists() or not sys.platform.startswith("linux"):
        return False
    import fcntl

    # struct flock of Linux on 64 bits: type, whence, start, length, process.
    form = "hh4xqqi4x"
    with open(lock, "rb") as handle:
        try:
            answer = fcntl.fcntl(handle, fcntl.F_GETLK, struct.pack(form, fcntl.F_WRLCK, 0, 0, 0, 0))
        except OSError:
            return False
    return struct.unpack(form, answer)[0] != fcntl.F_UNLCK
