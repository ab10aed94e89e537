"""The figures of an induction report: accuracy against comparisons, use and places of prototypes, wrong bits per site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from keras_relu.report import style
from keras_relu.report.drawing import NARROW_IN, WIDE_IN, Drawing

__all__ = ["STATES", "accuracy_drawing", "mismatch_drawing", "places_drawing", "usage_drawing"]

# Key of the result -> what the figure calls it; the last state a run reached is its accuracy.
STATES = {
    "accuracy_before_bn": "as assigned",
    "accuracy_before_finetune": "batch normalisation re-estimated",
    "accuracy": "fine-tuned",
}
_MARKS = ("o", "s", "D")
_MOST_ROWS = 40


def _figure(narrow: bool, height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(NARROW_IN if narrow else WIDE_IN, height), layout="constrained")
    return figure, figure.add_subplot()


def accuracy_drawing(points: Sequence[Mapping[str, Any]], baseline: float | None) -> Drawing:
    """Accuracy of every run against the comparisons it leaves.

    Args:
        points: one mapping per run with `name`, `comparisons` and {state: accuracy} under `states`.
        baseline: accuracy with all comparisons.
    """

    def draw(narrow: bool) -> Figure:
        figure, axes = _figure(narrow, 3.6)
        for index, (state, label) in enumerate(STATES.items()):
            found = [(p["comparisons"], 100 * p["states"][state]) for p in points if state in p["states"]]
            if found:
                x, y = zip(*sorted(found), strict=True)
                colour = style.sequence_colour(index, len(STATES))
                axes.plot(x, y, _MARKS[index], color=colour, label=label, markersize=5)
        if baseline is not None:
            axes.axhline(100 * baseline, color=style.MUTED, linewidth=1, linestyle="--", label="without induction")
        values = [p["comparisons"] for p in points]
        style.log_count_axis(axes, 0.7 * max(1, min(values)), 1.4 * max(values), room=5 if narrow else 9)
        axes.set_xlabel("comparisons left per image")
        axes.set_ylabel("accuracy, %")
        axes.yaxis.set_major_formatter(FuncFormatter(style.percent_tick))
        axes.legend(loc="best", fontsize=8)
        return figure

    alt = f"Accuracy against comparisons left for {len(points)} induced networks."
    caption = (
        "Test accuracy in percent against the comparisons left per image (logarithmic): as assigned, after batch "
        "normalisation was re-estimated, and after fine-tuning."
    )
    return Drawing("accuracy", alt, caption, draw)


def usage_drawing(name: str, inducer: str, usage: Sequence[int], slug: str) -> Drawing:
    """How many neurons borrow from each prototype, the most used first."""
    ordered = np.sort(np.asarray(usage, np.int64))[::-1]

    def draw(narrow: bool) -> Figure:
        figure, axes = _figure(narrow, 2.6)
        axes.fill_between(np.arange(1, len(ordered) + 1), ordered, step="mid", color=style.sequence_colour(1, 3))
        axes.set_yscale("symlog", linthresh=1)
        axes.set_ylim(bottom=0)
        axes.set_xlim(1, max(2, len(ordered)))
        axes.set_xlabel(f"prototypes of {style.shorten(inducer, 30)}, most used first")
        axes.set_ylabel("neurons that borrow")
        return figure

    used = int(np.count_nonzero(ordered))
    alt = f"Use of the {len(ordered)} prototypes of {inducer} in {name}: {used} are borrowed from."
    share = ordered[: max(1, len(ordered) // 10)].sum() / max(1, ordered.sum())
    caption = (
        f"{name}: neurons that borrow from each prototype of {inducer} (logarithmic). {used:,} of {len(ordered):,} prototypes "
        f"are used; the most used tenth serves {100 * share:.0f} % of the borrowing neurons."
    )
    return Drawing(slug, alt, caption, draw)


def places_drawing(name: str, inducer: str, shape: Sequence[int], places: Sequence[int], slug: str) -> Drawing:
    """Where the prototypes lie: a count per pixel of the inducer, and per channel below."""
    rows, columns, channels = list(shape) if len(shape) == 3 else [1, 1, int(np.prod(shape))]
    y, x, channel = np.unravel_index(np.asarray(places, np.int64), (rows, columns, channels))
    pixels = np.zeros((rows, columns), np.int64)
    np.add.at(pixels, (y, x), 1)

    def draw(narrow: bool) -> Figure:
        figure = Figure(figsize=(NARROW_IN if narrow else WIDE_IN, 3.4), layout="constrained")
        plane, bars = figure.subplots(1, 2, width_ratios=(1.0, 1.2))
        image = plane.imshow(pixels, cmap=style.FRACTION_CMAP, interpolation="none")
        plane.grid(False)
        plane.set_xlabel("column")
        plane.set_ylabel("row")
        figure.colorbar(image, ax=plane, label="prototypes", shrink=0.8)
        bars.bar(
            np.arange(channels), np.bincount(channel, minlength=channels), color=style.sequence_colour(0, 3), width=1.0
        )
        bars.set_xlabel("channel")
        bars.set_ylabel("prototypes")
        return figure

    alt = f"Places of the {len(places)} prototypes of {inducer} in {name} over the image plane and the channels."
    caption = (
        f"{name}: the {len(places):,} prototypes of {inducer} over its {rows} x {columns} pixels (left) and its {channels:,} "
        "channels (right)."
    )
    return Drawing(slug, alt, caption, draw)


def mismatch_drawing(name: str, sites: Mapping[str, Mapping[str, Any]], slug: str) -> Drawing:
    """Wrong bits of every induced site, and the energy they lose where it was measured."""
    shown = list(sites.items())[:_MOST_ROWS]

    def draw(narrow: bool) -> Figure:
        figure, axes = _figure(narrow, 0.9 + 0.24 * len(shown))
        places = np.arange(len(shown))[::-1]
        for index, (key, label) in enumerate((("mismatch", "wrong bits"), ("lost_energy", "energy lost"))):
            pairs = [
                (at, 100 * entry[key])
                for at, (_, entry) in zip(places, shown, strict=True)
                if entry.get(key) is not None
            ]
            if pairs:
                at, values = zip(*pairs, strict=True)
                axes.barh(
                    np.array(at) + 0.2 - 0.4 * index,
                    values,
                    0.36,
                    color=style.sequence_colour(2 * index, 3),
                    label=label,
                )
        axes.set_yticks(places, [style.shorten(site, 18 if narrow else 36) for site, _ in shown])
        axes.grid(False, axis="y")
        axes.set_xlabel("%")
        axes.legend(loc="lower right", fontsize=8)
        return figure

    alt = f"Fraction of wrong bits of {len(shown)} induced sites of {name}."
    caption = (
        f"{name}: bits that differ from the site's own signs, in percent of neurons and images, and the share of the energy "
        "(sum of x squared) at those; the clustering's images."
    )
    return Drawing(slug, alt, caption, draw)
