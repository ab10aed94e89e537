"""train, evaluate, export."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_relu.cli.common import (
    BatchSize,
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
    Seed,
    StrategyName,
    Trusted,
    ValidationFraction,
    chosen_seed,
    emit,
    load_dataset,
    load_keras,
    merged,
    model_facts,
    overrides,
    strategy_for,
    table,
)
from keras_relu.cli.quiet import start_tensorflow
from keras_relu.config import load_yaml
from keras_relu.errors import UserError
from keras_relu.files import existing_file

if TYPE_CHECKING:
    import tf_keras as keras

    from keras_relu.data import Dataset

__all__ = ["register"]


def train(
    arch: Annotated[str, typer.Option(help="Architecture, see `models list`.")],
    dataset: DatasetName,
    output: Output,
    data_dir: DataDir = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Global batch, over all replicas.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", "--learning-rate", help="Peak learning rate.")] = None,
    config: Annotated[str | None, typer.Option(help="YAML file with settings; options given here win.")] = None,
    set_: Overrides = None,
    arch_set: Annotated[
        list[str] | None, typer.Option("--arch-set", help="Option of the architecture, width=0.125; repeatable.")
    ] = None,
    teacher: Annotated[str | None, typer.Option(help="Model to distil from.")] = None,
    normalization: NormalizationName = None,
    validation_fraction: ValidationFraction = 0.1,
    limit: Limit = None,
    seed: ConfiguredSeed = None,
    init_seed: Annotated[int | None, typer.Option(help="Seed of the initial weights alone; default: --seed.")] = None,
    order_seed: Annotated[
        int | None, typer.Option(help="Seed of batch order and augmentation alone; default: --seed.")
    ] = None,
    snapshot_every: Annotated[int, typer.Option(help="Steps between networks kept under snapshots/; 0 = none.")] = 0,
    strategy: StrategyName = "auto",
    checkpoint_every: Annotated[
        int, typer.Option(help="Steps between checkpoints; 0 = after every epoch. A signal and the end always save.")
    ] = 200,
    resume: Resume = False,
    json: Json = False,
) -> None:
    """Train a network from scratch; writes a run directory."""
    seed = chosen_seed(seed, config)
    given = {"epochs": epochs, "batch_size": batch_size, "learning_rate": lr}
    given["seed"] = seed if order_seed is None else order_seed
    settings = merged(load_yaml(config) if config else {}, {k: v for k, v in given.items() if v is not None})
    settings = merged(settings, overrides(set_))
    arch_options = overrides(arch_set)
    if teacher:
        existing_file(teacher, "teacher")
    placed = strategy_for(strategy)
    from keras_relu.runs import Run
    from keras_relu.training import precision, supervised
    from keras_relu.training.strategy import is_chief

    checked = supervised.TrainConfig.parse(settings)
    precision.set_precision(checked.precision)
    choice = DataChoice(dataset, data_dir, normalization, validation_fraction, seed, limit)
    images = choice.load()
    weights_seed = seed if init_seed is None else init_seed
    model, known = _fresh_network(arch, arch_options, images, weights_seed)
    record = {**checked.to_dict(), **known, **choice.record(images), "init_seed": weights_seed}
    run = Run.create(output, config=record, stage="train", resume=resume, chief=is_chief(placed))
    source = load_keras(teacher) if teacher else None
    options: dict[str, Any] = {"strategy": placed, "checkpoint_every": checkpoint_every, "progress": not json}
    options["snapshot_every"] = snapshot_every
    with run.withdrawn_if_refused():
        result = supervised.train(model, images, run, checked, resume=resume, teacher=source, facts=known, **options)
    keys = ("arch", "dataset", "normalization", "accuracy", "correct", "total", "loss", "val_accuracy", "wall_time_s")
    short = {"output": output, **{key: result[key] for key in keys}}
    emit(short, as_json=json, lines=[table(("result", ""), short.items())])


def _fresh_network(
    arch: str, options: Mapping[str, Any], images: Dataset, seed: int
) -> tuple[keras.Model, dict[str, Any]]:
    """A network for a data set, and what a run records of it."""
    from keras_relu import models

    models.check_options(arch, options)
    model = models.build(arch, classes=images.classes, input_shape=images.image_shape, seed=seed, **options)
    return model, {"arch": arch, **({"arch_options": dict(options)} if options else {})}


def evaluate(
    model: Model,
    dataset: DatasetName,
    data_dir: DataDir = None,
    normalization: NormalizationName = None,
    split: Annotated[str, typer.Option(help="test, validation or train.")] = "test",
    validation_fraction: ValidationFraction = 0.1,
    seed: Seed = 0,
    batch_size: BatchSize = 500,
    trusted: Trusted = False,
    json: Json = False,
) -> None:
    """Inference-only evaluation of a run, a .keras file, a SavedModel directory or a .tflite file."""
    existing_file(model, "model")
    if split not in ("test", "validation", "train"):
        raise UserError(f"Unknown split {split!r}. Allowed: test, train, validation.")
    images = load_dataset(
        dataset,
        data_dir,
        facts=model_facts(model),
        normalization=normalization,
        validation_fraction=validation_fraction,
        seed=seed,
    )
    from keras_relu.evaluate import evaluate as measure

    measured = measure(
        model,
        getattr(images, split),
        images.normalization,
        batch_size=batch_size,
        classes=images.classes,
        trusted=trusted,
    )
    result: dict[str, Any] = {
        "accuracy": measured["accuracy"],
        "correct": measured["correct"],
        "total": measured["total"],
        "loss": measured["loss"],
        "dataset": dataset,
        "split": split,
        "normalization": images.normalization.name,
    }
    line = "{correct:,} of {total:,} {dataset} {split} images right: {accuracy:.2%}, loss {loss:.4f} "
    line += "(normalization {normalization})"
    emit(result, as_json=json, lines=[line.format(**result)])


def export(
    model: Model,
    output: Output,
    format: Annotated[str, typer.Option("--format", help="savedmodel or tflite.")] = "savedmodel",
    int8: Annotated[bool, typer.Option("--int8", help="tflite: int8 weights and activations.")] = False,
    calibrate: Annotated[
        str | None, typer.Option(help="Data set whose training images give the ranges, where the run learned none.")
    ] = None,
    data_dir: DataDir = None,
    normalization: NormalizationName = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")] = False,
    trusted: Trusted = False,
    json: Json = False,
) -> None:
    """Write a model for deployment, read it back, and check that it computes the same."""
    existing_file(model, "model")
    facts = model_facts(model)
    start_tensorflow()
    from keras_relu import counting, data
    from keras_relu.export import export as write
    from keras_relu.runs.quantized import is_quantized, load_quantized

    network = load_keras(model, trusted=trusted)
    relus = counting.count(network).relu_count
    if int8 and is_quantized(model):
        network = load_quantized(model, network)
    preset = normalization or facts.get("normalization")
    kept: dict[str, Any] = {key: facts[key] for key in ("arch", "dataset", "budget") if key in facts}
    result = write(
        network,
        output,
        format=format,
        int8=int8,
        calibration=_calibration(calibrate, data_dir, facts, normalization),
        normalization=data.get_normalization(preset) if preset else None,
        facts={**kept, "relu_count": relus},
        overwrite=overwrite,
    )
    lines = [
        f"{result['path']}: {result['format']}, {result['bytes']:,} bytes, {result['relu_count']:,} ReLUs",
        f"read back: largest difference of logits {result['max_difference']:.1e}",
        *_kernel_lines(result),
    ]
    emit(result, as_json=json, lines=lines)


def _kernel_lines(result: Mapping[str, Any]) -> list[str]:
    """What an export says of the kernels it read back."""
    if "kernels" not in result:
        return []
    zeros, size = (sum(kernel[key] for kernel in result["kernels"]) for key in ("zeros", "size"))
    return [
        f"{zeros:,} of {size:,} kernel weights in the file are zero",
        f"compressed: {result['compressed_bytes']:,} bytes (zlib)",
    ]


_CALIBRATION_IMAGES = 256


def _calibration(
    dataset: str | None, data_dir: str | None, facts: Mapping[str, Any], normalization: str | None
) -> Iterator[Any] | None:
    """Normalised training images, without labels."""
    if dataset is None:
        if data_dir is not None:
            raise UserError("--data-dir has no effect without --calibrate.")
        return None
    images = load_dataset(dataset, data_dir, facts=facts, normalization=normalization, limit=_CALIBRATION_IMAGES)
    return (images.normalization.apply(batch).numpy() for batch, _ in images.train.batches(_CALIBRATION_IMAGES))


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(train)
    app.command()(evaluate)
    app.command()(export)
