"""What the commands of `decompose` share: named options, reading index files and images, writing results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_relu.cli.common import emit, load_dataset, model_facts
from keras_relu.errors import UserError
from keras_relu.files import write_json

if TYPE_CHECKING:
    from keras_relu.data import Dataset
    from keras_relu.decomposition.tables import FilterTable

__all__ = [
    "Indices",
    "OptionalDataset",
    "Repetitions",
    "Save",
    "SplitName",
    "TopK",
    "WholeTrain",
    "data_record",
    "dataset_name",
    "exact",
    "finish",
    "load_images",
    "parse_sizes",
    "read_tables",
    "survivors",
]

OptionalDataset = Annotated[
    str | None, typer.Option("--dataset", help="Default: what the index file or the model was made with.")
]
Indices = Annotated[list[str], typer.Option("--indices", "-i", help="Index file; repeatable.")]
TopK = Annotated[str, typer.Option(help="Filters per class, comma-separated: 5,10,20, or fractions of mass: 0.5.")]
Save = Annotated[str | None, typer.Option(help="Also write the result as JSON, for `decompose report`.")]
SplitName = Annotated[str, typer.Option("--split", help="test, validation or train.")]
WholeTrain = Annotated[float, typer.Option("--validation-fraction", help="Part of the training images left out.")]
Repetitions = Annotated[int, typer.Option(help="Independent draws of the noise.")]


def finish(kind: str, result: Mapping[str, Any], as_json: bool, save: str | None, lines: Iterable[Any]) -> None:
    """Write the result to `save`, then print it."""
    whole = {"kind": f"decompose-{kind}", **result}
    if save is not None:
        write_json(save, whole)
    emit(whole, as_json=as_json, lines=lines)


def parse_sizes(text: str) -> list[float]:
    """`"5,10,0.5"` as numbers, sorted."""
    try:
        numbers = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UserError(f"--top-k takes numbers separated by commas, received {text!r}.") from None
    from keras_relu.decomposition.selection import checked_sizes

    return list(checked_sizes(numbers))


def read_tables(paths: Sequence[str]) -> list[FilterTable]:
    """The index files behind the paths a user gave."""
    from keras_relu.decomposition.tables import expand_paths, read_table

    return [read_table(path) for path in expand_paths(paths)]


def dataset_name(given: str | None, tables: Sequence[FilterTable], model: str) -> str:
    """The data set asked for, or the one the index files or the model were made with."""
    recorded = [one.facts.get("dataset") for one in tables] + [model_facts(model).get("dataset")]
    name = given or next((entry for entry in recorded if entry), None)
    if name is None:
        raise UserError("Neither the index file nor the model says which data set it was made with; give --dataset.")
    return name


def load_images(
    name: str,
    data_dir: str | None,
    model: str | None,
    normalization: str | None,
    validation_fraction: float,
    *,
    seed: int,
    limit: int | None = None,
) -> Dataset:
    """The data set, normalised as asked, or else as the model was trained."""
    facts = model_facts(model) if model else {}
    options: dict[str, Any] = {"validation_fraction": validation_fraction, "seed": seed, "limit": limit}
    return load_dataset(name, data_dir, facts=facts, normalization=normalization, **options)


def data_record(images: Any, validation_fraction: float, limit: int | None) -> dict[str, Any]:
    """What a run records about its data."""
    return {
        "dataset": images.name,
        "normalization": images.normalization.name,
        "validation_fraction": validation_fraction,
        "limit": limit,
    }


def exact(value: float | None) -> str:
    """Six decimals, which tell small mutual informations apart."""
    return "-" if value is None else f"{value:.6f}"


def survivors(entry: Mapping[str, Any]) -> tuple[Any, str, str]:
    """(without noise, at the influential filters, at the others) as a table shows them."""
    groups = entry["groups"]
    texts = [
        f"{groups[name]['correct_mean']:,.0f} ({groups[name]['correct_std']:.0f})" for name in ("influential", "other")
    ]
    return groups["none"]["correct"], texts[0], texts[1]
