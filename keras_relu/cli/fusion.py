"""predict-relus, fuse and variants."""

from __future__ import annotations

from collections.abc import Mapping
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
    Seed,
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
from keras_relu.errors import UserError
from keras_relu.files import existing_file, write_json

__all__ = ["register"]

_OF_FUSE = ("unfused", "fused", "ratio", "composites", "additions")


def predict_relus(
    model: Model,
    dataset: DatasetName,
    output: Output,
    mode: Annotated[str | None, typer.Option(help="static, ste or projected: what of a predictor is trained.")] = None,
    include: Annotated[
        list[str] | None, typer.Option(help="Block, convolution, ReLU or pattern to predict; default: widening blocks.")
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Leave these out; repeatable.")] = None,
    data_dir: DataDir = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Global batch, over all replicas.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", "--learning-rate", help="Peak learning rate.")] = None,
    config: Annotated[
        str | None, typer.Option("--config", help="YAML file with settings; options given here win.")
    ] = None,
    set_: Overrides = None,
    normalization: NormalizationName = None,
    validation_fraction: ValidationFraction = 0.1,
    limit: Limit = None,
    seed: ConfiguredSeed = None,
    strategy: StrategyName = "auto",
    checkpoint_every: Annotated[int, typer.Option(help="Steps between checkpoints; 0 = after every epoch.")] = 200,
    trusted: Trusted = False,
    resume: Resume = False,
    json: Json = False,
) -> None:
    """Let ternary predictors decide a (pruned) network's ReLUs, and train around them; writes a run directory."""
    seed = chosen_seed(seed, config)
    existing_file(model, "model")
    given: dict[str, Any] = {"mode": mode, "include": include or None, "exclude": exclude or None, "seed": seed}
    given |= {"epochs": epochs, "batch_size": batch_size, "learning_rate": lr}
    settings = merged(load_yaml(config) if config else {}, {k: v for k, v in given.items() if v is not None})
    settings = merged(settings, overrides(set_))
    placed = strategy_for(strategy)
    from keras_relu import compression
    from keras_relu.runs import Run
    from keras_relu.training.strategy import is_chief

    checked = compression.PredConfig.parse(settings)
    facts = model_facts(model)
    choice = DataChoice(dataset, data_dir, normalization, validation_fraction, seed, limit)
    images = choice.load(facts)
    network = load_keras(model, trusted=trusted)
    record = {**checked.to_dict(), **choice.record(images)}
    run = Run.create(output, config=record, stage="pred", parent=model, resume=resume, chief=is_chief(placed))
    options: dict[str, Any] = {"strategy": placed, "checkpoint_every": checkpoint_every, "progress": not json}
    with run.withdrawn_if_refused():
        known = {"arch": facts.get("arch", network.name)}
        result = compression.predict(network, images, run, checked, resume=resume, facts=known, **options)
    keys = ("mode", "accuracy", "correct", "total", "baseline_accuracy", "val_accuracy", "sparsity", "wall_time_s")
    short = {"output": output, **{key: result[key] for key in keys}}
    lines = [table(("result", ""), short.items()), *_quality_lines(result)]
    emit({**short, "predictor_quality": result["predictor_quality"]}, as_json=json, lines=lines)


def _quality_lines(result: Mapping[str, Any]) -> list[Any]:
    if not result["predictors"]:
        return []
    keys = ("precision", "recall", "false_negative_fraction", "live_fraction")
    rows = [(entry["name"], *(entry[key] for key in keys)) for entry in result["predictors"]]
    rows.append(("all", *(result["predictor_quality"][key] for key in keys)))
    return [table(("predictor", "precision", "recall", "false negatives", "live"), rows)]


def fuse(
    model: Model,
    check: Annotated[
        bool, typer.Option("--check", help="Evaluate the fused blocks and compare them with the network.")
    ] = False,
    images: Annotated[int, typer.Option(min=1, help="Images of the check.")] = 2,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Check on its validation images; default: random ones.")
    ] = None,
    data_dir: DataDir = None,
    normalization: NormalizationName = None,
    density: Annotated[
        float | None, typer.Option(help="Assume this part of the composite weights instead of counting the zeros.")
    ] = None,
    every_block: Annotated[bool, typer.Option("--every-block", help="Also blocks that do not widen.")] = False,
    save: Annotated[str | None, typer.Option(help="Also write the result as JSON, for `variants`.")] = None,
    seed: Seed = 0,
    trusted: Trusted = False,
    json: Json = False,
) -> None:
    """Multiplications, additions and storage of a network whose blocks are fused, and a proof that fusion is exact."""
    existing_file(model, "model")
    if not check and (dataset or normalization or data_dir):
        raise UserError("--dataset, --data-dir and --normalization have no effect without --check.")
    network = load_keras(model, trusted=trusted)
    from keras_relu.compression.counts import count_fusion

    counts = count_fusion(network, density=density, every_block=every_block)
    result = {"model": model, **counts.to_dict()}
    lines = _fuse_lines(result)
    if check:
        from keras_relu.compression.fusion_check import check_fusion

        batch = _images(network, images, dataset, data_dir, normalization, model, seed)
        result["check"] = {"dataset": dataset, **check_fusion(network, batch, every_block=every_block)}
        lines += _check_lines(result["check"])
    if save:
        write_json(save, result)
    emit(result, as_json=json, lines=lines)


