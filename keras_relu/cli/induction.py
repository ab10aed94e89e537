"""induce plan, flatten, cache, cluster and matrices; building, fine-tuning, search and run are in `induction_runs`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from keras_relu.cli import induction_runs
from keras_relu.cli.common import (
    DataDir,
    DatasetName,
    Json,
    Limit,
    Model,
    NormalizationName,
    Output,
    Seed,
    Trusted,
    ValidationFraction,
    emit,
    load_dataset,
    load_keras,
    model_facts,
    table,
)
from keras_relu.cli.induction_common import (
    AssociationName,
    CacheDir,
    Constants,
    EnergyImages,
    MappingFile,
    OptionalModel,
    Polarity,
    Preset,
    Prototypes,
    SelectionName,
    Ties,
    cluster_settings,
    images_of,
    parse_prototypes,
    plan_lines,
    progress_lines,
)
from keras_relu.cli.quiet import start_tensorflow
from keras_relu.errors import UserError
from keras_relu.files import existing_file, write_json

__all__ = ["register"]

_induce = typer.Typer(no_args_is_help=True, help="Many ReLUs borrow the sign bits of a few prototypes.")


@_induce.command()
def plan(
    model: Model,
    mapping: MappingFile,
    prototypes: Prototypes = None,
    save: Annotated[str | None, typer.Option(help="Also write the plan as JSON.")] = None,
    trusted: Trusted = False,
    json: Json = False,
) -> None:
    """Check a mapping against a network, and print the comparisons that will be left, site by site."""
    existing_file(model, "model")
    existing_file(mapping, "mapping")
    counts = parse_prototypes(prototypes)
    start_tensorflow()
    from keras_relu.induction import make_plan
    from keras_relu.induction.build import flat_copy

    made = make_plan(flat_copy(load_keras(model, trusted=trusted)), mapping, counts)
    facts = {"model_path": model, "mapping": mapping, **made.describe()}
    if save:
        write_json(save, facts)
    emit(facts, as_json=json, lines=plan_lines(facts))


@_induce.command()
def flatten(model: Model, output: Output, trusted: Trusted = False, json: Json = False) -> None:
    """Write a ResNet under the original's flattened names (relu0, ResLayer0_BasicBlockV20_relu_1, ...)."""
    existing_file(model, "model")
    _refuse_existing(output)
    start_tensorflow()
    from keras_relu import surgery
    from keras_relu.induction import flatten as system
    from keras_relu.runs import Run

    network = load_keras(model, trusted=trusted)
    flat = system(network)
    names = {a.name: b.name for a, b in zip(surgery.find_sites(network), surgery.find_sites(flat), strict=True)}
    run = Run.create(output, config={"flattened": True, "seed": 0}, stage="flatten", parent=model)
    run.save_model(flat)
    known = {key: value for key, value in model_facts(model).items() if key in ("arch", "normalization", "dataset")}
    run.finish({**known, "names": names})
    emit({"output": output, "names": names}, as_json=json, lines=[table(("site", "flattened name"), names.items())])


@_induce.command()
def cache(
    model: Model,
    dataset: DatasetName,
    output: Annotated[str, typer.Option("--output", "-o", help="Folder of the cache.")],
    images: Annotated[int, typer.Option(help="Images whose responses are kept.")] = 10_000,
    split: Annotated[str, typer.Option(help="train or validation.")] = "train",
    sites: Annotated[str | None, typer.Option(help="Comma-separated sites; default: all.")] = None,
    mapping: Annotated[
        str | None, typer.Option(help="Only the sites of this mapping, and its identity sites set.")
    ] = None,
    data_dir: DataDir = None,
    normalization: NormalizationName = None,
    validation_fraction: ValidationFraction = 0.1,
    limit: Limit = None,
    seed: Seed = 0,
    trusted: Trusted = False,
    json: Json = False,
) -> None:
    """Write the sign bits of every ReLU over many images, packed; they are streamed, never all in memory."""
    existing_file(model, "model")
    if sites and mapping:
        raise UserError("Give --sites or --mapping, not both.")
    facts = model_facts(model)
    choice: dict[str, Any] = {"normalization": normalization, "validation_fraction": validation_fraction}
    choice |= {"seed": seed, "limit": limit}
    pictures = load_dataset(dataset, data_dir, facts=facts, **choice)
    from keras_relu.induction import make_plan, write_cache
    from keras_relu.induction.build import flat_copy, prepare

    network = load_keras(model, trusted=trusted)
    names: Sequence[str] | None = [name.strip() for name in sites.split(",")] if sites else None
    identity: tuple[str, ...] = ()
    if mapping:
        made = make_plan(flat_copy(network), mapping, 1)
        names, identity = list(dict.fromkeys(n for g in made.groups for n in g.sites)), made.identity
    base = prepare(network, identity)
    record = {"model_path": model, "identity": list(identity)}
    options: dict[str, Any] = {"images": images, "split": split, "sites": names, "facts": record}
    written = write_cache(base, pictures, output, **options)
    size = sum(file.stat().st_size for file in Path(output).glob("*.bits"))
    short = {"output": output, "images": written.images, "split": split, "sites": len(written.sites), "bytes": size}
    emit(short, as_json=json, lines=[table(("cache", ""), short.items())])


