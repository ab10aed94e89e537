"""stitch train, stitch match, stitch evaluate, stitch grid."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_relu.cli.common import (
    ConfiguredSeed,
    DataChoice,
    DataDir,
    DatasetName,
    Json,
    Limit,
    NormalizationName,
    Output,
    Overrides,
    Resume,
    Seed,
    StrategyName,
    Trusted,
    ValidationFraction,
    chosen_seed,
    emit,
    load_dataset,
    load_keras,
    merged,
    overrides,
    strategy_for,
    table,
)
from keras_relu.cli.similarity import SPLITS, listed, one_of, refuse_used, shared_facts
from keras_relu.config import load_yaml
from keras_relu.errors import UserError
from keras_relu.files import existing_file, write_json, write_text

if TYPE_CHECKING:
    import tensorflow as tf
    import tf_keras as keras

__all__ = ["register"]

_stitch = typer.Typer(no_args_is_help=True, help="Join the front of one network to the back of another.")

Every = Annotated[int, typer.Option(help="Steps between checkpoints; 0 = at the end of each epoch.")]
ConfigFile = Annotated[str | None, typer.Option("--config", help="YAML file with settings; options given here win.")]


@_stitch.command("train")
def train(
    front: Annotated[str, typer.Argument(help="The network whose front is used.")],
    end: Annotated[str, typer.Argument(help="The network whose back is used.")],
    front_layer: Annotated[str, typer.Argument(help="Where the front ends; see `layers`.")],
    end_layer: Annotated[str, typer.Argument(help="Behind which layer the back begins.")],
    dataset: DatasetName,
    output: Output,
    data_dir: DataDir = None,
    init: Annotated[str | None, typer.Option("--init", "-i", help="random, perm, eye, ps_inv, ones-zeros.")] = None,
    mask: Annotated[str | None, typer.Option("--mask", "-m", help="identity, semi-match, optimal-match, ...")] = None,
    target: Annotated[str | None, typer.Option(help="hard, soft_1, soft_2, soft_12, soft_1_plus_2.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Of soft targets.")] = None,
    rank: Annotated[int | None, typer.Option("--rank", "-r", help="Bound of the rank of the map.")] = None,
    flatten: Annotated[bool, typer.Option("--flatten", "-f", help="One dense map between whole maps.")] = False,
    resize: Annotated[str | None, typer.Option(help="bilinear, nearest or area, for maps of unequal size.")] = None,
    l1: Annotated[float | None, typer.Option(help="Weight of the mean of |W|.")] = None,
    cka_weight: Annotated[float | None, typer.Option("--cka-weight", help="Weight of 1 - CKA.")] = None,
    fit_split: Annotated[str | None, typer.Option(help="Images of least squares: train, augmented, ...")] = None,
    direct: Annotated[str | None, typer.Option(help="Also match activations directly: mse or cka.")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", "-e", help="Passes over the training images.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", "-b", help="Over all replicas.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", "--learning-rate", help="Divided by 10 at 1/3 and 2/3.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="L2 on the map.")] = None,
    config: ConfigFile = None,
    set_: Overrides = None,
    normalization: NormalizationName = None,
    validation_fraction: ValidationFraction = 0.1,
    limit: Limit = None,
    seed: ConfiguredSeed = None,
    strategy: StrategyName = "auto",
    checkpoint_every: Every = 200,
    trusted: Trusted = False,
    resume: Resume = False,
    json: Json = False,
) -> None:
    """Train the map between two networks, match it directly too, and report both readings; writes a run directory."""
    seed = chosen_seed(seed, config)
    given = {
        **{"init": init, "mask": mask, "target": target, "temperature": temperature, "rank": rank, "resize": resize},
        **{"l1": l1, "cka_weight": cka_weight, "fit_split": fit_split, "epochs": epochs, "batch_size": batch_size},
        **{"learning_rate": lr, "weight_decay": weight_decay, "seed": seed, "flatten": flatten or None},
        "direct": {"loss": direct} if direct else None,
    }
    job = _Job(front, end, front_layer, end_layer, shared_facts([front, end], normalization), trusted)
    settings = merged(load_yaml(config) if config else {}, {k: v for k, v in given.items() if v is not None})
    choice = DataChoice(dataset, data_dir, normalization, validation_fraction, seed, limit)
    result = _train(
        job,
        output,
        merged(settings, overrides(set_)),
        choice,
        resume=resume,
        strategy=strategy_for(strategy),
        checkpoint_every=checkpoint_every,
        progress=not json,
    )
    _show_stitching(output, result, json)


@dataclass(frozen=True)
class _Job:
    """The two networks and layers a user named; `facts` is what the networks recorded about their images."""

    front: str
    end: str
    front_layer: str
    end_layer: str
    facts: Mapping[str, Any]
    trusted: bool

    def networks(self) -> list[keras.Model]:
        return [load_keras(path, trusted=self.trusted) for path in (self.front, self.end)]

    def record(self) -> dict[str, str]:
        paths = {"front_path": self.front, "end_path": self.end}
        return {**paths, "front_layer": self.front_layer, "end_layer": self.end_layer}


def _train(
    job: _Job,
    output: str,
    settings: dict[str, Any],
    choice: DataChoice,
    *,
    resume: bool,
    strategy: tf.distribute.Strategy | None,
    checkpoint_every: int,
    progress: bool,
) -> dict[str, Any]:
    from keras_relu import stitching
    from keras_relu.runs import Run
    from keras_relu.training.strategy import is_chief

    checked = stitching.StitchConfig.parse(settings)
    images = choice.load(job.facts)
    networks = job.networks()
    record = {**checked.to_dict(), **job.record(), **choice.record(images), "data_seed": images.seed}
    chief = is_chief(strategy)
    run = Run.create(output, config=record, stage="stitch", parent=job.front, resume=resume, chief=chief)
    facts = {**job.record(), "front": Path(job.front).name, "end": Path(job.end).name}
    facts["command"] = shlex.join(["keras-relu", *sys.argv[1:]])
    with run.withdrawn_if_refused():
        made = stitching.stitch(
            networks[0],
            networks[1],
            job.front_layer,
            job.end_layer,
            images,
            checked,
            run=run,
            resume=resume,
            strategy=strategy,
            checkpoint_every=checkpoint_every,
            progress=progress,
            facts=facts,
        )
    if chief:
        _write_report(run.path)
    return made.result


def _show_stitching(output: str, result: Mapping[str, Any], json: bool) -> None:
    written = [str(Path(output) / name) for name in ("report.html", "report.pdf")]
    heads = ("accuracy", "correct", "loss", "relative_accuracy", "crossentropy", "same_class", "cka", "l2")
    readings = result["readings"]
    rows = [(name, *(reading.get(key) for key in heads)) for name, reading in readings.items()]
    fit, before = result["fit"], result["layer"]
    lines = [
        table(("map or network", *heads), rows, title=f"{result['front_layer']} to {result['end_layer']}"),
        f"before any map: CKA {_digits(before['cka'])}, l2 {_digits(before['l2'])}",
        f"least squares fitted on {fit['images'] or 0:,} images of the split {fit['split']!r}; frozen halves unchanged",
        *(f"wrote {path}" for path in written),
    ]
    emit({"output": output, "report": written, **result}, as_json=json, lines=lines)


@_stitch.command("match")
def match(
    front: Annotated[str, typer.Argument(help="The network whose front is used.")],
    end: Annotated[str, typer.Argument(help="The network whose back is used.")],
    dataset: DatasetName,
    data_dir: DataDir = None,
    layers: Annotated[str, typer.Option(help="cuts, names, patterns, or pairs x:y; comma-separated.")] = "cuts",
    maps: Annotated[
        str, typer.Option(help="least_squares, orthogonal, identity, semi_match, optimal_match, ...; or all.")
    ] = "least_squares,orthogonal",
    ranks: Annotated[str, typer.Option(help="Also least squares of these ranks, comma-separated.")] = "",
    ridge: Annotated[float, typer.Option(help="Of the least squares, in units of the mean variance.")] = 0.0,
    fit_split: Annotated[str, typer.Option(help="Images of the fit: train, augmented, validation, test.")] = "train",
    fit_images: Annotated[int | None, typer.Option(help="At most so many of them.")] = None,
    cka_images: Annotated[int, typer.Option(help="Test images for CKA; 0 = no CKA.")] = 2000,
    output: Annotated[str | None, typer.Option("--output", "-o", help="New folder for report and numbers.")] = None,
    normalization: NormalizationName = None,
    validation_fraction: ValidationFraction = 0.1,
    limit: Limit = None,
    seed: Seed = 0,
    trusted: Trusted = False,
    json: Json = False,
) -> None:
    """Match activations directly, layer by layer, by maps that need no training; both readings of each."""
    one_of("fit split", fit_split, ("train", "augmented", "validation", "test"))
    refuse_used(output)
    sizes = _whole_numbers(ranks)
    facts = shared_facts([front, end], normalization)
    images = DataChoice(dataset, data_dir, normalization, validation_fraction, seed, limit).load(facts)
    networks = [load_keras(path, trusted=trusted) for path in (front, end)]
    from keras_relu import stitching

    found = stitching.match_layers(
        networks[0],
        networks[1],
        images,
        layers=listed(layers),
        names=None if maps == "all" else listed(maps),
        ranks=sizes,
        ridge=ridge,
        fit_split=fit_split,
        fit_images=fit_images,
        cka_images=cka_images,
        seed=seed,
        on_layer=None if json else lambda name: print(f"matching at {name} ...", file=sys.stderr),
    )
    fit = {"split": fit_split, "ridge": ridge, "cka_images": cka_images}
    described = {"front": front, "end": end, "dataset": dataset, "fit": fit, **found.to_dict()}
    _show_matching(described, _write_matching(described, output) if output else [], json)


def _write_matching(described: Mapping[str, Any], output: str) -> list[str]:
    import pandas as pd

    from keras_relu.report.similarity import match_report

    folder = Path(output)
    write_json(folder / "match.json", described)
    write_text(folder / "match.csv", pd.DataFrame(described["rows"]).to_csv(index=False))
    return [str(path) for path in match_report(described, folder)]


def _show_matching(described: Mapping[str, Any], written: list[str], json: bool) -> None:
    keys = (
        "front_layer",
        "end_layer",
        "map",
        "correct",
        "loss",
        "crossentropy",
        "same_class",
        "cka",
        "l2",
        "weight_norm",
    )
    rows = [[row[key] for key in keys] for row in described["rows"]]
    ends = ", ".join(f"{name} {value['correct']:,}" for name, value in described["networks"].items())
    lines = [table(keys, rows), f"the networks alone: {ends} right", *(f"wrote {path}" for path in written)]
    emit({**described, "report": written}, as_json=json, lines=lines)


@_stitch.command("evaluate")
def evaluate(
    run: Annotated[str, typer.Argument(help="A finished stitching run.")],
    dataset: Annotated[str | None, typer.Option(help="Default: the run's.")] = None,
    data_dir: DataDir = None,
    state: Annotated[str, typer.Option(help="after, before, least_squares or direct.")] = "after",
    split: Annotated[str, typer.Option(help="test, validation or train.")] = "test",
    json: Json = False,
) -> None:
    """Evaluate the stitched network of a run, with the map before or after training or in closed form."""
    one_of("split", split, SPLITS)
    existing_file(run, "run")
    from keras_relu.evaluate import evaluate as measure
    from keras_relu.runs import Run
    from keras_relu.stitching.saved import load_state

    made = Run.open(run)
    model = load_state(run, state)
    chosen = {key: made.config[key] for key in ("validation_fraction", "limit") if key in made.config}
    # The seed of a cell or of the settings is the map's; the images were divided by their own.
    seed = made.config.get("data_seed", made.config.get("seed", 0))
    images = load_dataset(dataset or made.result["dataset"], data_dir, facts=made.result, seed=seed, **chosen)
    measured = measure(model, getattr(images, split), images.normalization, classes=images.classes)
    result = {"run": run, "state": state, "split": split, **measured}
    line = (
        f"{state}: {measured['correct']:,} of {measured['total']:,} {split} images right: {measured['accuracy']:.2%}, "
    )
    emit(result, as_json=json, lines=[line + f"loss {measured['loss']:.4f}"])


@_stitch.command("grid")
def grid(
    config: Annotated[
        str, typer.Argument(help="YAML file: models, pairs, layers, inits, masks, targets, seeds, settings.")
    ],
    dataset: DatasetName,
    output: Annotated[str, typer.Option("--output", "-o", help="Folder of all runs; may hold finished ones.")],
    data_dir: DataDir = None,
    cell: Annotated[int | None, typer.Option(help="Run only this cell, from 0: one task of a Slurm array.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="Only list the cells and the command for Slurm.")] = False,
    normalization: NormalizationName = None,
    validation_fraction: ValidationFraction = 0.1,
    limit: Limit = None,
    strategy: StrategyName = "auto",
    checkpoint_every: Every = 200,
    trusted: Trusted = False,
    resume: Resume = False,
    json: Json = False,
) -> None:
    """Stitch all pairs of networks at all layers; finished runs are kept, so the command can be given again."""
    values = load_yaml(config)
    from keras_relu.stitching import grid as system

    checked = system.GridConfig.parse(values)
    facts = shared_facts(list(checked.models.values()), normalization)
    models = {name: load_keras(path, trusted=trusted) for name, path in checked.models.items()}
    planned = system.cells(checked, models)
    if list_:
        _list_cells([one.name for one in planned], (config, dataset, output), json)
        return
    if Path(output).exists() and any(Path(output).iterdir()) and not resume and cell is None:
        raise UserError(f"{output!r} exists; pass --resume to go on with the grid there, or choose a new folder.")
    choice = DataChoice(dataset, data_dir, normalization, validation_fraction, 0, limit)
    images = choice.load(facts)
    refused = system.run_cells(
        planned if cell is None else [planned[_in_range(cell, len(planned))]],
        checked,
        models,
        images,
        output,
        resume=resume or cell is not None,
        record={**choice.record(images), "data_seed": images.seed},
        on_done=lambda run: _write_report(run.path),
        strategy=strategy_for(strategy),
        checkpoint_every=checkpoint_every,
        progress=not json,
    )
    _show_grid(system.collect(output, planned, refused), output, refused, json)


def _list_cells(names: list[str], job: tuple[str, str, str], json: bool) -> None:
    config, dataset, output = (shlex.quote(part) for part in job)
    command = f"sbatch --array=0-{len(names) - 1} submission/array.sh stitch grid {config} --dataset {dataset} "
    command += f"--output {output} --resume"
    emit({"cells": names, "slurm": command}, as_json=json, lines=[table(("", "run"), enumerate(names)), command])


def _show_grid(frame: Any, output: str, refused: Mapping[str, str], json: bool) -> None:
    from keras_relu.report.similarity import grid_report

    report = [str(path) for path in grid_report(frame, output)]
    keys = ["front", "end", "front_layer", "init", "mask", "target", "accuracy", "relative_accuracy", "cka", "l2"]
    keys += ["least_squares_accuracy", "least_squares_cka"]
    records = frame.astype(object).where(frame.notna(), None).to_dict("records")
    lines: list[Any] = [table(keys, [[record[key] for key in keys] for record in records])]
    lines += [f"refused {name}: {reason}" for name, reason in refused.items()]
    lines += [f"wrote {path}" for path in report]
    whole = {"output": output, "report": report, "cells": records, "refused": dict(refused)}
    emit(whole, as_json=json, lines=lines)


def _write_report(folder: Path) -> None:
    from keras_relu.report.similarity import stitch_report

    stitch_report(folder)


def _whole_numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in listed(text)]
    except ValueError:
        raise UserError(f"--ranks takes whole numbers separated by commas, received {text!r}.") from None


def _in_range(cell: int, count: int) -> int:
    if not 0 <= cell < count:
        raise UserError(f"--cell is {cell}, the grid has {count} cells, numbered from 0.")
    return cell


def _digits(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(_stitch, name="stitch")
