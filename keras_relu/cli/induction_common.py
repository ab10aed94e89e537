"""Named options and printing that the commands of `induce` share; nothing here imports TensorFlow."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_relu.cli.common import load_dataset, table
from keras_relu.errors import UserError

if TYPE_CHECKING:
    from keras_relu.data import Dataset
    from keras_relu.induction.config import ClusterConfig

__all__ = [
    "AssociationName",
    "BnImages",
    "CacheDir",
    "Cap",
    "Constants",
    "EnergyImages",
    "MappingFile",
    "OptionalModel",
    "Polarity",
    "Preset",
    "Prototypes",
    "SelectionName",
    "Ties",
    "cluster_settings",
    "find_assignment",
    "images_of",
    "parse_prototypes",
    "plan_lines",
    "progress_lines",
]

MappingFile = Annotated[str, typer.Option("--mapping", "-m", help="JSON or YAML: {inducer: [site, ...]}.")]
Prototypes = Annotated[
    str | None, typer.Option("--prototypes", "-k", help="K, one number or one per inducer: 1000 or '1000 500'.")
]
Preset = Annotated[str, typer.Option(help="default (the improved recipe) or original.")]
SelectionName = Annotated[str | None, typer.Option("--selection", help="fps, random or kmodes.")]
AssociationName = Annotated[str | None, typer.Option("--association", help="energy or hamming.")]
Polarity = Annotated[
    bool | None, typer.Option("--polarity/--no-polarity", help="Complements of prototypes may be borrowed.")
]
Constants = Annotated[bool | None, typer.Option("--constants/--no-constants", help="Gates may be constant.")]
Ties = Annotated[str | None, typer.Option(help="self: a prototype borrows from itself; lowest: from the first equal.")]
EnergyImages = Annotated[int | None, typer.Option(help="Images of the energy sums, at most those of the cache.")]
CacheDir = Annotated[str, typer.Argument(help="Folder of `induce cache`.")]
OptionalModel = Annotated[str | None, typer.Option("--model", help="Default: the model the cache was made of.")]
Cap = Annotated[str, typer.Option(help="What becomes of the bound of induced ReLU6 sites: drop or keep.")]
BnImages = Annotated[
    int | None, typer.Option("--bn-images", help="Images for the re-estimation of batch normalisation; 0 = none.")
]


def parse_prototypes(text: str | None) -> list[int] | int | None:
    """`"1000 500"` or `"1000,500"` as numbers; one number stands for all inducers."""
    if text is None:
        return None
    try:
        numbers = [int(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise UserError(f"--prototypes takes whole numbers, received {text!r}.") from None
    if not numbers:
        raise UserError("--prototypes needs at least one number.")
    return numbers[0] if len(numbers) == 1 else numbers


def cluster_settings(preset: str, given: Mapping[str, Any]) -> ClusterConfig:
    """The preset's settings of clustering with those that were given on top."""
    from keras_relu.induction.config import ClusterConfig
    from keras_relu.induction.config import preset as named

    base = {key: value for key, value in named(preset).items() if key in ClusterConfig.model_fields}
    return ClusterConfig.parse({**base, **{key: value for key, value in given.items() if value is not None}})


def images_of(header: Mapping[str, Any], data_dir: str | None) -> Dataset:
    """The images that a cache was written with."""
    choice: dict[str, Any] = {key: header.get(key) for key in ("normalization", "validation_fraction", "limit")}
    return load_dataset(header["dataset"], data_dir, seed=header.get("data_seed", 0), **choice)


def plan_lines(facts: Mapping[str, Any]) -> list[Any]:
    """The table of a described plan."""
    keys = ("comparisons_before", "comparisons")
    rows = [
        (row["site"], "x".join(map(str, row["shape"])), row["role"], row["inducer"] or "", *(row[key] for key in keys))
        for row in facts["sites"]
    ]
    left, before = facts["comparisons"], facts["comparisons_before"]
    total = f"{left:,} of {before:,} comparisons ({100 * facts['comparison_fraction']:.2f} %)"
    return [table(("site", "shape", "role", "inducer", "before", "left"), rows), total]


def progress_lines(as_json: bool) -> Callable[[str], None]:
    """A function that prints a line of progress on standard error, or nothing when a machine reads along."""

    def say(text: str) -> None:
        if not as_json:
            print(text, file=sys.stderr, flush=True)

    return say


def find_assignment(path: str) -> Path:
    """The assignment behind a path: the file itself, or the only one in a cache folder."""
    found = Path(path)
    if found.is_file():
        return found
    if not found.is_dir():
        raise UserError(f"The assignment {path!r} does not exist; write one with `induce cluster`.")
    files = sorted(found.glob("*_K*.npz"))
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise UserError(f"{path!r} must hold one assignment, it holds {names}; name the file.")
    return files[0]
