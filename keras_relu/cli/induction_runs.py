"""induce build, finetune, run, search and report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from keras_relu.cli.common import (
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
    model_facts,
    overrides,
    strategy_for,
    table,
)
from keras_relu.cli.induction_common import (
    AssociationName,
    BnImages,
    CacheDir,
    Cap,
    Constants,
    EnergyImages,
    Polarity,
    Preset,
    Prototypes,
    SelectionName,
    cluster_settings,
    find_assignment,
    images_of,
    parse_prototypes,
    progress_lines,
)
from keras_relu.cli.quiet import start_tensorflow
from keras_relu.config import load_yaml, merged
from keras_relu.errors import UserError
from keras_relu.files import atomic_path, existing_file, write_json

__all__ = ["register"]

_SHOWN = (
    "comparison_count_before",
    "comparison_count",
    "comparison_fraction",
    "baseline_accuracy",
    "accuracy_before_bn",
    "accuracy_before_finetune",
    "accuracy",
    "val_accuracy",
)


def _short(output: str, result: Mapping[str, Any]) -> dict[str, Any]:
    return {"output": output, **{key: result[key] for key in _SHOWN if key in result}}


def build(
    model: Model,
    assignment: Annotated[str, typer.Argument(help="File of `induce cluster`, or a cache folder that holds one.")],
    output: Output,
    dataset: Annotated[str | None, typer.Option("--dataset", help="Default: the cache's.")] = None,
    preset: Preset = "default",
    bn_images: BnImages = None,
    cap: Cap = "drop",
    data_dir: DataDir = None,
    normalization: NormalizationName = None,
    validation_fraction: ValidationFraction = 0.1,
    limit: Limit = None,
    seed: Seed = 0,
    trusted: Trusted = False,
    json: Json = False,
) -> None:
    """Make the induced network: re-estimate batch normalisation, count, evaluate; writes a run directory."""
    existing_file(model, "model")
    file = find_assignment(assignment)
    start_tensorflow()
    from keras_relu import induction as system
    from keras_relu.runs import Run

    found = system.read_assignment(file)
    facts = model_facts(model)
    name = dataset or found.facts.get("dataset")
    if not name:
        raise UserError("The assignment does not say which data set it was made with; give --dataset.")
    images = int(system.preset(preset).get("bn_images", 10_000)) if bn_images is None else bn_images
    choice = DataChoice(name, data_dir, normalization, validation_fraction, seed, limit)
    pictures = choice.load(facts)
    network = load_keras(model, trusted=trusted)
    record = {**choice.record(pictures), "assignment": file.name, "bn_images": images, "cap": cap, "seed": seed}
    run = Run.create(output, config=record, stage="induce", parent=model)
    with run.withdrawn_if_refused():
        induced, result = system.build(network, found, pictures, bn_images=images, cap=cap)
        run.save_model(induced)
        system.write_assignment(run.path / "assignment.npz", found)
        known = {"arch": facts.get("arch", network.name), "dataset": name, "normalization": pictures.normalization.name}
        result = run.finish({**result, **known})
    emit(_short(output, result), as_json=json, lines=[table(("result", ""), _short(output, result).items())])


def finetune(
    model: Model,
    output: Output,
    dataset: Annotated[str | None, typer.Option("--dataset", help="Default: the one the run was made with.")] = None,
    preset: Preset = "default",
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", "--learning-rate", help="Peak learning rate.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Global batch, over all replicas.")] = None,
    distill: Annotated[
        bool | None, typer.Option("--distill/--no-distill", help="Learn from the network before the induction too.")
    ] = None,
    teacher: Annotated[str | None, typer.Option(help="Default: the model the induced one was built from.")] = None,
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
    """Fine-tune an induced network; writes a run directory."""
    existing_file(model, "model")
    placed = strategy_for(strategy)
    from keras_relu import induction as system
    from keras_relu.induction.run import stage_facts
    from keras_relu.runs import Run
    from keras_relu.training.strategy import is_chief
    from keras_relu.training.supervised import TrainConfig

    base, facts = system.preset(preset), model_facts(model)
    learns = bool(base.get("distill", True)) if distill is None else distill
    given: dict[str, Any] = {"epochs": epochs, "learning_rate": lr, "batch_size": batch_size, "seed": seed}
    settings = {**_recipe(base), **{key: value for key, value in given.items() if value is not None}}
    config = TrainConfig.parse(merged(settings, overrides(set_)))
    name = dataset or facts.get("dataset")
    if not name:
        raise UserError("The model does not say which data set it was made with; give --dataset.")
    choice = DataChoice(name, data_dir, normalization, validation_fraction, seed, limit)
    pictures = choice.load(facts)
    network = load_keras(model, trusted=trusted)
    source = teacher or facts.get("parent")
    if learns and not source:
        raise UserError("There is no record of the network before the induction; give --teacher or --no-distill.")
    before = load_keras(str(source), trusted=trusted) if learns else None
    record = {**config.to_dict(), **choice.record(pictures), "distill": learns}
    run = Run.create(output, config=record, stage="induce", parent=model, resume=resume, chief=is_chief(placed))
    options: dict[str, Any] = {"strategy": placed, "resume": resume, "progress": not json}
    known = _without_run_keys(stage_facts(facts))
    with run.withdrawn_if_refused():
        result = system.finetune(network, pictures, config, teacher=before, run=run, facts=known, **options)
    emit(_short(output, result), as_json=json, lines=[table(("result", ""), _short(output, result).items())])


def _recipe(base: Mapping[str, Any]) -> dict[str, Any]:
    from keras_relu.induction.config import FINETUNE

    return dict(base.get("finetune", FINETUNE))


def _without_run_keys(facts: Mapping[str, Any]) -> dict[str, Any]:
    from keras_relu.induction.run import RUN_KEYS

    measured = ("correct", "total", "loss", "val_loss", "dataset", "normalization", "epochs", "parameters")
    return {key: value for key, value in facts.items() if key not in (*RUN_KEYS, *measured)}


def run(
    config: Annotated[str, typer.Argument(help="YAML: model, dataset, mapping, prototypes and any other setting.")],
    output: Output = "run/induced",
    preset: Preset = "default",
    set_: Overrides = None,
    data_dir: DataDir = None,
    strategy: StrategyName = "auto",
    checkpoint_every: Annotated[int, typer.Option(help="Steps between checkpoints; 0 = after every epoch.")] = 200,
    resume: Resume = False,
    trusted: Trusted = False,
    json: Json = False,
) -> None:
    """Plan, flatten, cache, verify, cluster, build, fine-tune and test in one resumable run."""
    values = load_yaml(config)
    if isinstance(values.get("mapping"), str):
        # A mapping file stands beside the configuration that names it.
        from keras_relu.induction.mapping import read_mapping

        values["mapping"] = read_mapping(Path(config).parent / values["mapping"])
    placed = strategy_for(strategy)
    from keras_relu import induction as system
    from keras_relu.runs import Run
    from keras_relu.training.strategy import is_chief

    settings = system.PipelineConfig.parse(merged(merged(system.preset(preset), values), overrides(set_)))
    path = existing_file(settings.model, "model")
    facts = model_facts(str(path))
    choice = DataChoice(
        settings.dataset, data_dir, settings.normalization, settings.validation_fraction, settings.seed, settings.limit
    )
    pictures = choice.load(facts)
    network = load_keras(str(path), trusted=trusted)
    made = Run.create(
        output,
        config=settings.to_dict(),
        stage="induce",
        parent=settings.model,
        resume=resume,
        chief=is_chief(placed),
    )
    options: dict[str, Any] = {"strategy": placed, "checkpoint_every": checkpoint_every, "progress": not json}
    known = {"arch": facts.get("arch", network.name)}
    with made.withdrawn_if_refused():
        result = system.run_induction(
            network, pictures, settings.induction, made, on_step=progress_lines(json), facts=known, **options
        )
    emit(_short(output, result), as_json=json, lines=[table(("result", ""), _short(output, result).items())])


def search(
    model: Model,
    cache: CacheDir,
    output: Annotated[str, typer.Option("--output", "-o", help="The mapping to write (YAML).")],
    budget: Annotated[str, typer.Option(help="Comparisons left per image: 40000, 94k, or a fraction such as 0.25.")],
    method: Annotated[str, typer.Option(help="knapsack or greedy.")] = "knapsack",
    prototypes: Prototypes = None,
    scheme: Annotated[str, typer.Option(help="Groups for knapsack: stages, pairs or self.")] = "stages",
    inducer: Annotated[str | None, typer.Option(help="For greedy; default: the first site.")] = None,
    selection: SelectionName = None,
    association: AssociationName = None,
    polarity: Polarity = None,
    constants: Constants = None,
    energy_images: EnergyImages = None,
    images: Annotated[int, typer.Option(help="Validation images per trial.")] = 1000,
    trials: Annotated[str | None, typer.Option(help="Also write every trial as JSON.")] = None,
    data_dir: DataDir = None,
    seed: Seed = 0,
    trusted: Trusted = False,
    json: Json = False,
) -> None:
    """Choose the sites and the number of prototypes for a number of comparisons, on validation images."""
    existing_file(model, "model")
    existing_file(Path(cache) / "cache.json", "header of the cache")
    given: dict[str, Any] = {
        "selection": selection,
        "association": association,
        "polarity": polarity,
        "constants": constants,
    }
    given |= {"energy_images": energy_images, "seed": seed}
    counts = parse_prototypes(prototypes)
    start_tensorflow()
    from keras_relu import induction as system
    from keras_relu import surgery
    from keras_relu.induction.search import cost_of
    from keras_relu.replacement.ranking import parse_budget

    opened = system.open_cache(cache)
    network = load_keras(model, trusted=trusted)
    total = sum(cost_of(site) for site in surgery.find_sites(network))
    options: dict[str, Any] = {"method": method, "scheme": scheme, "inducer": inducer, "images": images}
    if counts is not None:
        options["prototypes"] = counts if isinstance(counts, list) else [counts]
    result = system.search(
        network,
        images_of(opened.header, data_dir),
        opened,
        parse_budget(budget, total),
        config=cluster_settings("default", given),
        on_trial=progress_lines(json),
        **options,
    )
    _write_mapping(output, result["mapping"])
    if trials:
        write_json(trials, {"kind": "induce-search", **result})
    mapping = result["mapping"]
    pairs = zip(mapping["inducer_to_induced"].items(), mapping["num_prototypes"], strict=True)
    rows = [(name, ", ".join(induced), count) for (name, induced), count in pairs]
    left = f"{result['comparisons']:,} of {result['comparisons_before']:,} comparisons; the mapping is in {output}"
    emit({"output": output, **result}, as_json=json, lines=[table(("inducer", "induced", "prototypes"), rows), left])


def _write_mapping(path: str, mapping: Mapping[str, Any]) -> None:
    import yaml

    with atomic_path(path) as temporary:
        temporary.write_text(yaml.safe_dump(dict(mapping), sort_keys=False), encoding="utf-8")


def report(
    runs: Annotated[list[str], typer.Argument(help="Runs of induce build, finetune or run.")],
    output: Annotated[str, typer.Option("--output", "-o", help="The HTML file to write.")] = "induction.html",
    figures: Annotated[str | None, typer.Option(help="Folder for the figures as PNG and SVG.")] = None,
    json: Json = False,
) -> None:
    """Accuracy against comparisons, use and places of prototypes, wrong bits per site, in one page."""
    from keras_relu.report.induction import build_report

    path = build_report(runs, output, figures_dir=figures)
    emit({"output": str(path), "runs": runs}, as_json=json, lines=[f"wrote {path}"])


def register(group: typer.Typer) -> None:
    """Add the commands of this module to the group."""
    for command in (build, finetune, run, search, report):
        group.command()(command)
