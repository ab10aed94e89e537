"""layers, compare."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from keras_relu.cli.common import (
    DataDir,
    DatasetName,
    Json,
    Model,
    NormalizationName,
    Seed,
    Trusted,
    ValidationFraction,
    emit,
    load_dataset,
    load_keras,
    model_facts,
    table,
)
from keras_relu.errors import UserError
from keras_relu.files import existing_file, write_json, write_text

__all__ = ["SPLITS", "listed", "one_of", "refuse_used", "register", "shared_facts"]

SPLITS = ("test", "validation", "train")
_IMAGES = 2000


def layers(
    model: Annotated[str, typer.Argument(help="A model as for every command, or an architecture of `models list`.")],
    valid: Annotated[bool, typer.Option("--valid", help="List valid cuts only.")] = False,
    trusted: Trusted = False,
    json: Json = False,
) -> None:
    """List the layers of a network, and at which it can be cut in two."""
    from keras_relu import models, splitting

    if not Path(model).exists() and model not in models.list_models():
        raise UserError(
            f"{model!r} is neither a model's path nor an architecture; `keras-relu models list` has the architectures."
        )
    network = load_keras(model, trusted=trusted) if Path(model).exists() else models.build(model, seed=None)
    places = [place for place in splitting.cuts(network) if place.valid or not valid]
    facts: list[dict[str, Any]] = [
        {
            "name": place.name,
            "original_name": splitting.original_name(place.name),
            "type": place.layer_type,
            "shape": list(place.shape),
            "valid_cut": place.valid,
            "reason": place.reason or None,
            "bypass": list(place.bypass) if place.bypass else None,
        }
        for place in places
    ]
    keys = ("name", "original_name", "type")
    rows = [
        (*(f[key] for key in keys), "x".join(map(str, f["shape"])), "yes" if f["valid_cut"] else f["reason"])
        for f in facts
    ]
    count = sum(place.valid for place in places)
    lines = [table(("layer", "original", "type", "shape", "valid cut"), rows), f"{count} valid cuts"]
    emit({"model": model, "layers": facts, "valid_cuts": count}, as_json=json, lines=lines)


def compare(
    a: Model,
    b: Annotated[str, typer.Argument(help="The other network: another seed, or a reduced one.")],
    dataset: DatasetName,
    data_dir: DataDir = None,
    layers: Annotated[str, typer.Option(help="all, sites, cuts, names, patterns, or pairs x:y; commas.")] = "sites",
    measures: Annotated[str, typer.Option(help="Comma-separated; see `keras_relu.similarity`.")] = "cka",
    images: Annotated[
        int | None, typer.Option(help="So many images of the split; default: 2,000 where it has them.")
    ] = None,
    null: Annotated[str | None, typer.Option(help="permutation: what unrelated layers would have.")] = None,
    permutations: Annotated[int, typer.Option(help="Random permutations for measures other than CKA.")] = 20,
    bootstrap: Annotated[int, typer.Option(help="Replicates for standard errors.")] = 0,
    split: Annotated[str, typer.Option(help="test, validation or train.")] = "test",
    output: Annotated[str | None, typer.Option("--output", "-o", help="New folder for report and numbers.")] = None,
    normalization: NormalizationName = None,
    validation_fraction: ValidationFraction = 0.1,
    seed: Seed = 0,
    trusted: Trusted = False,
    json: Json = False,
) -> None:
    """Similarity of two networks layer by layer, and where they part; a baseline and its reduced version for example."""
    one_of("split", split, SPLITS)
    if null is not None:
        one_of("null", null, ("permutation",))
    refuse_used(output)
    facts = shared_facts([a, b], normalization)
    from keras_relu import similarity, stitching

    wanted = listed(measures)
    for name in wanted:
        similarity.get_measure(name)
    data = load_dataset(dataset, data_dir, facts=facts, validation_fraction=validation_fraction, seed=seed)
    networks = [load_keras(path, trusted=trusted) for path in (a, b)]
    comparison = stitching.compare(
        networks[0],
        networks[1],
        getattr(data, split),
        data.normalization,
        layers=listed(layers),
        measures=wanted,
        images=min(_IMAGES, getattr(data, split).size) if images is None else images,
        null=null is not None,
        permutations=permutations,
        bootstrap=bootstrap,
        seed=seed,
        names=_names(a, b),
    )
    described = {**comparison.to_dict(), "dataset": dataset, "split": split, "normalization": data.normalization.name}
    written = _write_comparison(comparison, described, output) if output else []
    _show_comparison(comparison, {**described, "report": written}, json)


def _write_comparison(comparison: Any, described: Mapping[str, Any], output: str) -> list[str]:
    import pandas as pd

    from keras_relu.report.similarity import comparison_report

    folder = Path(output)
    write_json(folder / "compare.json", described)
    write_text(folder / "compare.csv", pd.DataFrame(list(comparison.rows())).to_csv(index=False))
    facts = {
        "Dataset": f"{described['dataset']}, {described['split']} split",
        "Normalisation": described["normalization"],
    }
    return [str(path) for path in comparison_report(described, folder, **facts)]


def _show_comparison(comparison: Any, described: Mapping[str, Any], json: bool) -> None:
    rows = list(comparison.rows())
    keys = ("layer_a", "layer_b", "measure", "value", "error", "null_mean", "null_std")
    lines: list[Any] = [table(keys, [[row[key] for key in keys] for row in rows])] if rows else []
    if not rows:
        lines.append("no layers of the same name; the full tables are in --json and --output")
    reasons = dict.fromkeys(f"{row['measure']} at {row['layer_a']}: {row['reason']}" for row in rows if row["reason"])
    lines += [*reasons, *(part["sentence"] for part in described["parting"].values())]
    lines += [f"wrote {path}" for path in described["report"]]
    emit(described, as_json=json, lines=lines)


def _names(a: str, b: str) -> tuple[str, str]:
    """What the report calls both networks: the last part of their paths where it tells them apart."""
    short = Path(a).name, Path(b).name
    return short if short[0] != short[1] else (a, b)


def shared_facts(paths: list[str], normalization: str | None) -> dict[str, Any]:
    """{"normalization": ...} that all networks were trained with, or the one that was asked for.

    Raises:
        UserError: a path that is missing, or networks with different normalizations when none was asked for.
    """
    recorded = {}
    for path in paths:
        existing_file(path, "model")
        recorded[path] = model_facts(path).get("normalization")
    if normalization:
        return {"normalization": normalization}
    known = {name for name in recorded.values() if name}
    if len(known) > 1:
        found = ", ".join(f"{path}: {name}" for path, name in recorded.items())
        raise UserError(
            f"The networks were trained with different normalizations ({found}); choose one: --normalization."
        )
    return {"normalization": known.pop()} if known else {}


def refuse_used(output: str | None) -> None:
    """Refuse an output folder that holds something already."""
    if output is not None and Path(output).exists() and (Path(output).is_file() or any(Path(output).iterdir())):
        raise UserError(f"{output!r} exists; choose a new folder for --output.")


def listed(text: str) -> list[str]:
    """The parts of a comma-separated option."""
    return [part.strip() for part in text.split(",") if part.strip()]


def one_of(kind: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse an option's value that is not in a list."""
    if value not in allowed:
        raise UserError(f"Unknown {kind} {value!r}. Allowed: {', '.join(sorted(allowed))}.")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(layers)
    app.command()(compare)
