"""decompose extract, validate, finetune and essential; the rest of the group is in `decomposition_analysis`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from keras_relu.cli import decomposition_analysis
from keras_relu.cli.common import (
    BatchSize,
    DataChoice,
    DataDir,
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
    emit,
    load_keras,
    merged,
    model_facts,
    overrides,
    strategy_for,
    table,
)
from keras_relu.cli.decomposition_common import (
    Indices,
    OptionalDataset,
    Overwrite,
    Repetitions,
    Save,
    SplitName,
    TopK,
    WholeTrain,
    check_save,
    check_targets,
    dataset_name,
    finish,
    parse_sizes,
    read_tables,
    survivors,
)
from keras_relu.errors import UserError
from keras_relu.files import existing_file

__all__ = ["register"]

_decompose = typer.Typer(no_args_is_help=True, help="Class-specific filters and the decomposed last layer.")


@_decompose.command()
def extract(
    model: Model,
    output: Annotated[str, typer.Option("--output", "-o", help="Index file; with several k, <name>_<k>.json each.")],
    dataset: OptionalDataset = None,
    top_k: TopK = "5,10,20",
    rule: Annotated[str, typer.Option(help="frequency, weight, response-weight or frequency-tail.")] = "frequency",
    layer: Annotated[str | None, typer.Option(help="Rank the filters of this layer instead of the last.")] = None,
    augment: Annotated[bool, typer.Option("--augment", help="Flip and crop the images as in training.")] = False,
    data_dir: DataDir = None,
    normalization: NormalizationName = None,
    validation_fraction: WholeTrain = 0.0,
    limit: Limit = None,
    seed: Seed = 0,
    batch_size: BatchSize = 500,
    overwrite: Overwrite = False,
    trusted: Trusted = False,
    save: Save = None,
    json: Json = False,
) -> None:
    """Find each class's influential filters, for all k in one pass over the training images."""
    from keras_relu.decomposition.comparison import describe_table
    from keras_relu.decomposition.selection import check_rule
    from keras_relu.decomposition.tables import table_path, write_table

    existing_file(model, "model")
    sizes = parse_sizes(top_k)
    check_rule(rule, sizes)
    if rule == "weight" and (augment or limit is not None):
        raise UserError("The rule 'weight' reads no images; --augment and --limit have no effect on it.")
    targets = [table_path(output, size, several=len(sizes) > 1) for size in sizes]
    check_targets(targets, overwrite=overwrite)
    check_save(save)
    name = None if rule == "weight" else dataset_name(dataset, (), model)
    network = load_keras(model, trusted=trusted)
    choice = name and DataChoice(name, data_dir, normalization, validation_fraction, seed, limit)
    from keras_relu.decomposition import extract as system

    options: dict[str, Any] = {"layer": layer, "batch_size": batch_size, "augment_seed": seed if augment else None}
    images = choice.load(model_facts(model)) if choice else None
    found = system(network, images, top_k=sizes, rule=rule, **options)
    entries = []
    for made, target in zip(found, targets, strict=True):
        write_table(target, made)
        entries.append({**made.facts, **describe_table(made), "file": str(target)})
    rows = [(entry["file"], entry["top_k"], entry["distinct_filters"], entry["mean_mass"]) for entry in entries]
    lines = [table(("index file", "k", "filters in use", "mass of an image's own k"), rows)]
    finish("extract", {"model_path": model, "rule": rule, "tables": entries}, json, save, lines)


@_decompose.command()
def validate(
    model: Model,
    indices: Indices,
    dataset: OptionalDataset = None,
    split: SplitName = "test",
    data_dir: DataDir = None,
    normalization: NormalizationName = None,
    validation_fraction: ValidationFraction = 0.1,
    seed: Seed = 0,
    batch_size: BatchSize = 500,
    trusted: Trusted = False,
    save: Save = None,
    json: Json = False,
) -> None:
    """Accuracy of the decomposed layer, overall and per class, beside the original's."""
    existing_file(model, "model")
    check_save(save)
    found = read_tables(indices)
    name = dataset_name(dataset, found, model)
    network = load_keras(model, trusted=trusted)
    images = DataChoice(name, data_dir, normalization, validation_fraction, seed, None).load(model_facts(model))
    from keras_relu.decomposition import validate as system

    result = system(network, found, images, split=split, batch_size=batch_size)
    finish("validate", {"model_path": model, **result}, json, save, _validation_lines(result))


def _validation_lines(result: Mapping[str, Any]) -> list[Any]:
    columns = ("last layer", "k", "correct", "accuracy", "loss", "parameters", "multiplications")
    rows = [("original", None, *(result["original"][key] for key in ("correct", "accuracy", "loss", *columns[-2:])))]
    rows += [
        (
            Path(entry["file"]).name,
            entry["top_k"],
            *(entry[key] for key in ("correct", "accuracy", "loss", *columns[-2:])),
        )
        for entry in result["tables"]
    ]
    lists = [result["original"], *result["tables"]]
    classes = [
        (name, total, *(entry["per_class_correct"][number] for entry in lists))
        for number, (name, total) in enumerate(zip(result["class_names"], result["per_class_total"], strict=True))
    ]
    heads = ("class", "images", "original", *(Path(entry["file"]).stem for entry in result["tables"]))
    lines = [
        f"{result['total']:,} {result['dataset']} {result['split']} images, normalization {result['normalization']}",
        table(columns, rows),
    ]
    readable = len(classes) <= 40 and len(lists) <= 12
    lines.append(table(heads, classes) if readable else f"per class: --json has all {len(classes)} classes")
    strange = [entry["file"] for entry in result["tables"] if entry["model_matches"] is False]
    return lines + [f"note: {file} was extracted from other weights than these." for file in strange]


