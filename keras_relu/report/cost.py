"""The report of private-inference cost: estimates, one table per preset, and measurements, in one page.

It works on the plain values of `Estimate.to_dict` and on files of `cost measure --save`; it does not import TensorFlow.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_relu.cost.presets import CONSTANTS, get_preset, published_runs
from keras_relu.errors import UserError
from keras_relu.files import read_json
from keras_relu.report import cost_figures as figures
from keras_relu.report import sections

__all__ = ["build_report", "load_measurements"]

Entry = Mapping[str, Any]
_KEYS = ("model", "protocol", "weights", "bytes", "comparison_bytes", "messages", "seconds", "max_error", "same_argmax")


def load_measurements(paths: Iterable[str | os.PathLike]) -> list[dict[str, Any]]:
    """The files that `cost measure --save` wrote.

    Raises:
        UserError: one is missing, damaged or something else.
    """
    return [_measurement(Path(path)) for path in paths]


def _measurement(path: Path) -> dict[str, Any]:
    content = read_json(path, "measurement")
    models = content.get("models") if isinstance(content, dict) and content.get("kind") == "cost-measurement" else None
    if not isinstance(models, list) or not models or not all(key in entry for entry in models for key in _KEYS):
        raise UserError(f"{str(path)!r} is no measurement; write one with `keras-relu cost measure --save`.")
    return content


def build_report(
    estimates: Sequence[Entry],
    measurements: Sequence[Entry],
    output: str | os.PathLike,
    *,
    figures_dir: str | os.PathLike | None = None,
) -> Path:
    """Write the page; returns its path.

    Args:
        estimates: `Estimate.to_dict()` with the key `model` and, for the plots, `accuracy`. Presets are never mixed in
            one table.
        measurements: from `load_measurements`.

    Raises:
        UserError: `output` is a directory or `figures_dir` a file.
    """
    named = [{**entry, "name": Path(str(entry["model"])).name or str(entry["model"])} for entry in estimates]
    presets = list(dict.fromkeys(entry["preset"] for entry in named))
    parts = [_estimated([entry for entry in named if entry["preset"] == preset]) for preset in presets]
    parts += [_measured(measurements, named)] if measurements else []
    parts += [_constants(preset) for preset in presets]
    parts.append(_published())
    names = list(dict.fromkeys(str(entry["model"]) for entry in named))
    return sections.write_page("Cost", names, parts, output, figures_dir=figures_dir)


def _estimated(entries: Sequence[Entry]) -> dict[str, Any]:
    preset = entries[0]["preset"]
    heads = ("model", "ReLUs", "comparisons", "ReLU layers", "linearised", "comparison bytes", "bytes", "rounds",
             "seconds", "accuracy")  # fmt: skip
    keys = ("relu_count", "executed_comparisons", "relu_layers", "linearised_layers", "comparison_bytes", "bytes",
            "rounds", "seconds", "accuracy")  # fmt: skip
    rows = [(entry["name"], *(_number(entry.get(key)) for key in keys)) for entry in entries]
    title = (
        f"Per image, {entries[0]['weights']} weights, {entries[0]['bandwidth_bits_per_second'] / 1e6:g} Mbps, "
        f"{1e3 * entries[0]['rtt_s']:g} ms round trip. Includes: {entries[0]['includes']} Excludes: {entries[0]['excludes']}"
    )
    notes = [(entry["name"], note) for entry in entries for note in (*entry["warnings"], *entry["notes"])]
    tables = [sections.table(title, heads, rows), sections.table("Notes.", ("model", "note"), dict.fromkeys(notes))]
    bars = figures.layer_drawing(entries, preset)
    drawings = [*figures.pareto_drawings(entries, preset), *([bars] if bars else [])]
    return sections.section(f"Estimated: {preset}", tables, drawings)


def _number(value: Any) -> Any:
    """Whole numbers for everything that is not a small measurement."""
    return round(value) if isinstance(value, float) and value >= 1000 else value


def _measured(measurements: Sequence[Entry], estimates: Sequence[Entry]) -> dict[str, Any]:
    heads = ("model", "bytes", "comparison bytes", "estimate / measured", "messages", "seconds here", "seconds, simulated",
             "max error", "same argmax")  # fmt: skip
    tables = []
    for content in measurements:
        first = content["models"][0]
        rows = [
            (
                Path(str(entry["model"])).name,
                *(_number(entry[key]) for key in ("bytes", "comparison_bytes")),
                _ratio(entry, estimates),
                *(_number(entry[key]) for key in ("messages", "seconds", "simulated_s", "max_error")),
                f"{entry['same_argmax']} of {entry['images']}",
            )
            for entry in content["models"]
        ]
        title = (
            f"Measured with {first['protocol']} ({first['protocol_description']}), {first['weights']} weights, per image. "
            f"Simulated: computed for {content['link']}; no such link was there."
        )
        tables.append(sections.table(title, heads, rows))
    return sections.section("Measured on the engine", tables, [])


def _ratio(entry: Entry, estimates: Sequence[Entry]) -> float | None:
    """Estimated over measured comparison bytes, under the preset that describes the protocol."""
    for estimate in estimates:
        same = get_preset(estimate["preset"]).engine_protocol == entry["protocol"]
        if same and estimate["model"] == entry["model"] and entry["comparison_bytes"]:
            return estimate["comparison_bytes"] / entry["comparison_bytes"]
    return None


def _constants(name: str) -> dict[str, Any]:
    preset = get_preset(name)
    rows = [
        (
            key,
            f"{constant.value:g}",
            CONSTANTS[key],
            constant.kind,
            " ".join((constant.note, preset.source_of(key))).strip(),
        )
        for key, constant in preset.constants.items()
    ]
    heads = ("constant", "value", "unit", "kind", "source")
    return sections.section(f"Constants of {name}", [sections.table(preset.title, heads, rows)], [])


def _published() -> dict[str, Any]:
    rows = [
        (
            run["system"],
            run["network"],
            run["link"],
            run.get("bound") or (f"{run['seconds']:g} s" if "seconds" in run else None),
            f"{run['bytes']:,}" if "bytes" in run else None,
            run["source"],
        )
        for run in published_runs()
    ]
    title = "Whole networks as others measured them; other machines, other networks: cited, not compared."
    heads = ("system", "network", "link", "time", "bytes", "source")
    return sections.section("Published", [sections.table(title, heads, rows)], [])
