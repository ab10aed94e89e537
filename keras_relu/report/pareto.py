"""Accuracy against ReLU budget: own runs filled and solid, published points hollow and dotted."""

from __future__ import annotations

import itertools
import textwrap
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from keras_relu.report import style
from keras_relu.report.drawing import NARROW_IN, ROW_IN, WIDE_IN, Drawing
from keras_relu.report.load import RunData
from keras_relu.report.published import Series, published_series

__all__ = ["baselines", "own_series", "pareto_drawings"]

Points = list[tuple[float, float]]
_DASHES = ((0, (6, 3)), (0, (2, 2)), (0, (6, 2, 1, 2)))
_REFERENCE_MARKERS = "o^vsDP*X"


def own_series(runs: Sequence[RunData]) -> dict[str, list[RunData]]:
    """The reduced runs of one dataset by replacement; network, gate and preset join the label where they differ."""
    usable = [run for run in runs if run.reduced and run.number("accuracy") is not None]
    keys = ["replacement"]
    keys += [key for key in ("arch", "gate", "normalization") if len({run.setting(key) for run in usable}) > 1]
    groups: dict[str, list[RunData]] = defaultdict(list)
    for run in sorted(usable, key=lambda run: [str(run.setting(key, "")) for key in keys]):
        groups[", ".join(str(run.setting(key, "no replacement")) for key in keys)].append(run)
    return dict(groups)


def baselines(runs: Sequence[RunData]) -> dict[str, float]:
    """Label -> test accuracy of every unreduced network among the runs of one dataset."""
    found: dict[tuple[str, float], str] = {}
    for run in runs:
        accuracy = run.number("baseline_accuracy" if run.reduced else "accuracy")
        if accuracy is None:
            continue
        network = str(run.setting("arch", "network"))
        count = run.number("relu_count_before" if run.reduced else "relu_count")
        if count or (network, accuracy) not in found:
            found[network, accuracy] = f", all {count:,.0f} ReLUs" if count else ""
    return {
        f"baseline {network}{count}: {100 * accuracy:.2f} %": accuracy for (network, accuracy), count in found.items()
    }


def pareto_drawings(runs: Sequence[RunData], *, reference: bool) -> list[Drawing]:
    """One figure per dataset with a finished run that has a test accuracy."""
    datasets = dict.fromkeys(str(run.setting("dataset", "unknown dataset")) for run in runs)
    drawings = []
    for dataset in datasets:
        members = [run for run in runs if str(run.setting("dataset", "unknown dataset")) == dataset]
        # Without a reduced run there is no budget axis; a published curve alone would say nothing about these runs.
        if own_series(members):
            drawings.append(_drawing(dataset, members, published_series(dataset) if reference else []))
    return drawings


def _drawing(dataset: str, runs: list[RunData], references: list[Series]) -> Drawing:
    groups = own_series(runs)
    parts = [
        f"{label}: " + ", ".join(f"{run.number('accuracy'):.2%} at {run.number('relu_count'):,.0f}" for run in members)
        for label, members in groups.items()
    ]
    alt = f"Test accuracy against ReLUs kept on {dataset}. " + "; ".join([*parts, *baselines(runs)])
    caption = (
        f"Test accuracy on {dataset} in percent against the number of ReLUs kept per image (logarithmic). "
        "Filled markers: the runs of this report, one colour and marker per replacement; a line joins the mean of the "
        "runs at each count. "
    )
    if references:
        caption += "Hollow markers and dotted lines: published results, not measured here, often on another network."
    return Drawing(f"pareto-{dataset}", alt, caption, lambda narrow: _figure(dataset, runs, references, narrow))


def _figure(dataset: str, runs: list[RunData], references: list[Series], narrow: bool) -> Figure:
    groups, lines = own_series(runs), baselines(runs)
    width, plot, below = (NARROW_IN, 2.8, 0.6) if narrow else (WIDE_IN, 4.0, 0.6)
    figure = Figure(figsize=(width, plot))
    axes = figure.add_subplot()
    own = _draw_own(axes, groups, narrow) + _draw_baselines(axes, lines)
    others = _draw_references(axes, references)
    own_rows, other_rows = _wrap(own, 50 if narrow else 40 if others else 90), _wrap(others, 50 if narrow else 68)
    legend = (own_rows + other_rows if narrow else max(own_rows, other_rows)) * ROW_IN + 0.25
    height = plot + below + legend + 0.3
    left = 0.62 / width
    figure.set_figheight(height)
    axes.set_position((left, (legend + below) / height, 1 - left - 0.12 / width, plot / height))
    _finish_axes(axes, groups, references, narrow)
    title = style.shorten(f"{dataset}: test accuracy against ReLU budget", 52)
    figure.text(0.02 if narrow else left, 1 - 0.06 / height, title, va="top", fontsize=9.5 if narrow else 10)
    _legend(figure, "This report", own, (0.02 if narrow else left, legend / height))
    if others:
        second = (0.02, (legend - own_rows * ROW_IN) / height) if narrow else (0.45, legend / height)
        _legend(figure, "Published, not measured here (N: ReLUs in all)", others, second)
    return figure