@_decompose.command()
def finetune(
    model: Model,
    indices: Indices,
    output: Output = "run/decomposed",
    dataset: OptionalDataset = None,
    lr: Annotated[float | None, typer.Option("--lr", "--learning-rate", help="Peak learning rate.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Global batch, over all replicas.")] = None,
    distill: Annotated[bool, typer.Option("--distill", help="Learn from the original network's logits too.")] = False,
    set_: Overrides = None,
    data_dir: DataDir = None,
    normalization: NormalizationName = None,
    validation_fraction: ValidationFraction = 0.1,
    limit: Limit = None,
    seed: Seed = 0,
    strategy: StrategyName = "auto",
    resume: Resume = False,
    trusted: Trusted = False,
    json: Json = False,
) -> None:
    """Decompose a network and train all of it (Adam, lr 1e-4, batch 64, one epoch); writes a run directory."""
    existing_file(model, "model")
    found = read_tables(indices)
    if len(found) != 1:
        raise UserError(f"Fine-tuning takes one index file, received {len(found)}.")
    name = dataset_name(dataset, found, model)
    placed = strategy_for(strategy)
    choice = DataChoice(name, data_dir, normalization, validation_fraction, seed, limit)
    images = choice.load(model_facts(model))
    from keras_relu.decomposition import finetune as system
    from keras_relu.decomposition.finetuning import PUBLISHED
    from keras_relu.runs import Run
    from keras_relu.training.strategy import is_chief
    from keras_relu.training.supervised import TrainConfig

    given = {"learning_rate": lr, "epochs": epochs, "batch_size": batch_size, "seed": seed}
    settings = merged(PUBLISHED, {key: value for key, value in given.items() if value is not None})
    config = TrainConfig.parse(merged(settings, overrides(set_)))
    network = load_keras(model, trusted=trusted)
    facts = {key: value for key, value in model_facts(model).items() if key == "arch"}
    record = {
        **config.to_dict(),
        **choice.record(images),
        "indices": Path(str(found[0].path)).name,
        "distill": distill,
    }
    run = Run.create(output, config=record, stage="decompose", parent=model, resume=resume, chief=is_chief(placed))
    options: dict[str, Any] = {"resume": resume, "strategy": placed, "progress": not json}
    _, result = system(network, found[0], images, config, run=run, distill=distill, facts=facts, **options)
    keys = ("top_k", "accuracy", "correct", "total", "loss", "val_accuracy", "head_parameters", "head_multiplications")
    short = {"output": output, **{key: result[key] for key in keys}}
    emit(short, as_json=json, lines=[table(("result", ""), short.items())])


@_decompose.command()
def essential(
    model: Model,
    indices: Indices,
    noise: Annotated[
        str, typer.Option(help="standard: N(0, 1) as published; matched: each filter's moments.")
    ] = "standard",
    repetitions: Repetitions = 20,
    dataset: OptionalDataset = None,
    split: SplitName = "test",
    data_dir: DataDir = None,
    normalization: NormalizationName = None,
    validation_fraction: ValidationFraction = 0.1,
    seed: Seed = 0,
    batch_size: BatchSize = 500,
    trusted: Trusted = False,
    save: Save = None,
    json: Json = False,
) -> None:
    """Replace features by Gaussian noise at the influential filters, at all others and at none: which images survive?"""
    from keras_relu import decomposition as system
    from keras_relu.decomposition.noise import check_settings

    existing_file(model, "model")
    check_settings(noise, repetitions, seed)
    check_save(save)
    found = read_tables(indices)
    name = dataset_name(dataset, found, model)
    network = load_keras(model, trusted=trusted)
    from keras_relu.decomposition.validation import check_table

    head = system.find_head(network)
    for one in found:
        check_table(one, head)
    images = DataChoice(name, data_dir, normalization, validation_fraction, seed, None).load(model_facts(model))
    features, labels = system.collect_features(network, images, split=split, batch_size=batch_size)
    options: dict[str, Any] = {"noise": noise, "repetitions": repetitions, "seed": seed}
    entries = [
        {**one.describe(), **system.essential(features, labels, head.kernel, head.bias, one.rows, **options)}
        for one in found
    ]
    rows = [(Path(entry["file"]).name, entry["top_k"], *survivors(entry)) for entry in entries]
    facts = {"model_path": model, "dataset": images.name, "normalization": images.normalization.name, "split": split}
    lines = [
        f"{len(labels):,} {images.name} {split} images, {noise} noise, mean and standard deviation of {repetitions} draws",
        table(("index file", "k", "no noise", "noise at influential", "noise at others"), rows),
    ]
    finish("essential", {**facts, "class_names": list(images.class_names), "tables": entries}, json, save, lines)


def register(app: typer.Typer) -> None:
    """Add the commands of this module and of `decomposition_analysis`."""
    decomposition_analysis.register(_decompose)
    app.add_typer(_decompose, name="decompose")
