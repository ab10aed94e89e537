"""reduce and sweep."""

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
from keras_relu.cli.planning import BudgetBytes, BudgetSeconds, CostPreset, MaxReluLayers, PlanChoice
from keras_relu.cli.quiet import start_tensorflow
from keras_relu.config import load_yaml
from keras_relu.errors import UserError
from keras_relu.files import existing_file

__all__ = ["register"]

Preset = Annotated[str, typer.Option(help="Settings to start from: default, or an original's; see the README.")]
ConfigFile = Annotated[str | None, typer.Option("--config", help="YAML file with settings; options given here win.")]
SearchEpochs = Annotated[int | None, typer.Option(help="Passes that decide which ReLUs stay.")]
FinetuneEpochs = Annotated[int | None, typer.Option(help="Passes with fixed masks.")]
Budget = Annotated[str | None, typer.Option(help="ReLUs kept per image: 18841, 94k, or a fraction such as 0.1.")]
Granularity = Annotated[str | None, typer.Option(help="One gate per element, channel or layer.")]
ReduceBatch = Annotated[int | None, typer.Option("--batch-size", help="Global batch, over all replicas.")]
NoDistillation = Annotated[bool, typer.Option("--no-distillation", help="Learn from labels alone.")]
Every = Annotated[
    int, typer.Option(help="Steps between checkpoints; 0 = after every epoch. A signal and the end always save.")
]
_SHOWN = ("replacement", "budget", "relu_count", "relu_count_before", "accuracy", "baseline_accuracy", "val_accuracy")