@_induce.command()
def cluster(
    cache: CacheDir,
    mapping: MappingFile,
    prototypes: Prototypes = None,
    preset: Preset = "default",
    selection: SelectionName = None,
    association: AssociationName = None,
    polarity: Polarity = None,
    constants: Constants = None,
    ties: Ties = None,
    energy_images: EnergyImages = None,
    seed: Seed = 0,
    model: OptionalModel = None,
    data_dir: DataDir = None,
    reuse_prototypes: Annotated[
        bool, typer.Option("--reuse-prototypes", help="Take the prototypes of an earlier clustering in the cache.")
    ] = False,
    output: Annotated[str | None, typer.Option("--output", "-o", help="Default: a speaking name in the cache.")] = None,
    matrices: Annotated[
        str | None, typer.Option(help="Also write choosing matrices in the original's index convention (.npz).")
    ] = None,
    trusted: Trusted = False,
    json: Json = False,
) -> None:
    """Select prototypes and assign every induced neuron to one of them."""
    existing_file(mapping, "mapping")
    counts = parse_prototypes(prototypes)
    given: dict[str, Any] = {
        "selection": selection,
        "association": association,
        "polarity": polarity,
        "constants": constants,
    }
    given |= {"ties": ties, "energy_images": energy_images, "seed": seed}
    existing_file(Path(cache) / "cache.json", "header of the cache")
    start_tensorflow()
    from keras_relu import induction as system
    from keras_relu.fingerprint import model_hash
    from keras_relu.induction.assignment import file_name
    from keras_relu.induction.build import flat_copy, prepare

    config = cluster_settings(preset, given)
    opened = system.open_cache(cache)
    path = existing_file(model or str(opened.header.get("model_path")), "model")
    network = load_keras(str(path), trusted=trusted)
    made = system.make_plan(flat_copy(network), mapping, counts)
    base = prepare(network, made.identity)
    pictures = None
    if config.association == "energy":
        pictures = images_of(opened.header, data_dir)
    options: dict[str, Any] = {"prototypes_dir": Path(cache) / "prototypes", "reuse_prototypes": reuse_prototypes}
    say = progress_lines(json)
    assignment = system.cluster(made, opened, config, model=base, dataset=pictures, on_group=say, **options)
    naming: dict[str, Any] = {"selection": config.selection, "association": config.recipe, "seed": config.seed}
    naming |= {"images": opened.images, "model_hash": model_hash(base)}
    target = Path(output) if output else Path(cache) / file_name(made, **naming)
    system.write_assignment(target, assignment)
    if matrices:
        system.write_matrices(matrices, system.to_matrices(assignment))
    facts = {"output": str(target), **made.describe(assignment.used), "assignment": dict(assignment.facts)}
    emit(facts, as_json=json, lines=[*plan_lines(facts), *_cluster_lines(facts)])


def _cluster_lines(facts: Mapping[str, Any]) -> list[Any]:
    rows = [
        (name, entry["inducer"], entry["mismatch"], entry["lost_energy"])
        for name, entry in facts["assignment"]["sites"].items()
    ]
    return [table(("induced site", "inducer", "wrong bits", "energy lost"), rows), f"assignment: {facts['output']}"]


@_induce.command()
def matrices(
    assignment: Annotated[str, typer.Argument(help="An assignment, or choosing matrices with --read (.npz).")],
    output: Annotated[str, typer.Option("--output", "-o", help="The file to write.")],
    read: Annotated[bool, typer.Option("--read", help="From choosing matrices to an assignment.")] = False,
    json: Json = False,
) -> None:
    """Convert an assignment to choosing matrices in the original's channel-first convention, or back."""
    existing_file(assignment, "file")
    _refuse_existing(output)
    start_tensorflow()
    from keras_relu import induction as system

    if read:
        found = system.from_matrices(system.read_matrices(assignment))
        system.write_assignment(output, found)
        pairs = [f"{group.inducer}->{name}" for group in found.groups for name in group.codes]
    else:
        made = system.to_matrices(system.read_assignment(assignment))
        system.write_matrices(output, made)
        pairs = list(made)
    emit({"output": output, "pairs": pairs}, as_json=json, lines=[f"{output}: {len(pairs)} pairs", *pairs])


def _refuse_existing(output: str) -> None:
    path = Path(output)
    if path.exists() and (path.is_file() or any(path.iterdir())):
        raise UserError(f"{output!r} exists; choose a new path for --output.")


def register(app: typer.Typer) -> None:
    """Add the commands of this module and of `induction_runs`."""
    induction_runs.register(_induce)
    app.add_typer(_induce, name="induce")
