"""What the commands of `cost` share: options, the preset with its link, and how numbers are written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_relu.cli.common import model_facts
from keras_relu.files import write_json

if TYPE_CHECKING:
    from keras_relu.cost.link import Link
    from keras_relu.cost.presets import Preset

__all__ = [
    "Bandwidth",
    "Convention",
    "PresetName",
    "Rtt",
    "Save",
    "Threads",
    "Weights",
    "accuracy",
    "bytes_text",
    "plain_text",
    "preset_and_link",
    "saved",
    "seconds_text",
]

PresetName = Annotated[str, typer.Option("--preset", help="Cost preset, see `cost presets`.")]
Bandwidth = Annotated[str | None, typer.Option(help="Of the link, such as 384Mbps; default: the preset's.")]
Rtt = Annotated[str | None, typer.Option(help="Time of a request and its answer, such as 40ms; default: the preset's.")]
Weights = Annotated[str, typer.Option(help="Who knows the weights: secret (nobody), owned (one party), public (all).")]
Threads = Annotated[int, typer.Option(min=1, help="Divide computation where the preset says that threads do.")]
Convention = Annotated[str, typer.Option(help="Counting convention of the ReLUs printed beside, see `count`.")]
Save = Annotated[str | None, typer.Option(help="Also write the answer to this JSON file, for `cost compare`.")]


def preset_and_link(name: str, bandwidth: str | None, rtt: str | None) -> tuple[Preset, Link]:
    from keras_relu.cost.link import Link
    from keras_relu.cost.presets import get_preset

    preset = get_preset(name)
    return preset, Link.parse(bandwidth or preset.bandwidth, rtt or preset.rtt)


def accuracy(model: str) -> dict[str, Any]:
    facts = model_facts(model)
    return {key: facts[key] for key in ("accuracy", "dataset", "arch", "replacement") if facts.get(key) is not None}


def saved(path: str | None, answer: Mapping[str, Any]) -> None:
    if path is not None:
        write_json(path, answer)


def bytes_text(value: float | None) -> str:
    if value is None:
        return "unknown"
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:,.3f} {unit}"
    return f"{value:.0f} B"


def seconds_text(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f} s"


def plain_text(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.6g}"
