"""Figures of private-inference cost: accuracy against bytes, rounds and seconds, and bytes per layer before and after."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from keras_relu.report import style
from keras_relu.report.drawing import NARROW_IN, ROW_IN, WIDE_IN, Drawing

__all__ = ["layer_drawing", "pareto_drawings"]

Entry = Mapping[str, Any]
_AXES = (("bytes", "bytes of all parties"), ("rounds", "rounds"), ("seconds", "seconds"))
_COLOURS = ("identity", "line", "quadratic", "scaled_quadratic", "moment_line", "moment_quadratic")


def pareto_drawings(entries: Sequence[Entry], preset: str) -> list[Drawing]:
    """Accuracy against bytes, rounds and seconds of the models whose accuracy is known, under one preset."""
    drawings = []
    for key, label in _AXES:
        shown = [entry for entry in entries if entry.get("accuracy") is not None and entry.get(key) is not None]
        if len(shown) > 1:
            listed = ", ".join(f"{entry['name']} {entry['accuracy']:.2%} at {entry[key]:,.6g}" for entry in shown)
            drawings.append(
                Drawing(
                    f"{key}-{preset}",
                    f"Accuracy against {label} under {preset}: {listed}.",
                    f"Test accuracy in percent against estimated {label} per image under {preset}; up and left is better.",
                    functools.partial(_pareto, shown, key, label),
                )
            )
    return drawings


def _look(index: int) -> tuple[str, str]:
    return style.replacement_style(_COLOURS[index % len(_COLOURS)])


def _pareto(shown: Sequence[Entry], key: str, label: str, narrow: bool) -> Figure:
    width, plot, below = (NARROW_IN if narrow else WIDE_IN), 2.8, 0.6
    legend = len(shown) * ROW_IN + 0.15
    height = plot + below + legend + 0.15
    figure = Figure(figsize=(width, height))
    left = 0.62 / width
    axes = figure.add_axes((left, (legend + below) / height, 1 - left - 0.2 / width, plot / height))
    for index, entry in enumerate(shown):
        colour, marker = _look(index)
        name = style.readable(style.shorten(entry["name"], 48))
        axes.plot(entry[key], 100 * entry["accuracy"], marker, color=colour, markersize=7, label=name, linestyle="")
    axes.set_xlabel(f"{label} per image")
    axes.set_ylabel("Test accuracy (%)")
    axes.set_xlim(0, 1.08 * max(entry[key] for entry in shown))
    axes.xaxis.set_major_formatter(lambda value, _: style.number(value))
    figure.legend(loc="upper left", bbox_to_anchor=(0.02, legend / height), fontsize=8, borderaxespad=0)
    return figure


def layer_drawing(entries: Sequence[Entry], preset: str) -> Drawing | None:
    """Bytes of each layer's comparisons and products, one bar per model; layers of the first model give the rows."""
    named = {entry["name"]: _activation_bytes(entry) for entry in entries}
    rows = list(dict.fromkeys(name for layers in named.values() for name in layers))
    if not rows:
        return None
    parts = ", ".join(f"{model} {sum(layers.values()):,.0f}" for model, layers in named.items())
    return Drawing(
        f"layers-{preset}",
        f"Bytes of activations per layer under {preset}; in total: {parts}.",
        f"Estimated bytes per image of each activation or pooling under {preset}, from the input (top) to the output.",
        lambda narrow: _bars(named, rows, narrow),
    )


def _activation_bytes(entry: Entry) -> dict[str, float]:
    layers = {}
    for layer in entry["layers"]:
        if layer["comparisons"] or layer["products"] or (layer["constant_products"] and not layer["macs"]):
            layers[layer["name"]] = layer["bytes"] or 0.0
    return layers


def _bars(named: Mapping[str, Mapping[str, float]], rows: Sequence[str], narrow: bool) -> Figure:
    width = NARROW_IN if narrow else WIDE_IN
    each = 0.1 * len(named) + 0.08
    legend = len(named) * ROW_IN + 0.15
    height = 0.9 + each * len(rows) + legend
    figure = Figure(figsize=(width, height))
    left, below = 1.5 / width, (legend + 0.5) / height
    axes = figure.add_axes((left, below, 1 - left - 0.15 / width, each * len(rows) / height))
    places = np.arange(len(rows))
    thick = 0.85 / len(named)
    for index, (model, layers) in enumerate(named.items()):
        label = style.readable(style.shorten(model, 48))
        values = [layers.get(row, 0.0) for row in rows]
        axes.barh(places + (index + 0.5) * thick - 0.425, values, height=thick, color=_look(index)[0], label=label)
    axes.set_yticks(places, [style.shorten(row, 24) for row in rows], fontsize=7)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_formatter(lambda value, _: style.number(value))
    axes.set_xlabel("bytes per image, all parties")
    figure.legend(loc="upper left", bbox_to_anchor=(0.02, legend / height), fontsize=8, borderaxespad=0)
    return figure
