"""What the commands of `decompose` share: named options, reading index files and images, writing results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_relu.cli.common import emit, model_facts
from keras_relu.errors import UserError
from keras_relu.files import read_json, write_json

if TYPE_CHECKING:
    from keras_relu.decomposition.tables import FilterTable

__all__ = [
    "Indices",
    "OptionalDataset",
    "Overwrite",
    "Repetitions",
    "Save",
    "SplitName",
    "TopK",
    "WholeTrain",
    "check_save",
    "check_targets",
    "dataset_name",
    "exact",
    "finish",
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
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing index files.")]


def check_save(save: str | None) -> None:
    """Refuse, before any work, a `--save` that would destroy something else than an earlier result."""
    if save is None or not Path(save).exists():
        return
    earlier = read_json(save, "file to --save to") if Path(save).is_file() else None
    if not (isinstance(earlier, dict) and str(earlier.get("kind")).startswith("decompose-")):
        raise UserError(
            f"{str(save)!r} exists and is no earlier result of `decompose`; choose another name for --save."
        )


def check_targets(targets: Iterable[Path], *, overwrite: bool) -> None:
    """Refuse, before any work, index files that exist already, unless they may be replaced."""
    for target in targets:
        if target.is_dir():
            raise UserError(f"{str(target)!r} is a directory; an index file is needed as --output.")
        if target.exists() and not overwrite:
            raise UserError(f"{str(target)!r} exists; choose another --output, or pass --overwrite.")


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