def _wrap(handles: list[Line2D], characters: int) -> int:
    """Break long legend labels; returns the rows that the legend then takes, its title included."""
    labels = [style.readable(textwrap.fill(str(handle.get_label()), characters)) for handle in handles]
    for handle, label in zip(handles, labels, strict=True):
        handle.set_label(label)
    return sum(label.count("\n") + 1 for label in labels) + 1 if labels else 0


def _zero_at(groups: dict[str, list[RunData]]) -> float | None:
    """Where a run that keeps no ReLU at all goes: left of the smallest count."""
    counts = [run.number("relu_count") for members in groups.values() for run in members]
    return min((count for count in counts if count), default=1000) / 4 if 0 in counts else None


def _position(run: RunData, zero_at: float | None) -> float:
    return run.number("relu_count") or zero_at or 1.0


def _means(members: list[RunData], zero_at: float | None) -> Points:
    by_count: dict[float, list[float]] = defaultdict(list)
    for run in members:
        by_count[_position(run, zero_at)].append(100 * run.number("accuracy"))
    return sorted((count, sum(values) / len(values)) for count, values in by_count.items())


def _draw_own(axes: Axes, groups: dict[str, list[RunData]], narrow: bool) -> list[Line2D]:
    handles: list[Line2D] = []
    seen: dict[str | None, int] = defaultdict(int)
    zero_at = _zero_at(groups)
    for label, members in groups.items():
        name = members[0].setting("replacement")
        colour, marker = style.replacement_style(name)
        # The same replacement twice (another network or gate) differs by its line.
        line: Any = ("-", "--", "-.", ":")[seen[name] % 4]
        seen[name] += 1
        axes.plot(*zip(*_means(members, zero_at), strict=True), line, color=colour, linewidth=1.8, zorder=4)
        points = [(_position(run, zero_at), 100 * run.number("accuracy")) for run in members]
        axes.plot(*zip(*points, strict=True), marker, color=colour, markersize=5.5 if narrow else 6.5, zorder=5)
        handles.append(Line2D([], [], color=colour, marker=marker, linestyle=line, label=style.plain(label)))
    return handles


def _draw_baselines(axes: Axes, lines: dict[str, float]) -> list[Line2D]:
    handles = []
    for (label, accuracy), dash in zip(lines.items(), itertools.cycle(_DASHES), strict=False):
        axes.axhline(100 * accuracy, color=style.INK, linestyle=dash, linewidth=1.2, zorder=3)
        handles.append(Line2D([], [], color=style.INK, linestyle=dash, linewidth=1.2, label=style.plain(label)))
    return handles


def _draw_references(axes: Axes, references: list[Series]) -> list[Line2D]:
    handles = []
    spare = itertools.cycle(_REFERENCE_MARKERS)
    used = set()
    for series in references:
        colour, marker = style.replacement_style(series.replacement)
        if series.replacement is None or series.replacement in used:
            # A second series of a replacement goes grey, or it would be read as more points of the first.
            colour, marker = style.MUTED, next(spare)
        used.add(series.replacement)
        look: dict[str, Any] = {
            "color": colour,
            "marker": marker,
            "markerfacecolor": style.PAPER,
            "markersize": 5,
            "linestyle": ":",
        }
        axes.plot(*zip(*series.points, strict=True), linewidth=1.0, markeredgewidth=1.0, zorder=2, **look)
        handles.append(Line2D([], [], linewidth=1.0, label=series.legend, **look))
    return handles


def _finish_axes(axes: Axes, groups: dict[str, list[RunData]], references: list[Series], narrow: bool) -> None:
    counts = [run.number("relu_count") for members in groups.values() for run in members]
    totals = [run.number("relu_count_before") or 0 for members in groups.values() for run in members]
    published = [count for series in references for count, _ in series.points]
    zero_at = _zero_at(groups)
    positive = [count for count in (*counts, *totals, *published, zero_at or 0) if count]
    axes.set_xlabel("ReLUs kept per image (logarithmic)")
    axes.set_ylabel("Test accuracy (%)")
    style.log_count_axis(axes, min(positive) / 1.3, max(positive) * 1.3, room=6 if narrow else 11, zero_at=zero_at)
    low, high = axes.get_ylim()
    if high - low < 1:
        axes.set_ylim((low + high) / 2 - 0.6, (low + high) / 2 + 0.6)
    axes.yaxis.set_major_formatter(style.percent_tick)


def _legend(figure: Figure, title: str, handles: list[Line2D], corner: tuple[float, float]) -> None:
    legend = figure.legend(
        handles=handles, title=title, loc="upper left", bbox_to_anchor=corner, fontsize=8, title_fontsize=8.5,
        alignment="left", borderaxespad=0, borderpad=0.2, labelspacing=0.35, handlelength=2.4,
    )  # fmt: skip
    legend.get_title().set_fontweight("bold")
