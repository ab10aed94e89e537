"""prune, quantize and sparsity."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from keras_relu.cli.common import (
    ConfiguredSeed,
    DataChoice,
    DataDir,
    DatasetName,
    Json,
    Limit,
    Model,
    NormalizationName,
    Output,
    Overrides,
    Resume,
    StrategyName,
    Trusted,
    ValidationFraction,
    chosen_seed,
    emit,
    load_keras,
    merged,
    model_facts,
    overrides,
    strategy_for,
    table,
)
from keras_relu.cli.quiet import start_tensorflow
from keras_relu.config import load_yaml
from keras_relu.files import existing_file

__all__ = ["register"]

ConfigFile = Annotated[str | None, typer.Option("--config", help="YAML file with settings; options given here win.")]
Epochs = Annotated[int | None, typer.Option(help="Passes over the training images.")]
StageBatch = Annotated[int | None, typer.Option("--batch-size", help="Global batch, over all replicas.")]
Rate = Annotated[float | None, typer.Option("--lr", "--learning-rate", help="Peak learning rate.")]
Exclude = Annotated[list[str] | None, typer.Option(help="Layer, or shell pattern, to leave out; repeatable.")]
Every = Annotated[
    int, typer.Option(help="Steps between checkpoints; 0 = after every epoch. A signal and the end always save.")
]


def prune(
    model: Model,
    dataset: DatasetName,
    output: Output,
    pointwise: Annotated[float | None, typer.Option(help="Sparsity of convolutions and dense layers.")] = None,
    depthwise: Annotated[float | None, typer.Option(help="Sparsity of depthwise convolutions.")] = None,
    include: Annotated[list[str] | None, typer.Option(help="Layer, or shell pattern, to prune; repeatable.")] = None,
    exclude: Exclude = None,
    ramp_epochs: Annotated[float | None, typer.Option(help="Epochs in which the sparsity rises.")] = None,
    epochs: Epochs = None,
    batch_size: StageBatch = None,
    lr: Rate = None,
    data_dir: DataDir = None,
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
    """Stage pruned: train on while weights are removed, depthwise kernels included; writes a run directory."""
    seed = chosen_seed(seed, config)
    given = {"pointwise_sparsity": pointwise, "depthwise_sparsity": depthwise, "include": include, "exclude": exclude}
    given |= {"ramp_epochs": ramp_epochs, "epochs": epochs, "batch_size": batch_size, "learning_rate": lr, "seed": seed}
    settings = _settings(model, config, given, set_)
    choice = DataChoice(dataset, data_dir, normalization, validation_fraction, seed, limit)
    options: dict[str, Any] = {
        "strategy": strategy,
        "trusted": trusted,
        "resume": resume,
        "checkpoint_every": checkpoint_every,
    }
    _run_stage("pruned", model, output, settings, choice=choice, json=json, **options)


def quantize(
    model: Model,
    dataset: DatasetName,
    output: Output,
    exclude: Exclude = None,
    epochs: Epochs = None,
    batch_size: StageBatch = None,
    lr: Rate = None,
    data_dir: DataDir = None,
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
    """Stage pqat: train with int8 rounding, every zero stays zero; writes a run directory."""
    seed = chosen_seed(seed, config)
    given = {"exclude": exclude, "epochs": epochs, "batch_size": batch_size, "learning_rate": lr, "seed": seed}
    settings = _settings(model, config, given, set_)
    choice = DataChoice(dataset, data_dir, normalization, validation_fraction, seed, limit)
    options: dict[str, Any] = {
        "strategy": strategy,
        "trusted": trusted,
        "resume": resume,
        "checkpoint_every": checkpoint_every,
    }
    _run_stage("pqat", model, output, settings, choice=choice, json=json, **options)


def sparsity(model: Model, trusted: Trusted = False, json: Json = False) -> None:
    """Density of every kernel of a run, a .keras file or a .tflite file, counted in the file itself."""
    existing_file(model, "model")
    rows = _tflite_rows(model) if Path(model).suffix == ".tflite" else _keras_rows(model, trusted=trusted)
    size, zeros = (sum(row[key] for row in rows) for key in ("size", "zeros"))
    value = {"kernels": rows, "size": size, "zeros": zeros, "sparsity": zeros / size if size else None}
    cells = [(row["name"], row["kind"], row["size"], row["zeros"], 1.0 - row["zeros"] / row["size"]) for row in rows]
    total = f"{zeros:,} of {size:,} kernel weights are zero" + (f" ({zeros / size:.2%})" if size else "")
    emit(value, as_json=json, lines=[table(("kernel", "kind", "weights", "zeros", "density"), cells), total])


def _keras_rows(model: str, *, trusted: bool) -> list[dict[str, Any]]:
    network = load_keras(model, trusted=trusted)
    from keras_relu.compression.masks import sparsity_table

    return [kernel.to_dict() for kernel in sparsity_table(network)]


def _tflite_rows(model: str) -> list[dict[str, Any]]:
    start_tensorflow()
    from keras_relu import tflite

    return [kernel.to_dict() for kernel in tflite.kernels(model)]


def _settings(model: str, config: str | None, given: Mapping[str, Any], set_: list[str] | None) -> dict[str, Any]:
    """The settings of a stage: of the file, then the options, then --set."""
    existing_file(model, "model")
    settings = merged(load_yaml(config) if config else {}, {k: v for k, v in given.items() if v not in (None, [])})
    return merged(settings, overrides(set_))


def _run_stage(
    stage: str,
    model: str,
    output: str,
    settings: Mapping[str, Any],
    *,
    choice: DataChoice,
    strategy: str,
    trusted: bool,
    resume: bool,
    json: bool,
    checkpoint_every: int,
) -> None:
    placed = strategy_for(strategy)
    from keras_relu import compression
    from keras_relu.runs import Run
    from keras_relu.training import precision, supervised
    from keras_relu.training.strategy import is_chief

    kinds: dict[str, type[supervised.TrainConfig]] = {"pruned": compression.PruneConfig, "pqat": compression.PqatConfig}
    trains: dict[str, Callable[..., dict[str, Any]]] = {"pruned": compression.prune, "pqat": compression.pqat}
    checked = kinds[stage].parse(settings)
    precision.set_precision(checked.precision)
    facts = model_facts(model)
    images = choice.load(facts)
    network = load_keras(model, trusted=trusted)
    record = {**checked.to_dict(), **choice.record(images)}
    run = Run.create(output, config=record, stage=stage, parent=model, resume=resume, chief=is_chief(placed))
    known = {"arch": facts.get("arch", network.name), "parent_accuracy": facts.get("accuracy")}
    with run.withdrawn_if_refused():
        result = trains[stage](
            network,
            images,
            run,
            checked,
            resume=resume,
            strategy=placed,
            progress=not json,
            facts=known,
            checkpoint_every=checkpoint_every,
        )
    keys = ("arch", "accuracy", "parent_accuracy", "val_accuracy", "loss", "sparsity", "wall_time_s")
    short = {"output": output, "stage": stage, **{key: result[key] for key in keys}, "pruned": result["pruned"]}
    sums = [(kind, s["size"], s["zeros"], s["sparsity"]) for kind, s in result["pruned"].items()]
    rows = [(key, value) for key, value in short.items() if key != "pruned"]
    emit(
        short,
        as_json=json,
        lines=[table(("result", ""), rows), table(("kernels", "weights", "zeros", "sparsity"), sums)],
    )


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(prune)
    app.command()(quantize)
    app.command()(sparsity)