def _fuse_lines(result: Mapping[str, Any]) -> list[Any]:
    rows = [(block["name"], *(block[key] for key in _OF_FUSE)) for block in result["blocks"]]
    rows.append(("fused blocks", *(result[key] for key in _OF_FUSE)))
    rows.append(("whole network", result["macs"], result["whole_fused"], result["whole_ratio"], None, None))
    heads = ("block", "multiplications", "fused", "ratio", "composite weights", "additions at most")
    lines = [table(heads, rows, title="Per image")]
    scales, additions = result["predictor_multiplications"], result["predictor_additions"]
    lines.append(
        f"predictors: {additions:,} additions, {scales:,} multiplications by scales (batch normalisation can absorb them)"
    )
    lines += [f"{name}: {count:,} multiplications in the blocks" for name, count in result["alternatives"].items()]
    return [*lines, *(f"note: {note}" for note in result["notes"])]


def _check_lines(check: Mapping[str, Any]) -> list[Any]:
    keys = ("max_error", "first_live_fraction", "second_live_fraction", "live_pair_fraction")
    counts = ("multiplications", "additions")
    rows = [
        (
            block["name"],
            f"{block['max_error']:.1e}",
            *(block[key] for key in keys[1:]),
            *(round(block[key]) for key in counts),
        )
        for block in check["blocks"]
    ]
    heads = ("block", "largest error", "live 1", "live 2", "live pairs", *counts)
    where = check["dataset"] or "random"
    return [
        table(heads, rows, title=f"Evaluated on {check['images']} {where} images, means per image"),
        f"largest error {check['max_error']:.1e} of a block's largest output; {check['multiplications']:,.0f} "
        f"multiplications and {check['additions']:,.0f} additions of composite weights per image",
    ]


def _images(
    network: Any,
    count: int,
    dataset: str | None,
    data_dir: str | None,
    normalization: str | None,
    model: str,
    seed: int,
) -> Any:
    """Normalised images [count, H, W, C]: of the validation split, or random."""
    import numpy as np

    if dataset is None:
        return np.random.default_rng(seed).standard_normal((count, *network.input_shape[1:])).astype(np.float32)
    choice = DataChoice(dataset, data_dir, normalization, 0.1, seed, None)
    images = choice.load(model_facts(model))
    from keras_relu.training.checks import require_logits

    require_logits(network, images)
    batch, _ = next(iter(images.validation.batches(min(count, images.validation.size))))
    return images.normalization.apply(batch).numpy()


def variants(
    runs: Annotated[list[str], typer.Argument(help="Finished runs of any stage, or one file written by --save.")],
    output: Annotated[str, typer.Option("--output", "-o", help="The HTML file to write.")] = "variants.html",
    figures: Annotated[str | None, typer.Option(help="Folder for the figures as PNG and SVG.")] = None,
    save: Annotated[str | None, typer.Option(help="Also write the table as JSON.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Single images whose latency is measured.")] = 50,
    json: Json = False,
) -> None:
    """Accuracy, parameters, multiplications, sparsity, size and latency of all variants in one table and plot."""
    from keras_relu.report import compression as report

    for path in runs:
        existing_file(path, "run")
    if len(runs) == 1 and Path(runs[0]).is_file():
        if save:
            raise UserError("--save has no effect on a table that was read from a file.")
        found = report.read_variants(runs[0])
    else:
        start_tensorflow()
        from keras_relu.compression.variants import describe_variants

        found = describe_variants(runs, images=images)
    if save:
        write_json(save, {"kind": "variants", "images": images, "variants": found})
    page = report.build_report(found, output, figures_dir=figures)
    short = [{key: value for key, value in entry.items() if key != "predictors"} for entry in found]
    lines = [table(report.VARIANT_HEADS, report.variant_rows(found)), f"wrote {page}"]
    emit({"output": str(page), "variants": short}, as_json=json, lines=lines)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(predict_relus)
    app.command()(fuse)
    app.command()(variants)
