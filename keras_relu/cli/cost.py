"""cost estimate, presets and compare; the group also has measure, see `cost_measure`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_relu.cli import cost_measure
from keras_relu.cli.common import Json, Model, Trusted, emit, load_keras, table
from keras_relu.cli.cost_common import (
    Bandwidth,
    Convention,
    PresetName,
    Rtt,
    Save,
    Threads,
    Weights,
    accuracy,
    bytes_text,
    plain_text,
    preset_and_link,
    saved,
    seconds_text,
)
from keras_relu.errors import UserError
from keras_relu.files import existing_file

if TYPE_CHECKING:
    from keras_relu.cost.estimate import Estimate

__all__ = ["register"]

_cost = typer.Typer(no_args_is_help=True, help="What a network costs in private inference: estimated, and measured.")


@_cost.command()
def estimate(
    model: Model,
    preset: PresetName = "spu-cheetah-64",
    bandwidth: Bandwidth = None,
    rtt: Rtt = None,
    weights: Weights = "secret",
    threads: Threads = 1,
    convention: Convention = "relu",
    save: Save = None,
    trusted: Trusted = False,
    json: Json = False,
) -> None:
    """Bytes, rounds, seconds and storage of one inference under a preset, per layer and in total."""
    existing_file(model, "model")
    chosen, link = preset_and_link(preset, bandwidth, rtt)
    network = load_keras(model, trusted=trusted)
    from keras_relu.cost.estimate import estimate as estimated

    made = estimated(network, chosen, link=link, weights=weights, threads=threads, convention=convention)
    answer = {"kind": "cost-estimate", "model": model, **accuracy(model), **made.to_dict()}
    saved(save, answer)
    emit(answer, as_json=json, lines=_estimate_lines(made))


def _estimate_lines(made: Estimate) -> list[Any]:
    from keras_relu.cost.estimate import replacement_prices

    rows = [
        (
            layer.work.name,
            layer.work.layer_type,
            layer.work.relu_count,
            layer.work.comparisons,
            bytes_text(layer.bytes),
            plain_text(layer.rounds),
        )
        for layer in made.layers
    ]
    prices = replacement_prices(made.preset)
    return [
        table(("layer", "type", "ReLUs", "comparisons", "bytes", "rounds"), rows),
        table(("total", f"{made.preset.name}, {made.link}"), _totals(made)),
        table(
            ("instead of a ReLU", "bytes per element", "bytes per layer", "rounds per layer"),
            [
                (name, plain_text(p["bytes"]), plain_text(p["call_bytes"]), plain_text(p["rounds"]))
                for name, p in prices.items()
            ],
        ),
        f"includes: {made.preset.includes}",
        f"excludes: {made.preset.excludes}",
        *(f"note: {note}" for note in made.notes),
        *(f"unknown to this preset: {name}" for name in made.missing),
        *(f"warning: {warning}" for warning in made.warnings),
    ]


def _totals(made: Estimate) -> list[tuple[str, str]]:
    parts = [
        (f"  {part}", bytes_text(value)) for part, value in made.part_bytes().items() if part in made.preset.covers
    ]
    return [
        ("ReLUs", f"{made.relu_count:,} (convention {made.convention})"),
        ("comparisons evaluated", f"{made.executed_comparisons:,}"),
        ("layers that compare / fully linearised", f"{made.relu_layers} / {made.linearised_layers}"),
        ("bytes, all parties", bytes_text(made.bytes)),
        *parts,
        ("rounds", plain_text(made.rounds)),
        ("computation", seconds_text(made.compute_s)),
        ("transfer", seconds_text(made.transfer_s)),
        ("latency", seconds_text(made.latency_s)),
        ("seconds in total", seconds_text(made.seconds)),
        *((name, bytes_text(value)) for name, value in _storage(made).items() if value is not None),
        *((("offline garbling", seconds_text(made.offline_s)),) if made.offline_s is not None else ()),
    ]


def _storage(made: Estimate) -> dict[str, float | None]:
    return {"evaluator stores": made.evaluator_storage_bytes, "garbler stores": made.garbler_storage_bytes}


@_cost.command()
def presets(json: Json = False) -> None:
    """Every constant of every preset, with its unit and its source."""
    from keras_relu.cost.presets import CONSTANTS, get_preset, list_presets

    chosen = [get_preset(name) for name in list_presets()]
    lines: list[Any] = []
    for preset in chosen:
        rows = [
            (name, f"{c.value:g}", CONSTANTS[name], c.kind, "; ".join(filter(None, (c.note, preset.source_of(name)))))
            for name, c in preset.constants.items()
        ]
        lines.append(
            table(("constant", "value", "unit", "kind", "source"), rows, title=f"{preset.name}: {preset.title}")
        )
        lines += [f"includes: {preset.includes}", f"excludes: {preset.excludes}", ""]
    emit({"presets": [preset.to_dict() for preset in chosen], "units": CONSTANTS}, as_json=json, lines=lines)


@_cost.command()
def compare(
    models: Annotated[list[str], typer.Argument(help="The unreduced model first, then others: runs or .keras files.")],
    preset: Annotated[
        list[str] | None,
        typer.Option(help="Cost preset; repeatable, one table each. Default: the three of the engine."),
    ] = None,
    bandwidth: Bandwidth = None,
    rtt: Rtt = None,
    weights: Weights = "secret",
    threads: Threads = 1,
    measured: Annotated[
        list[str] | None, typer.Option(help="A file that `cost measure --save` wrote; repeatable.")
    ] = None,
    output: Annotated[str | None, typer.Option("--output", "-o", help="The HTML file to write.")] = None,
    figures: Annotated[str | None, typer.Option(help="Folder for the figures as PNG and SVG.")] = None,
    trusted: Trusted = False,
    json: Json = False,
) -> None:
    """Several models side by side: one table per preset, with what was measured beside what is estimated."""
    for model in models:
        existing_file(model, "model")
    if figures and not output:
        raise UserError("--figures needs --output: the figures belong to the page.")
    names = preset or ["spu-semi2k-64", "spu-aby3-64", "spu-cheetah-64"]
    chosen = [preset_and_link(name, bandwidth, rtt) for name in names]
    from keras_relu.report.cost import load_measurements

    measurements = load_measurements(measured or ())
    networks = {model: load_keras(model, trusted=trusted) for model in models}
    from keras_relu.cost.estimate import estimate as estimated

    entries = [
        {"kind": "cost-estimate", "model": model, **accuracy(model), **made.to_dict()}
        for one, link in chosen
        for model, network in networks.items()
        for made in [estimated(network, one, link=link, weights=weights, threads=threads)]
    ]
    if output:
        from keras_relu.report.cost import build_report

        build_report(entries, measurements, output, figures_dir=figures)
    emit(
        {"estimates": entries, "measured": measurements, "output": output},
        as_json=json,
        lines=[*(_comparison_table(entries, name) for name in names), *([f"wrote {output}"] if output else [])],
    )


def _comparison_table(entries: list[dict[str, Any]], preset: str) -> Any:
    rows = [entry for entry in entries if entry["preset"] == preset]
    columns = (
        "model",
        "ReLUs",
        "comparisons",
        "ReLU layers",
        "comparison bytes",
        "bytes",
        "rounds",
        "seconds",
        "accuracy",
    )
    return table(
        columns,
        [
            (
                entry["model"],
                entry["relu_count"],
                entry["executed_comparisons"],
                entry["relu_layers"],
                bytes_text(entry["comparison_bytes"]),
                bytes_text(entry["bytes"]),
                plain_text(entry["rounds"]),
                seconds_text(entry["seconds"]),
                entry.get("accuracy"),
            )
            for entry in rows
        ],
        title=f"{preset}, {rows[0]['weights']} weights",
    )


def register(app: typer.Typer) -> None:
    """Add the commands of this module, `cost measure` and `lower`."""
    cost_measure.register(app, _cost)
    app.add_typer(_cost, name="cost")