def reduce(
    model: Model,
    dataset: DatasetName,
    output: Output,
    budget: Budget = None,
    budget_bytes: BudgetBytes = None,
    budget_seconds: BudgetSeconds = None,
    max_relu_layers: MaxReluLayers = None,
    cost_preset: CostPreset = None,
    replacement: Annotated[str | None, typer.Option(help="identity, line, quadratic, moment_quadratic, ...")] = None,
    data_dir: DataDir = None,
    preset: Preset = "default",
    config: ConfigFile = None,
    search_epochs: SearchEpochs = None,
    finetune_epochs: FinetuneEpochs = None,
    granularity: Granularity = None,
    batch_size: ReduceBatch = None,
    no_distillation: NoDistillation = False,
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
    """Cut a network's ReLUs to a budget: search, fine-tune, freeze, strip; writes a run directory."""
    seed = chosen_seed(seed, config)
    existing_file(model, "model")
    given: dict[str, Any] = {"budget": budget, "replacement": replacement, "granularity": granularity}
    given |= {"batch_size": batch_size, "seed": seed}
    planner = PlanChoice(budget_bytes, budget_seconds, max_relu_layers, cost_preset)
    settings = _settings(preset, config, given, search_epochs, finetune_epochs, no_distillation, set_)
    if not planner.wanted and "budget" not in settings:
        raise UserError("A reduction needs --budget (ReLUs kept), or a limit for a plan such as --budget-bytes.")
    placed = strategy_for(strategy)
    from keras_relu import replacement as system
    from keras_relu.runs import Run
    from keras_relu.training.strategy import is_chief

    # A plan needs the network and its images; everything else is checked before they are read.
    checked = system.ReduceConfig.parse({"budget": 0, **settings} if planner.wanted else settings)
    facts = model_facts(model)
    choice = DataChoice(dataset, data_dir, normalization, validation_fraction, seed, limit)
    images = choice.load(facts)
    network = load_keras(model, trusted=trusted)
    plan = None
    if planner.wanted:
        extra, plan = planner.settings(network, images, settings, Path(output) if resume else None)
        checked = system.ReduceConfig.parse({**settings, **extra})
    record = {**checked.to_dict(), **choice.record(images)}
    run = Run.create(output, config=record, stage="reduce", parent=model, resume=resume, chief=is_chief(placed))
    options: dict[str, Any] = {"strategy": placed, "checkpoint_every": checkpoint_every, "progress": not json}
    with run.withdrawn_if_refused():
        known = {"arch": facts.get("arch", network.name), **({"plan": plan} if plan else {})}
        reduction = system.reduce(network, images, checked, run=run, resume=resume, facts=known, **options)
    short = {"output": output, **{key: reduction.result[key] for key in _SHOWN}}
    emit(short, as_json=json, lines=[table(("result", ""), short.items())])


def _settings(
    preset: str,
    config: str | None,
    given: Mapping[str, Any],
    search_epochs: int | None,
    finetune_epochs: int | None,
    no_distillation: bool,
    set_: list[str] | None,
) -> dict[str, Any]:
    start_tensorflow()
    from keras_relu.replacement.config import preset as named

    settings = merged(named(preset), load_yaml(config) if config else {})
    settings = merged(settings, {key: value for key, value in given.items() if value is not None})
    for phase, epochs in (("search", search_epochs), ("finetune", finetune_epochs)):
        settings = merged(settings, {} if epochs is None else {phase: {"epochs": epochs}})
    return merged(settings, {**({"distillation": None} if no_distillation else {}), **overrides(set_)})


def sweep(
    model: Model,
    dataset: DatasetName,
    output: Output,
    budgets: Annotated[str, typer.Option(help="Comma-separated budgets: ReLUs or fractions.")] = "0.5,0.25,0.1,0.05",
    replacements: Annotated[str, typer.Option(help="Comma-separated replacements.")] = "identity,line,quadratic",
    data_dir: DataDir = None,
    preset: Preset = "default",
    config: ConfigFile = None,
    search_epochs: SearchEpochs = None,
    finetune_epochs: FinetuneEpochs = None,
    batch_size: ReduceBatch = None,
    no_distillation: NoDistillation = False,
    set_: Overrides = None,
    normalization: NormalizationName = None,
    validation_fraction: ValidationFraction = 0.1,
    limit: Limit = None,
    seed: ConfiguredSeed = None,
    strategy: StrategyName = "auto",
    checkpoint_every: Every = 200,
    cell: Annotated[int | None, typer.Option(help="Run only this cell, from 0: one task of a Slurm array.")] = None,
    trusted: Trusted = False,
    resume: Resume = False,
    json: Json = False,
) -> None:
    """Reduce to several budgets with several replacements: the curve of accuracy against ReLUs, and its report."""
    seed = chosen_seed(seed, config)
    existing_file(model, "model")
    given = {"batch_size": batch_size, "seed": seed}
    settings = _settings(preset, config, given, search_epochs, finetune_epochs, no_distillation, set_)
    placed = strategy_for(strategy)
    from keras_relu.replacement import sweep as system
    from keras_relu.report import build_report

    facts = model_facts(model)
    choice = DataChoice(dataset, data_dir, normalization, validation_fraction, seed, limit)
    images = choice.load(facts)
    network = load_keras(model, trusted=trusted)
    configs = system.cells(network, _listed(budgets), _listed(replacements), settings)
    frame = system.sweep(
        network,
        images,
        output,
        configs if cell is None else _only(configs, cell),
        resume=resume or cell is not None,
        parent=model,
        record=choice.record(images),
        strategy=placed,
        checkpoint_every=checkpoint_every,
        progress=not json,
        facts={"arch": facts.get("arch", network.name)},
    )
    report = build_report([output], Path(output) / "report.html", figures_dir=Path(output) / "figures")
    records = frame.astype(object).where(frame.notna(), None).to_dict("records")
    emit(
        {"output": output, "report": str(report), "cells": records},
        as_json=json,
        lines=[table(list(frame.columns), [list(row.values()) for row in records]), f"report: {report}"],
    )


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _only(configs: Mapping[str, Any], cell: int) -> dict[str, Any]:
    if not 0 <= cell < len(configs):
        raise UserError(f"--cell is {cell}, the sweep has {len(configs)} cells, numbered from 0.")
    name = list(configs)[cell]
    return {name: configs[name]}


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(reduce)
    app.command()(sweep)
