"""What several commands share: reading inputs, named options, printing for people and for machines."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_relu.cli.quiet import start_tensorflow
from keras_relu.config import load_yaml, merged
from keras_relu.errors import UserError
from keras_relu.files import read_json
from keras_relu.tflite import read_record

if TYPE_CHECKING:
    import tensorflow as tf
    import tf_keras as keras

    from keras_relu.data import Dataset

__all__ = [
    "BatchSize",
    "ConfiguredSeed",
    "DataChoice",
    "DataDir",
    "DatasetName",
    "Json",
    "Limit",
    "Model",
    "NormalizationName",
    "Output",
    "Overrides",
    "Resume",
    "Seed",
    "StrategyName",
    "Trusted",
    "ValidationFraction",
    "chosen_seed",
    "emit",
    "load_dataset",
    "load_keras",
    "merged",
    "model_facts",
    "overrides",
    "strategy_for",
    "table",
]

Model = Annotated[str, typer.Argument(help="A run directory, a .keras file, a SavedModel directory or a .tflite file.")]
DatasetName = Annotated[str, typer.Option("--dataset", help="digits, cifar10, cifar100, mnist, tiny_imagenet, ...")]
DataDir = Annotated[str | None, typer.Option("--data-dir", help="Folder that holds the data set's files.")]
NormalizationName = Annotated[
    str | None, typer.Option("--normalization", help="Preset; default: the model's, else the data set's.")
]
ValidationFraction = Annotated[float, typer.Option(help="Part of the training images kept aside for choices.")]
Limit = Annotated[int | None, typer.Option(help="Use at most so many training images.")]
Output = Annotated[str, typer.Option("--output", "-o", help="Where the result goes; it must not exist.")]
Seed = Annotated[int, typer.Option(help="Seed of the data split, data order, augmentation and initial weights.")]
ConfiguredSeed = Annotated[
    int | None, typer.Option("--seed", help="As elsewhere; default: the seed of the configuration file, or 0.")
]
BatchSize = Annotated[int, typer.Option("--batch-size", help="Global batch, over all replicas.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an unfinished run in --output, or start it.")]
StrategyName = Annotated[str, typer.Option("--strategy", help="auto, one, mirrored or multiworker.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]
Trusted = Annotated[bool, typer.Option("--trusted", help="Allow code stored in the model (.h5, Lambda) to run.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Any setting as key=value, nested keys with dots; repeatable.")
]


_LOG_WIDTH = 240


def emit(value: Mapping[str, Any], *, as_json: bool, lines: Iterable[Any] = ()) -> None:
    """Print `value` as one JSON object, or `lines` (text and rich tables) for a person."""
    if as_json:
        json.dump(value, sys.stdout, indent=2, allow_nan=False)
        sys.stdout.write("\n")
        return
    from rich.console import Console

    # Off a terminal nothing may be cut off: scripts and logs read it.
    console = Console(width=None if sys.stdout.isatty() else _LOG_WIDTH, highlight=False)
    for line in lines:
        console.print(line)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> Any:
    """A rich table; numbers are right-aligned with thousands separators."""
    from rich import box
    from rich.table import Table

    rows = [list(row) for row in rows]
    made = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], int | float | None) for row in rows)
        made.add_column(column, justify="right" if numeric else "left", no_wrap=numeric)
    for row in rows:
        made.add_row(*(_cell(value) for value in row))
    return made


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def overrides(pairs: Sequence[str] | None, *, option: str = "--set") -> dict[str, Any]:
    """`["search.epochs=6"]` as `{"search": {"epochs": 6}}`; values are read as YAML scalars.

    Args:
        option: what a message calls such a pair.

    Raises:
        UserError: an entry without `=` or without a key.
    """
    import yaml

    result: dict[str, Any] = {}
    for pair in pairs or ():
        key, separator, text = pair.partition("=")
        if not separator or not key.strip():
            raise UserError(f"{option} needs key=value, received {pair!r}.")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        for part in reversed(key.strip().split(".")):
            value = {part: value}
        result = merged(result, value)
    return result


def model_facts(path: str) -> dict[str, Any]:
    """What the run or export behind a model path recorded about it (arch, normalization, ...); {} when nothing."""
    if Path(path).suffix == ".tflite" and Path(path).is_file():
        return read_record(path) or {}
    for name in ("result.json", "keras_relu.json"):
        file = Path(path) / name
        if file.is_file():
            record = read_json(file, "record of the model")
            return record if isinstance(record, dict) else {}
    return {}


def load_keras(path: str, *, trusted: bool = False) -> keras.Model:
    """The Keras model behind a path given by the user."""
    start_tensorflow()
    from keras_relu.runs import load_model

    return load_model(path, trusted=trusted)


def load_dataset(
    name: str,
    data_dir: str | None,
    *,
    facts: Mapping[str, Any] | None = None,
    normalization: str | None = None,
    validation_fraction: float = 0.1,
    seed: int = 0,
    limit: int | None = None,
) -> Dataset:
    """The data set, normalised as asked, or else as the model was trained."""
    if data_dir is not None and not Path(data_dir).exists():
        raise UserError(f"The data folder {data_dir!r} does not exist.")
    start_tensorflow()
    from keras_relu import data

    return data.load(
        name,
        data_dir=data_dir,
        validation_fraction=validation_fraction,
        seed=seed,
        normalization=normalization or (facts or {}).get("normalization"),
        limit=limit,
    )


@dataclass(frozen=True)
class DataChoice:
    """What a command was told about its images, in the order of `load_dataset`'s arguments."""

    name: str
    data_dir: str | None
    normalization: str | None
    validation_fraction: float
    seed: int
    limit: int | None

    def load(self, facts: Mapping[str, Any] | None = None) -> Dataset:
        """The data set; see `load_dataset`."""
        return load_dataset(
            self.name,
            self.data_dir,
            facts=facts,
            normalization=self.normalization,
            validation_fraction=self.validation_fraction,
            seed=self.seed,
            limit=self.limit,
        )

    def record(self, images: Dataset) -> dict[str, Any]:
        """What a run's configuration keeps of the choice; the folder may differ when the run is resumed elsewhere."""
        return {
            "dataset": images.name,
            "normalization": images.normalization.name,
            "validation_fraction": self.validation_fraction,
            "limit": self.limit,
        }


def chosen_seed(seed: int | None, config: str | None) -> int:
    """`--seed` where it was given, else the `seed` of the configuration file, else 0; it also divides the images.

    Raises:
        UserError: the file cannot be read, or its seed is no whole number from 0.
    """
    value = seed if seed is not None else (load_yaml(config) if config else {}).get("seed", 0)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise UserError(f"seed: a whole number from 0 is needed, received {value!r}.")
    return value


def strategy_for(name: str) -> tf.distribute.Strategy | None:
    """The distribution strategy called `name`."""
    start_tensorflow()
    from keras_relu.training.strategy import get_strategy

    return get_strategy(name)
