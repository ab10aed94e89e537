"""Read run directories: what a report shows comes from these files and nowhere else."""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from keras_relu.errors import UserError
from keras_relu.files import read_json

__all__ = ["RunData", "Site", "load_runs"]

RUN_FILES = ("config.yaml", "metrics.csv", "result.json")
SWEEP_FILES = ("sweep.json", "sweep.csv")
METRIC_COLUMNS = ("phase", "epoch", "step", "loss", "accuracy", "val_accuracy", "val_loss", "learning_rate", "kept")
NUMBERS = (
    *("accuracy", "baseline_accuracy", "val_accuracy", "loss", "budget", "relu_count", "relu_count_before"),
    *("correct", "total", "wall_time_s", "seed", "macs"),
)
FRACTIONS = ("accuracy", "baseline_accuracy", "val_accuracy")
# A directory of sweeps of runs is the deepest layout the tools write.
MAX_DEPTH = 2


@dataclass(frozen=True)
class Site:
    """One activation site of a run: `kept` of `total` ReLUs per image stay; `shape` is (H, W, C) or (C,)."""

    name: str
    shape: tuple[int, ...]
    total: int
    kept: int

    @property
    def kept_fraction(self) -> float:
        """kept / total, 0 for an empty site."""
        return self.kept / self.total if self.total else 0.0


@dataclass(frozen=True)
class RunData:
    """One run directory, read.

    `result` is empty and `finished` False while the run has no result.json. `metrics` always has the columns
    METRIC_COLUMNS (missing ones filled with NaN). Accuracies are fractions in [0, 1].
    """

    path: Path
    name: str
    finished: bool
    result: dict[str, Any]
    config: dict[str, Any]
    config_text: str
    metrics: pd.DataFrame = field(repr=False)
    sites: tuple[Site, ...] = ()

    def setting(self, key: str, default: Any = None) -> Any:
        """`key` from the result, else from the configuration (its top level first, then its sections)."""
        sections = [value for value in self.config.values() if isinstance(value, dict)]
        for place in (self.result, self.config, *sections):
            if place.get(key) is not None:
                return place[key]
        return default

    def number(self, key: str) -> Any:
        """A number of the result, or None when the run did not record it."""
        return self.result.get(key)

    @property
    def stage(self) -> str:
        """`train`, `reduce` or another stage; `unknown` when the run does not say."""
        return str(self.setting("stage", "unknown"))

    @property
    def reduced(self) -> bool:
        """Whether the run cut ReLUs (and finished); a training run may count its ReLUs too."""
        return self.stage != "train" and self.number("relu_count") is not None

    @property
    def kept_fraction(self) -> float | None:
        """relu_count / relu_count_before."""
        return _ratio(self.number("relu_count"), self.number("relu_count_before"))

    @property
    def change(self) -> float | None:
        """Test accuracy minus the baseline's, in percentage points."""
        after, before = self.number("accuracy"), self.number("baseline_accuracy")
        return None if after is None or before is None else 100.0 * (after - before)

    def masks(self) -> dict[str, np.ndarray]:
        """Site name -> 0/1 array of the site's shape, in the order of `sites`; empty when no file was written.

        Raises:
            UserError: the file is not a NumPy archive of plain arrays.
        """
        path = self.path / Path(str(self.result.get("masks_file") or "masks.npz")).name
        if not path.is_file():
            return {}
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = {name: np.asarray(archive[name]) for name in archive.files}
        except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
            raise UserError(f"The masks file {str(path)!r} cannot be read: {error}.") from error
        order = {site.name: index for index, site in enumerate(self.sites)}
        return dict(sorted(arrays.items(), key=lambda item: order.get(item[0], len(order))))


