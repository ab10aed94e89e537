"""Figures of compression: accuracy against size and multiplications, and the quality of predictors along the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from keras_relu.report import style
from keras_relu.report.drawing import NARROW_IN, ROW_IN, WIDE_IN, Drawing

__all__ = ["predictor_drawing", "variant_drawings"]

Entry = Mapping[str, Any]

# Colour and marker of a stage, borrowed from the palette of replacements.
_STAGES = {
    "train": "identity",
    "vanilla": "identity",
    "pruned": "line",
    "pqat": "quadratic",
    "pred": "scaled_quadratic",
}
_AXES = (
    ("compressed_bytes", "size", "size of the zipped TFLite file (bytes)"),
    ("multiplications", "multiplications", "multiplications per image"),
    ("latency_ms", "latency", "latency of one image (ms)"),
)
_LINES = (
    ("precision", "precision", "identity"),
    ("recall", "recall", "line"),
    ("live_fraction", "live", "quadratic"),
    ("false_negative_fraction", "false negatives", "scaled_quadratic"),
)


def variant_drawings(variants: Sequence[Entry]) -> list[Drawing]:
    """Test accuracy against size, multiplications and latency, for the variants whose accuracy is known."""
    shown = [entry for entry in variants if entry.get("accuracy") is not None]
    drawings = []
    for key, slug, label in _AXES if shown else ():
        listed = ", ".join(f"{entry['name']} {entry['accuracy']:.2%} at {_value(entry, key):,.6g}" for entry in shown)
        caption = f"Test accuracy in percent against {label}, logarithmic"
        caption += "; a predicted network with its blocks fused." if key == "multiplications" else "."
        drawings.append(
            Drawing(f"variants-{slug}", f"Accuracy against {label}: {listed}.", caption, _plot(shown, key, label))
        )
    return drawings


def _value(entry: Entry, key: str) -> float:
    """Predictors exist to fuse, so their network counts as fused."""
    if key != "multiplications":
        return float(entry[key])
    fused = entry.get("fused_multiplications") if entry.get("predictors") else None
    return float(fused or entry["macs"])


def _plot(variants: Sequence[Entry], key: str, label: str) -> Any:
    return lambda narrow: _scatter(variants, key, label, narrow)


def _scatter(variants: Sequence[Entry], key: str, label: str, narrow: bool) -> Figure:
    figure, axes = _frame(narrow, 2.6, len(variants))
    for entry in variants:
        colour, marker = style.replacement_style(_STAGES.get(str(entry.get("stage"))))
        name = style.readable(style.shorten(entry["name"], 30 if narrow else 60))
        point = [_value(entry, key)], [100 * entry["accuracy"]]
        axes.plot(*point, marker=marker, color=colour, linestyle="none", markersize=7, label=name)
    axes.set_xscale("log")
    values = [_value(entry, key) for entry in variants]
    style.log_count_axis(axes, min(values) / 1.4, max(values) * 1.4, room=5 if narrow else 9)
    axes.set_xlabel(label)
    axes.set_ylabel("test accuracy (%)")
    _legend(figure)
    return figure


def predictor_drawing(entry: Entry, slug: str) -> Drawing:
    """Precision, recall, live fraction and false negatives of every predictor, in the order of the network."""
    alt = f"Quality of the predictors of {entry['name']}: " + "; ".join(
        f"{one['name']} precision {_text(one['precision'])}, recall {_text(one['recall'])}"
        for one in entry["predictors"]
    )
    caption = (
        "Precision and recall of the prediction that an activation is live, and fractions of all activations, by site."
    )
    return Drawing(slug, alt, caption, lambda narrow: _quality(entry, narrow))


def _text(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"


def _quality(entry: Entry, narrow: bool) -> Figure:
    sites = entry["predictors"]
    figure, axes = _frame(narrow, 2.4, len(_LINES), bottom=1.5)
    for key, label, name in _LINES:
        colour, marker = style.replacement_style(name)
        values = [float("nan") if one[key] is None else one[key] for one in sites]
        axes.plot(range(len(sites)), values, color=colour, marker=marker, markersize=4, linewidth=1.2, label=label)
    axes.set_ylim(-0.02, 1.02)
    step = -(-len(sites) // (10 if narrow else 32))
    axes.set_xticks(
        range(0, len(sites), step), [style.shorten(one["name"], 22) for one in sites[::step]], rotation=90, fontsize=7
    )
    axes.set_ylabel("fraction")
    _legend(figure)
    return figure


def _frame(narrow: bool, body: float, rows: int, *, bottom: float = 0.6) -> tuple[Figure, Axes]:
    """Axes `body` inches high above a legend of `rows` rows."""
    width, below = NARROW_IN if narrow else WIDE_IN, bottom + rows * ROW_IN + 0.2
    height = body + below + 0.15
    figure = Figure(figsize=(width, height))
    return figure, figure.add_axes((0.62 / width, below / height, 1 - 0.8 / width, body / height))


def _legend(figure: Figure) -> None:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower left", bbox_to_anchor=(0.02, 0.0), borderaxespad=0.2, labelspacing=0.2)
