"""The run directory: what was asked, what happened, and what came out.

```
config.yaml     stage, parent and the resolved configuration
metrics.csv     one row per call of `Run.log`
tensorboard/    the same numbers as event files, tagged `<phase>/<key>`
checkpoints/    written by `training.fit`
logs/           of batch jobs, which may start before there is a run
model.keras     the result of the stage
quantization.npz  of the stage pqat: ranges that make the network of model.keras the quantized one
result.json     headline numbers; its presence means that the run is finished
```
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import yaml

from keras_relu.config import yaml_problem
from keras_relu.errors import UserError
from keras_relu.files import atomic_path, read_json, write_json, write_text
from keras_relu.runs.lock import hold
from keras_relu.runs.metrics import MetricsFile

if TYPE_CHECKING:
    import tf_keras as keras

__all__ = ["Run"]

_LOGS = "logs"
_PACKAGES = ("keras_relu", "tensorflow", "tf_keras", "numpy")


class Run:
    """One run directory; make it with `Run.create` or `Run.open`.

    Attributes:
        path: the directory.
        stage: what the run does, "train" or "reduce" for example.
        config: the resolved configuration, plain YAML values.
        parent: the run or model this one started from, or None.
        chief: whether this process writes; the other workers of a distributed run pass every call but write nothing.
    """

    def __init__(
        self, path: Path, *, stage: str, config: dict[str, Any], parent: str | None, chief: bool = True
    ) -> None:
        self.path = path
        self.stage = stage
        self.config = config
        self.parent = parent
        self.chief = chief
        self._metrics = MetricsFile(path / "metrics.csv")
        self._writer: Any = None
        self._lock: IO[str] | None = None
        self._new = False
        self._opened = time.monotonic()
        self._earlier_s = self._read_elapsed()

    @classmethod
    def create(
        cls,
        path: str | os.PathLike,
        *,
        config: Mapping[str, Any],
        stage: str,
        parent: str | os.PathLike | None = None,
        resume: bool = False,
        chief: bool = True,
    ) -> Run:
        """Start a run in a new or empty directory, or go on with an unfinished one.

        Args:
            config: resolved configuration of plain values; keys that may differ on resume do not belong in it.
            resume: continue the unfinished run there; where there is none, start one, so that a job that may be
                requeued can always pass it.

        Raises:
            UserError: the run there is finished, or unfinished without `resume`, or has another configuration (the
                message names the first key that differs), or the directory holds something else.
            RunBusyError: another process is working on it.
        """
        path = Path(path)
        asked = {"stage": stage, "parent": None if parent is None else str(parent), "config": _plain(config)}
        run = cls(path, chief=chief, **asked)
        if not chief:
            return run
        if (path / "config.yaml").exists():
            _check_existing(path, asked, resume=resume)
            run._lock = hold(path)
            run._metrics.repair()
            return run
        if path.exists() and (not path.is_dir() or any(entry.name != _LOGS for entry in path.iterdir())):
            raise UserError(f"{str(path)!r} exists and is no run directory; choose a new or empty one for the output.")
        write_text(path / "config.yaml", yaml.safe_dump(asked, sort_keys=False))
        run._lock, run._new = hold(path), True
        return run

    @classmethod
    def open(cls, path: str | os.PathLike) -> Run:
        """The run in an existing directory, for reading.

        Raises:
            UserError: there is no run, or its config.yaml is damaged.
        """
        path = Path(path)
        return cls(path, **_read_config(path))

    def require_same(self, config: Mapping[str, Any]) -> None:
        """UserError naming the first key in which `config` differs from the configuration of this run."""
        key = _first_difference(self.config, _plain(config))
        if key is not None:
            raise UserError(
                f"The run {str(self.path)!r} was made with another configuration: {key[0]!r} was {key[1]!r}, "
                f"now it is {key[2]!r}."
            )

    @contextlib.contextmanager
    def withdrawn_if_refused(self, error: type[Exception] = UserError) -> Iterator[None]:
        """Within the block, an `error` of a run that has just been made removes its directory again, so that the
        corrected command meets no leftover of the wrong one."""
        try:
            yield
        except error:
            if self.chief and self._new and not any(self.checkpoints.glob("*.npz")):
                _remove(self.path)
            raise

    @property
    def checkpoints(self) -> Path:
        """Directory of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def finished(self) -> bool:
        """Whether `finish` was called."""
        return (self.path / "result.json").exists()

    @property
    def result(self) -> dict[str, Any]:
        """The content of result.json."""
        return read_json(self.path / "result.json", "result")

    def log(self, row: Mapping[str, Any]) -> None:
        """Append one row to metrics.csv and its numbers to TensorBoard.

        Args:
            row: `phase`, `epoch` (from 1), `step` (updates done in the phase) and any further numbers. A new key
                becomes a new column.
        """
        if not self.chief:
            return
        self._metrics.append({"stage": self.stage, **row})
        phase = row.get("phase") or self.stage
        numbers = {f"{phase}/{k}": v for k, v in row.items() if k not in ("phase", "epoch", "step") and _is_number(v)}
        self.tensorboard(numbers, step=int(row.get("step") or 0))

    def rows(self) -> list[dict[str, Any]]:
        """The rows of metrics.csv; numbers as int or float, empty cells as None."""
        return self._metrics.read()

    def rewind(self, phase: str, step: int, epoch: int) -> None:
        """Drop the rows of `phase` past `step`, and the rows of epochs past `epoch`: a resumed run writes them again.

        The row of an epoch is the one with `seconds`; it has the step of the epoch's last update, but comes after it.
        """

        def done(row: Mapping[str, Any]) -> bool:
            whole_epoch = row["seconds"] is not None
            return (row["step"] or 0) <= step and not (whole_epoch and (row["epoch"] or 0) > epoch)

        if self.chief:
            self._metrics.keep(lambda row: row["phase"] != phase or done(row))

    def tensorboard(self, scalars: Mapping[str, float], *, step: int) -> None:
        """Write scalars to the event files under tensorboard/."""
        if not self.chief or not scalars:
            return
        import tensorflow as tf

        if self._writer is None:
            self._writer = tf.summary.create_file_writer(str(self.path / "tensorboard"))
        with self._writer.as_default():
            for tag, value in scalars.items():
                tf.summary.scalar(tag, float(value), step=step)
        self._writer.flush()

    def save_model(self, model: keras.Model, name: str = "model.keras") -> Path:
        """Write `model` into the run; every worker must call it, since reading distributed variables is collective."""
        target = self.path / name
        if not self.chief:
            with tempfile.TemporaryDirectory() as scratch:
                model.save(Path(scratch) / Path(name).name)
            return target
        with atomic_path(target) as temporary:
            model.save(temporary)
        return target

    def load_model(self) -> keras.Model:
        """The model that `save_model` wrote."""
        from keras_relu.runs.loading import load_model

        return load_model(self.path)

    def save_elapsed(self) -> None:
        """Record the time spent so far, so that the total of a run that is killed and resumed is right."""
        if self.chief:
            write_json(self.path / "checkpoints" / "elapsed.json", {"seconds": self._elapsed()})

    def finish(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Write result.json: `result` and stage, parent, seed, versions, git_revision, config_hash, wall_time_s.

        Numbers that are not finite become null. Returns what was written.
        """
        record = {
            "stage": self.stage,
            **_plain(result),
            "parent": self.parent,
            "seed": self.config.get("seed", result.get("seed")),
            "versions": _versions(),
            "git_revision": _git_revision(),
            "config_hash": config_hash(self.config),
            "wall_time_s": round(self._elapsed(), 3),
        }
        if self.chief:
            write_json(self.path / "result.json", _finite(record))
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        return record

    def _elapsed(self) -> float:
        return self._earlier_s + time.monotonic() - self._opened

    def _read_elapsed(self) -> float:
        file = self.path / "checkpoints" / "elapsed.json"
        return float(read_json(file)["seconds"]) if file.exists() else 0.0


def config_hash(config: Mapping[str, Any]) -> str:
    """First 16 hexadecimal digits of the SHA-256 of the configuration, independent of key order."""
    return hashlib.sha256(json.dumps(_plain(config), sort_keys=True).encode("utf-8")).hexdigest()[:16]


def _check_existing(path: Path, asked: dict[str, Any], *, resume: bool) -> None:
    if (path / "result.json").exists():
        raise UserError(f"The run {str(path)!r} is finished; choose another output directory or remove it first.")
    if not resume:
        raise UserError(
            f"The run {str(path)!r} exists and is unfinished; continue it with --resume or choose another directory."
        )
    key = _first_difference(_read_config(path), asked)
    if key is not None:
        raise UserError(
            f"The run {str(path)!r} was started with another configuration: {key[0]!r} was {key[1]!r}, "
            f"now it is {key[2]!r}. Resume with the same settings."
        )


def _remove(path: Path) -> None:
    """Delete a run, but not the log that says why."""
    if not (path / _LOGS).exists():
        shutil.rmtree(path, ignore_errors=True)
        return
    for entry in path.iterdir():
        if entry.is_dir() and entry.name != _LOGS:
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.name != _LOGS:
            entry.unlink(missing_ok=True)


def _read_config(path: Path) -> dict[str, Any]:
    file = path / "config.yaml"
    if not file.exists():
        raise UserError(f"{str(path)!r} is no run directory: it has no config.yaml.")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{str(file)!r} is not valid YAML: {yaml_problem(error)}.") from error
    if not isinstance(content, dict) or set(content) != {"stage", "parent", "config"}:
        raise UserError(f"{str(file)!r} is no run configuration; its keys must be stage, parent and config.")
    return content


def _first_difference(old: Any, new: Any, at: str = "") -> tuple[str, Any, Any] | None:
    """(dotted key, old value, new value) of the first difference between two nested mappings, or None."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(k for k in new if k not in old)]:
            found = _first_difference(old.get(key), new.get(key), f"{at}.{key}" if at else str(key))
            if found:
                return found
        return None
    return None if old == new else (at.removeprefix("config."), old, new)


def _plain(value: Any) -> Any:
    """Tuples as lists, paths as text and NumPy numbers as Python's, so that YAML and JSON can hold and return them."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, os.PathLike):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    return value


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def _git_revision() -> str | None:
    """The commit of the current directory, or None outside a repository or without git."""
    try:
        answer = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None