def _ratio(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


def load_runs(paths: Iterable[str | os.PathLike] | str | os.PathLike) -> list[RunData]:
    """Read runs and sweeps (directories of runs, at most two levels down), each run once, in the order given.

    A run without result.json is returned as unfinished. Subdirectories of a sweep that are not runs are skipped.

    Raises:
        UserError: a path is missing, is not a run and holds none, or one of its files is damaged.
    """
    given = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if not given:
        raise UserError("No run was given. Name at least one run directory or sweep directory.")
    found: dict[Path, None] = {}
    for path in given:
        found.update(dict.fromkeys(run.resolve() for run in _runs_under(Path(path))))
    names = _unique_names(list(found))
    return [replace(_load(path), name=name) for path, name in zip(found, names, strict=True)]


def _runs_under(path: Path) -> list[Path]:
    if not path.exists():
        raise UserError(f"The run directory {str(path)!r} does not exist.")
    if not path.is_dir():
        raise UserError(f"{str(path)!r} is a file. Give the run directory that holds it.")
    runs = [path] if _is_run(path) else list(_walk(path, MAX_DEPTH))
    if not runs:
        raise UserError(
            f"{str(path)!r} is not a run and holds none. A run directory has {', '.join(RUN_FILES[:-1])} "
            f"and, when finished, {RUN_FILES[-1]}."
        )
    return runs


def _is_run(path: Path) -> bool:
    if any((path / name).is_file() for name in SWEEP_FILES):
        return False
    return any((path / name).is_file() for name in RUN_FILES)


def _walk(path: Path, depth: int) -> Iterator[Path]:
    for child in sorted(path.iterdir(), key=lambda entry: _natural(entry.name)):
        if not child.is_dir() or child.name.startswith("."):
            continue
        if _is_run(child):
            yield child
        elif depth > 1:
            yield from _walk(child, depth - 1)


def _natural(name: str) -> tuple[str, int, str]:
    """Sort `line-9420` before `line-18841`."""
    stem, _, tail = name.rpartition("-")
    return (stem, int(tail), "") if stem and tail.isdecimal() else (name, -1, name)


def _unique_names(paths: list[Path]) -> list[str]:
    """The shortest trailing part of each path that no other run shares."""
    names = []
    for path in paths:
        others = [other.parts for other in paths if other != path]
        length = 1
        while length < len(path.parts) and any(other[-length:] == path.parts[-length:] for other in others):
            length += 1
        names.append("/".join(path.parts[-length:]))
    return names


def _load(path: Path) -> RunData:
    finished = (path / "result.json").is_file()
    result = _result(path / "result.json") if finished else {}
    text, config = _config(path / "config.yaml")
    metrics = _metrics(path / "metrics.csv", required=finished)
    return RunData(path, path.name, finished, result, config, text, metrics, _sites(path / "result.json", result))


def _result(path: Path) -> dict[str, Any]:
    try:
        result = read_json(path, "result file")
    except OSError as error:
        raise UserError(f"The result file {str(path)!r} cannot be read: {error.strerror}.") from error
    if not isinstance(result, dict):
        raise UserError(f"The result file {str(path)!r} must hold one JSON object, got {type(result).__name__}.")
    for key in NUMBERS:
        _check_number(path, key, result.get(key))
    return result


def _check_number(path: Path, key: str, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise UserError(f"The result file {str(path)!r} has {key} = {json.dumps(value)}; a finite number is needed.")
    if value < 0 or (key in FRACTIONS and value > 1):
        allowed = "a fraction in [0, 1]" if key in FRACTIONS else "a number of at least 0"
        raise UserError(f"The result file {str(path)!r} has {key} = {value}; {allowed} is needed.")


def _sites(path: Path, result: dict[str, Any]) -> tuple[Site, ...]:
    try:
        return tuple(_site(entry) for entry in result.get("sites") or ())
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"The result file {str(path)!r} has a damaged list of sites ({type(error).__name__}: {error}). "
            "Each needs a name and 0 <= kept <= total."
        ) from error


def _site(entry: dict[str, Any]) -> Site:
    total = int(entry["total"])
    kept = int(entry.get("kept", total))
    if not 0 <= kept <= total:
        raise ValueError(f"{entry['name']} keeps {kept} of {total}")
    return Site(str(entry["name"]), tuple(int(side) for side in entry.get("shape") or ()), total, kept)


def _config(path: Path) -> tuple[str, dict[str, Any]]:
    """The text of the configuration and its values; ("", {}) when the run wrote none."""
    if not path.is_file():
        return "", {}
    try:
        text = path.read_text(encoding="utf-8")
        values = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"The configuration {str(path)!r} is not valid YAML: {error}.") from error
    if values is not None and not isinstance(values, dict):
        raise UserError(f"The configuration {str(path)!r} must hold keys and values, got {type(values).__name__}.")
    return text, values or {}


def _metrics(path: Path, *, required: bool) -> pd.DataFrame:
    """The metrics table; empty while an unfinished run has written nothing."""
    if not path.is_file() and required:
        raise UserError(f"The finished run {str(path.parent)!r} has no metrics file {str(path)!r}.")
    if not path.is_file() or (path.stat().st_size == 0 and not required):
        return pd.DataFrame(columns=list(METRIC_COLUMNS))
    try:
        table = pd.read_csv(path, encoding="utf-8", skip_blank_lines=True, index_col=False)
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise UserError(f"The metrics file {str(path)!r} is damaged: {str(error).strip()}.") from error
    known = [name for name in METRIC_COLUMNS if name in table.columns]
    if not known:
        raise UserError(f"The metrics file {str(path)!r} has none of the columns {', '.join(METRIC_COLUMNS)}.")
    return _numeric(path, table.reindex(columns=list(METRIC_COLUMNS)))


def _numeric(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    for name in METRIC_COLUMNS[1:]:
        values = pd.to_numeric(table[name], errors="coerce")
        bad = table[name].notna() & values.isna()
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise UserError(
                f"The metrics file {str(path)!r} has {name} = {str(table[name].iloc[row])!r} in line {row + 2}; "
                "a number is needed."
            )
        table[name] = values.replace([np.inf, -np.inf], np.nan)
    table["phase"] = table["phase"].fillna("train").astype(str)
    return table
