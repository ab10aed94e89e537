"""decompose mutual-info, csg, selectivity, train-csg and report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from keras_relu.cli.common import (
    BatchSize,
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
    emit,
    load_keras,
    merged,
    model_facts,
    overrides,
    strategy_for,
    table,
)
from keras_relu.cli.decomposition_common import (
    OptionalDataset,
    Overwrite,
    Repetitions,
    Save,
    TopK,
    WholeTrain,
    check_save,
    check_targets,
    dataset_name,
    exact,
    finish,
    parse_sizes,
    survivors,
)
from keras_relu.cli.quiet import start_tensorflow
from keras_relu.files import existing_file

__all__ = ["register"]


def mutual_info(
    indices: Annotated[list[str], typer.Argument(help="Index files.")],
    filters: Annotated[int | None, typer.Option(help="Filters of the layer; default: the manifest's number.")] = None,
    save: Save = None,
    json: Json = False,
) -> None:
    """Mutual information between the filter lists of classes, with and without the pairs of a class with itself."""
    from keras_relu.decomposition.comparison import describe_table
    from keras_relu.decomposition.tables import expand_paths, read_table

    check_save(save)
    found = [read_table(path, filters=filters) for path in expand_paths(indices)]
    # Files without a manifest do not say how many filters there are; the largest index of all files is the best guess.
    largest = max(one.filters() for one in found)
    entries = [
        {
            **describe_table(one, filters or one.facts.get("filters") or largest),
            "filters_from": "option" if filters else "manifest" if one.facts.get("filters") else "largest index",
        }
        for one in found
    ]
    keys = ("mutual_information", "mutual_information_off_diagonal", "entropy", "shared_filters")
    heads = ("index file", "k", "all pairs", "without self pairs", "self pairs", "shared filters")
    rows = [(Path(entry["file"]).name, entry["top_k"], *(exact(entry[key]) for key in keys)) for entry in entries]
    lines: list[Any] = [table(heads, rows, title="mutual information in nats; the published average is over all pairs")]
    if any(entry["filters_from"] == "largest index" for entry in entries):
        lines.append(f"note: number of filters taken as {largest}, the largest index + 1; --filters says otherwise.")
    finish("mutual-info", {"tables": entries}, json, save, lines)


def csg(
    checkpoint: Annotated[str, typer.Argument(help="PyTorch checkpoint with gates 'csg', or a run of train-csg.")],
    dataset: Annotated[str | None, typer.Option("--dataset", help="Also measure accuracy and essential-ness.")] = None,
    arch: Annotated[str, typer.Option(help="Architecture of the checkpoint.")] = "resnet20",
    top_k: TopK = "5,10,20",
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Folder for the index files of both orders.")
    ] = None,
    repetitions: Repetitions = 20,
    data_dir: DataDir = None,
    normalization: NormalizationName = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    trusted: Trusted = False,
    save: Save = None,
    json: Json = False,
) -> None:
    """Filters by class-specific gates: the published (inverted) order beside the corrected one."""
    from keras_relu.decomposition import csg as system
    from keras_relu.decomposition.comparison import compare_gates
    from keras_relu.decomposition.noise import check_settings
    from keras_relu.decomposition.tables import write_table

    sizes = parse_sizes(top_k)
    check_settings("standard", repetitions, seed)
    check_save(save)
    places = [(order, k, Path(output) / f"csg_{order}_{k}.json") for order in system.ORDERS for k in sizes if output]
    check_targets((path for *_, path in places), overwrite=overwrite)
    if Path(checkpoint).is_file():
        start_tensorflow()
    gates = system.read_gates(checkpoint)
    network = images = None
    if dataset is not None:
        network = _gated_network(checkpoint, arch, trusted=trusted)
        images = DataChoice(dataset, data_dir, normalization, 0.0, seed, None).load(model_facts(checkpoint))
    options: dict[str, Any] = {"model": network, "dataset": images, "repetitions": repetitions, "seed": seed}
    result = {"checkpoint": checkpoint, **compare_gates(gates, top_k=sizes, **options)}
    if images is not None:
        result |= {"dataset": images.name, "normalization": images.normalization.name}
    for order, k, path in places:
        write_table(path, system.gate_table(gates, k, order))
    files = {(order, k): str(path) for order, k, path in places}
    for row in result["rows"]:
        row["file"] = files.get((row["order"], row["top_k"]))
    finish("csg", result, json, save, _gate_lines(result))


def _gated_network(checkpoint: str, arch: str, *, trusted: bool) -> Any:
    if Path(checkpoint).is_dir():
        return load_keras(checkpoint, trusted=trusted)
    from keras_relu.models.torch_weights import convert

    return convert(checkpoint, arch)


def _gate_lines(result: Mapping[str, Any]) -> list[Any]:
    gates, path = result["gates"], result["standard_path"]
    size = f"{gates['classes']} x {gates['filters']}"
    spread = f"{gates['minimum']:.6f} to {gates['maximum']:.6f}, mean {gates['mean']:.6f}"
    lines: list[Any] = [f"gates {size}: {spread}"]
    rows: list[tuple[Any, ...]] = [
        (row["order"], row["top_k"], exact(row["mutual_information"]), exact(row["mutual_information_off_diagonal"]))
        for row in result["rows"]
    ]
    heads = ["order", "k", "mutual information", "without self pairs"]
    if path is not None:
        lines.append(f"standard path: {path['correct']:,} of {path['total']:,} ({result['normalization']})")
        heads += ["decomposed", "noise at influential", "noise at others"]
        rows = [
            (*head, row["decomposed_correct"], *survivors(row["essential"])[1:])
            for head, row in zip(rows, result["rows"], strict=True)
        ]
    lines.append(table(heads, rows))
    return lines + [
        f"{row['order']}: {row['order_description']}" for row in result["rows"][:: len(result["rows"]) // 2]
    ]


def selectivity(
    model: Model,
    dataset: OptionalDataset = None,
    layer: Annotated[
        str | None, typer.Option(help="A layer behind a ReLU; default: what the last layer reads.")
    ] = None,
    data_dir: DataDir = None,
    normalization: NormalizationName = None,
    validation_fraction: WholeTrain = 0.0,
    limit: Limit = None,
    seed: Seed = 0,
    batch_size: BatchSize = 500,
    trusted: Trusted = False,
    save: Save = None,
    json: Json = False,
) -> None:
    """Class selectivity of every filter, from the mean responses to the training images of each class."""
    from keras_relu import decomposition as system

    existing_file(model, "model")
    check_save(save)
    name = dataset_name(dataset, (), model)
    network = load_keras(model, trusted=trusted)
    choice = DataChoice(name, data_dir, normalization, validation_fraction, seed, limit)
    images = choice.load(model_facts(model))
    statistics = system.gather_statistics(network, images, layer=layer, batch_size=batch_size)
    summary = system.selectivity.summarize(statistics.means)
    facts = {"model_path": model, "dataset": images.name, "normalization": images.normalization.name}
    facts["layer"] = layer or system.find_head(network).source
    names = list(images.class_names)
    order = sorted(range(len(summary["selectivity"])), key=lambda i: -summary["selectivity"][i])[:20]
    rows = [(i, summary["selectivity"][i], names[summary["preferred_class"][i]]) for i in order]
    lines = [
        f"{len(summary['selectivity'])} filters of layer {facts['layer']}",
        f"class selectivity: mean {summary['mean']:.4f}, median {summary['median']:.4f}",
        table(("filter", "selectivity", "preferred class"), rows, title="the most selective ones"),
    ]
    finish("selectivity", {**facts, "class_names": names, **summary}, json, save, lines)


def train_csg(
    arch: Annotated[str, typer.Option(help="Architecture, see `models list`.")],
    dataset: DatasetName,
    output: Output,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Global batch, over all replicas.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", "--learning-rate", help="Peak learning rate.")] = None,
    set_: Overrides = None,
    data_dir: DataDir = None,
    normalization: NormalizationName = None,
    validation_fraction: ValidationFraction = 0.1,
    limit: Limit = None,
    seed: Seed = 0,
    strategy: StrategyName = "auto",
    resume: Resume = False,
    json: Json = False,
) -> None:
    """Train a network with class-specific gates, as a model to compare with; `decompose csg` reads the run."""
    placed = strategy_for(strategy)
    choice = DataChoice(dataset, data_dir, normalization, validation_fraction, seed, limit)
    images = choice.load()
    from keras_relu import models
    from keras_relu.decomposition import gated
    from keras_relu.runs import Run
    from keras_relu.training.strategy import is_chief

    given = {"learning_rate": lr, "epochs": epochs, "batch_size": batch_size, "seed": seed}
    settings = {key: value for key, value in given.items() if value is not None}
    config = gated.GateConfig.parse(merged(settings, overrides(set_)))
    network = models.build(arch, classes=images.classes, input_shape=images.image_shape, seed=seed)
    record = {**config.to_dict(), "arch": arch, **choice.record(images)}
    run = Run.create(output, config=record, stage="train-csg", resume=resume, chief=is_chief(placed))
    options: dict[str, Any] = {"resume": resume, "strategy": placed, "progress": not json}
    _, result = gated.train_gated(network, images, run, config, facts={"arch": arch}, **options)
    keys = ("arch", "accuracy", "correct", "total", "loss", "val_accuracy", "gate_mean")
    short = {"output": output, **{key: result[key] for key in keys}}
    emit(short, as_json=json, lines=[table(("result", ""), short.items())])


def report(
    results: Annotated[list[str], typer.Argument(help="Files written by --save, and runs of `finetune`.")],
    output: Annotated[str, typer.Option("--output", "-o", help="The HTML file to write.")] = "decomposition.html",
    figures: Annotated[str | None, typer.Option(help="Folder for the figures as PNG and SVG.")] = None,
    json: Json = False,
) -> None:
    """Figures and tables of saved results in one self-contained page."""
    from keras_relu.report.decomposition import build_report

    path = build_report(results, output, figures_dir=figures)
    emit({"output": str(path), "results": results}, as_json=json, lines=[f"wrote {path}"])


def register(group: typer.Typer) -> None:
    """Add the commands of this module to the group `decompose`."""
    group.command("mutual-info")(mutual_info)
    group.command()(csg)
    group.command()(selectivity)
    group.command("train-csg")(train_csg)
    group.command()(report)
