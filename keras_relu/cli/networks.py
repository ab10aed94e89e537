"""models list, models show, convert, count."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from keras_relu.cli.common import Json, Model, NormalizationName, Output, Trusted, emit, load_keras, table
from keras_relu.cli.quiet import start_tensorflow
from keras_relu.errors import UserError
from keras_relu.files import existing_file

__all__ = ["register"]

_models = typer.Typer(no_args_is_help=True, help="The registered network architectures.")


@_models.command("list")
def list_(
    pattern: Annotated[str, typer.Argument(help="Shell pattern, such as 'resnet*'.")] = "*", json: Json = False
) -> None:
    """List architectures with parameters, MACs and ReLUs."""
    start_tensorflow()
    from keras_relu import models

    names = models.list_models(pattern)
    if not names:
        raise UserError(f"No architecture matches {pattern!r}; there are {', '.join(models.list_models())}.")
    rows = [models.describe(name) for name in names]
    columns = ("name", "family", "parameters", "macs", "relu_count")
    short = [{key: row[key] for key in columns} | {"sites": len(row["sites"])} for row in rows]
    emit({"models": short}, as_json=json, lines=[table([*columns, "sites"], [list(row.values()) for row in short])])


@_models.command("show")
def show(
    name: Annotated[str, typer.Argument(help="Name of an architecture, see `models list`.")],
    classes: Annotated[int | None, typer.Option(help="Number of classes.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Height and width of the images.")] = None,
    json: Json = False,
) -> None:
    """Show one architecture site by site."""
    start_tensorflow()
    from keras_relu import models

    shape = None if image_size is None else (image_size, image_size, 3)
    facts = models.describe(name, classes=classes, input_shape=shape)
    emit(facts, as_json=json, lines=_summary(facts))


def _summary(facts: dict[str, Any]) -> list[Any]:
    heads = ("input_shape", "classes", "parameters", "trainable_parameters", "macs", "relu_count")
    rows = [(site["name"], "x".join(map(str, site["shape"])), site["relu_count"]) for site in facts["sites"]]
    head = table(
        ("", facts["name"]), [(key, f"{facts[key]:,}" if isinstance(facts[key], int) else facts[key]) for key in heads]
    )
    return [head, table(("site", "shape", "ReLUs"), rows)]


def convert(
    checkpoint: Annotated[str, typer.Argument(help="PyTorch weights: .th, .pt or .pth.")],
    arch: Annotated[str, typer.Option(help="Architecture the weights belong to, see `models list`.")],
    output: Output,
    classes: Annotated[int | None, typer.Option(help="Number of classes, if not the architecture's default.")] = None,
    normalization: NormalizationName = None,
    json: Json = False,
) -> None:
    """Read PyTorch weights into a model that every other command takes (extra: torch)."""
    existing_file(checkpoint, "checkpoint")
    _refuse_existing(output)
    start_tensorflow()
    from keras_relu import counting, data
    from keras_relu.models.torch_weights import convert as read
    from keras_relu.runs import Run

    if normalization:
        data.get_normalization(normalization)
    model = read(checkpoint, arch, classes=classes)
    config = {"checkpoint": Path(checkpoint).name, "arch": arch, "classes": model.output_shape[-1], "seed": 0}
    run = Run.create(output, config=config, stage="convert")
    run.save_model(model)
    counts = counting.count(model)
    facts = {"arch": arch, "relu_count": counts.relu_count, "parameters": counts.parameters}
    result = run.finish(facts | ({"normalization": normalization} if normalization else {}))
    emit(
        {"output": output, **{key: result[key] for key in facts}},
        as_json=json,
        lines=[f"{output}: {arch}, {counts.parameters:,} parameters, {counts.relu_count:,} ReLUs"],
    )


def _refuse_existing(output: str) -> None:
    path = Path(output)
    if path.exists() and (path.is_file() or any(path.iterdir())):
        raise UserError(f"{output!r} exists; choose a new directory for --output.")


def count(
    model: Model,
    convention: Annotated[str, typer.Option(help="Counting convention; the output names and explains it.")] = "relu",
    trusted: Trusted = False,
    json: Json = False,
) -> None:
    """Count ReLUs, comparisons, polynomials and multiply-accumulates, per site and in total."""
    existing_file(model, "model")
    start_tensorflow()
    from keras_relu import counting

    counts = counting.count(load_keras(model, trusted=trusted), convention=convention)
    facts = counts.to_dict()
    rows = [
        (s.name, "x".join(map(str, s.shape)), s.relu_count, s.comparison_count, s.polynomial_count)
        for s in counts.sites
    ]
    totals = ("relu_count", "comparison_count", "macs", "parameters", "trainable_parameters")
    emit(
        facts,
        as_json=json,
        lines=[
            table(("site", "shape", "ReLUs", "comparisons", "polynomials"), rows),
            table(("total", ""), [(key, facts[key]) for key in totals]),
            f"convention {convention}: {counting.CONVENTIONS[convention]}",
            *(f"note: {note}" for note in counts.notes),
        ],
    )


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(_models, name="models")
    app.command()(convert)
    app.command()(count)
