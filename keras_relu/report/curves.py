"""Training curves: loss, validation accuracy and kept ReLUs over epochs, search and fine-tuning told apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from keras_relu.report import style
from keras_relu.report.drawing import NARROW_IN, ROW_IN, WIDE_IN, Drawing
from keras_relu.report.load import RunData

__all__ = ["curve_drawings", "timeline"]

_RUNS_PER_FIGURE = 8
_PANELS = (("loss", "Training loss", 1), ("val_accuracy", "Validation accuracy (%)", 100), ("kept", "ReLUs kept", 1))
_LINES = ("-", "--", "-.", (0, (1, 1)))
PHASE_NAMES = {"finetune": "fine-tune"}


def timeline(metrics: pd.DataFrame) -> tuple[pd.Series, list[tuple[str, float]]]:
    """Position of every row in epochs since the start of the run, and the start of each phase.

    Epochs and steps may count on through the phases or start again in each; rows without an epoch are NaN.
    """
    position = pd.Series(np.nan, index=metrics.index)
    starts, offset, last_step = [], 0.0, 0.0
    change = metrics["phase"] != metrics["phase"].shift()
    for _, rows in metrics.groupby(change.cumsum()):
        rows = rows[rows["epoch"].notna()]
        if rows.empty:
            continue
        starts.append((str(rows["phase"].iloc[0]), offset))
        first = last_step if rows["step"].min() >= last_step else 0.0
        position[rows.index] = offset + _epochs_within(rows, first)
        offset += rows["epoch"].max() - rows["epoch"].min() + 1
        last_step = rows["step"].max() if rows["step"].notna().any() else 0.0
    return position, starts


def _epochs_within(rows: pd.DataFrame, first_step: float) -> np.ndarray:
    """Epochs done since the start of the phase: by step where there is one, else spread evenly over the epoch."""
    index = (rows["epoch"] - rows["epoch"].min()).to_numpy(float)
    ends = rows.groupby("epoch")["step"].max()
    marks = np.array([first_step, *ends])
    if rows["step"].notna().all() and (np.diff(marks) > 0).all():
        # An epoch still running has not reached its end: take its length from the one before.
        whole = np.diff(marks)[0]
        marks[-1] = max(marks[-1], marks[-2] + whole)
        return np.interp(rows["step"], marks, [0.0, *(ends.index - ends.index[0] + 1.0)])
    share = (rows.groupby("epoch").cumcount() + 1) / rows.groupby("epoch")["epoch"].transform("size")
    return index + share.to_numpy(float)


def curve_drawings(runs: Sequence[RunData]) -> list[Drawing]:
    """One figure per dataset, network and replacement, at most eight runs in each."""
    groups: dict[tuple[str, ...], list[RunData]] = defaultdict(list)
    for run in runs:
        if timeline(run.metrics)[1]:
            kind = run.setting("replacement") or run.stage
            groups[str(run.setting("dataset", "")), str(run.setting("arch", "")), str(kind)].append(run)
    drawings: list[Drawing] = []
    for key, members in groups.items():
        members.sort(key=lambda run: (-_budget(run), run.name))
        for start in range(0, len(members), _RUNS_PER_FIGURE):
            drawings.append(_drawing(key, members[start : start + _RUNS_PER_FIGURE], len(drawings) + 1))
    return drawings


def _budget(run: RunData) -> float:
    """The budget asked for, 0 without one (the configuration of an unfinished run may hold any text)."""
    budget = run.setting("budget")
    return budget if isinstance(budget, (int, float)) else 0


def _drawing(key: tuple[str, ...], runs: list[RunData], index: int) -> Drawing:
    heading = ", ".join(part for part in key if part)
    names = ", ".join(run.name for run in runs)
    alt = f"Training curves over epochs ({heading}): loss, validation accuracy and kept ReLUs of {names}."
    caption = (
        f"{heading}: training loss as the run minimised it, validation accuracy in percent and "
        "ReLUs kept per image, over epochs. Dotted verticals mark where a phase ends, in the colour of the run where "
        "runs differ."
    )
    return Drawing(f"curves-{index}-{key[-1]}", alt, caption, lambda narrow: _figure(heading, runs, narrow))


def _figure(heading: str, runs: list[RunData], narrow: bool) -> Figure:
    panels = [panel for panel in _PANELS if any(run.metrics[panel[0]].notna().any() for run in runs)]
    columns = 1 if narrow else max(len(panels), 1)
    rows = max(len(panels), 1) if narrow else 1
    width, legend_rows = (NARROW_IN if narrow else WIDE_IN), (len(runs) if narrow else -(-len(runs) // 2))
    legend = legend_rows * ROW_IN + 0.15
    height = rows * (1.75 if narrow else 2.5) + 0.85 + legend
    figure = Figure(figsize=(width, height))
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    figure.subplots_adjust(
        left=0.62 / width, right=1 - 0.1 / width, bottom=(legend + 0.5) / height, top=1 - 0.5 / height,
        hspace=0.28, wspace=0.34,
    )  # fmt: skip
    for axes, panel in zip(grid, panels, strict=False):
        _panel(axes, panel, runs)
    figure.suptitle(style.shorten(heading, 48), x=0.1 / width, ha="left", y=1 - 0.06 / height, fontsize=10)
    for axes in grid[-1:] if narrow else grid:
        axes.set_xlabel("Epoch")
    figure.legend(
        handles=[_handle(run, place, len(runs)) for place, run in enumerate(runs)], loc="upper left",
        bbox_to_anchor=(0.05 / width, legend / height), ncols=1 if narrow else 2, fontsize=8, borderaxespad=0,
        labelspacing=0.35,
    )  # fmt: skip
    return figure


def _look(place: int, count: int) -> dict[str, Any]:
    return {"color": style.sequence_colour(place, count), "linestyle": _LINES[place % len(_LINES)], "linewidth": 1.5}


def _handle(run: RunData, place: int, count: int) -> Line2D:
    label = style.shorten(run.name, 40) + ("" if run.finished else " (unfinished)")
    return Line2D([], [], label=style.readable(label), **_look(place, count))


def _panel(axes: Axes, panel: tuple[str, str, int], runs: list[RunData]) -> None:
    column, title, factor = panel
    end, phases = 0.0, []
    for place, run in enumerate(runs):
        position, starts = timeline(run.metrics)
        end = max(end, position.max())
        phases.append(starts)
        present = run.metrics[column].notna() & position.notna()
        values = factor * run.metrics[column][present]
        marker = "o" if present.sum() <= 40 else None
        axes.plot(position[present], values, marker=marker, markersize=3, zorder=3, **_look(place, len(runs)))
    axes.set_title(title, fontsize=9, loc="left")
    _scale(axes, column, max(end, 1))
    _mark_phases(axes, phases, max(end, 1))


def _scale(axes: Axes, column: str, end: float) -> None:
    low, high = axes.get_ylim()
    # Room above the lines for the names of the phases.
    axes.set_ylim(0 if column == "kept" else low, high + 0.16 * (high - low))
    axes.set_xlim(0, end * 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if column == "kept":
        axes.yaxis.set_major_formatter(lambda count, _: style.number(count))
    if column == "val_accuracy":
        axes.yaxis.set_major_formatter(style.percent_tick)


def _mark_phases(axes: Axes, phases: list[list[tuple[str, float]]], end: float) -> None:
    """Dotted verticals where a phase ends: named when all runs agree, else one per run in its colour."""
    longest = max(phases, key=len)
    shared = all(starts == longest[: len(starts)] for starts in phases)
    for place, starts in [(0, longest)] if shared else enumerate(phases):
        colour = style.MUTED if shared else style.sequence_colour(place, len(phases))
        for _, start in starts[1:]:
            axes.axvline(start, color=colour, linestyle=":", linewidth=1.2, zorder=2)
    if not shared or len(longest) > 3:
        return
    for (name, start), stop in zip(longest, [*(start for _, start in longest[1:]), end], strict=True):
        label = style.shorten(PHASE_NAMES.get(name, name), 12)
        axes.annotate(label, ((start + stop) / 2, 0.99), xycoords=("data", "axes fraction"), ha="center", va="top",
                      fontsize=8, color=style.MUTED)  # fmt: skip
