"""Figures of similarity: heat maps of layers against layers, lines along a network, the matrices of a stitch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from keras_relu.report import style
from keras_relu.report.drawing import NARROW_IN, ROW_IN, WIDE_IN, Drawing

__all__ = ["HeatMap", "Line", "heat_map_drawing", "line_drawing", "matrices_drawing"]

_CMAP, _SIGNED = "viridis", "PuOr"
_NAME_LENGTH = 22
# Cells at least this wide, in inches, have their value written into them.
_WRITTEN_IN = 0.3


@dataclass(frozen=True)
class HeatMap:
    """Values [R, C] of rows against columns; NaN cells stay empty. `limits` None fits the scale to the values."""

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: np.ndarray
    row_label: str
    column_label: str
    limits: tuple[float, float] | None = (0.0, 1.0)


@dataclass(frozen=True)
class Line:
    """One measure along a network; `error` and the null's mean and deviation where they were computed."""

    name: str
    values: np.ndarray
    error: np.ndarray | None = None
    null_mean: np.ndarray | None = None
    null_std: np.ndarray | None = None


def heat_map_drawing(heat: HeatMap, slug: str, caption: str) -> Drawing:
    """A heat map with the values written into its cells while they are large enough."""
    finite = heat.values[np.isfinite(heat.values)]
    span = f"from {finite.min():.3f} to {finite.max():.3f}" if finite.size else "without values"
    alt = f"Heat map: {heat.title}; {len(heat.rows)} rows against {len(heat.columns)} columns, {span}."
    return Drawing(slug, alt, caption, lambda narrow: _heat_map(heat, narrow))


def _heat_map(heat: HeatMap, narrow: bool) -> Figure:
    width = NARROW_IN if narrow else WIDE_IN
    left = 0.45 + 0.072 * max(min(len(name), _NAME_LENGTH) for name in heat.rows)
    bottom = 0.4 + 0.06 * max(min(len(name), _NAME_LENGTH) for name in heat.columns)
    cell = min(0.46, (width - left - 0.1) / len(heat.columns))
    row = min(max(cell, 0.17), 0.34)
    height = 0.85 + bottom + row * len(heat.rows)
    figure = Figure(figsize=(width, height))
    across = cell * len(heat.columns)
    axes = figure.add_axes((left / width, bottom / height, across / width, row * len(heat.rows) / height))
    low, high = heat.limits or _limits(heat.values)
    colours = matplotlib.colormaps[_CMAP].with_extremes(bad=style.TRACK)
    shown = np.ma.masked_invalid(heat.values)
    image = axes.imshow(shown, cmap=colours, vmin=low, vmax=high, aspect="auto", interpolation="none")
    _name_axes(axes, heat)
    if cell >= _WRITTEN_IN:
        for (i, j), value in np.ndenumerate(heat.values):
            if np.isfinite(value):
                share = (value - low) / (high - low) if high > low else 0.0
                axes.text(j, i, _short(value), ha="center", va="center", fontsize=7, color=_ink(share))
    scale = figure.add_axes((left / width, (height - 0.42) / height, min(max(across, 1.7), 2.6) / width, 0.11 / height))
    bar = figure.colorbar(image, cax=scale, orientation="horizontal", ticks=MaxNLocator(5))
    bar.ax.tick_params(labelsize=7, pad=1)
    bar.outline.set_visible(False)
    figure.text(left / width, 1 - 0.2 / height, style.shorten(heat.title, 44 if narrow else 90), fontsize=9)
    return figure


def _name_axes(axes: Axes, heat: HeatMap) -> None:
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_yticks(range(len(heat.rows)), [style.shorten(name, _NAME_LENGTH) for name in heat.rows], fontsize=7)
    axes.set_xticks(
        range(len(heat.columns)), [style.shorten(name, _NAME_LENGTH) for name in heat.columns], fontsize=7, rotation=90
    )
    axes.set_ylabel(style.shorten(heat.row_label, 40), fontsize=8)
    axes.set_xlabel(style.shorten(heat.column_label, 40), fontsize=8)


def _limits(values: np.ndarray) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    return low, high if high > low else low + 1.0


def _short(value: float) -> str:
    if abs(value) >= 9.995:
        return f"{value:.0f}"
    return f"{value:.2f}".replace("0.", ".", 1) if 0 <= value < 1 else f"{value:.2f}"


def _ink(share: float) -> str:
    red, green, blue, _ = matplotlib.colormaps[_CMAP](min(max(share, 0.0), 1.0))
    return "#101112" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "#fafbfc"


def line_drawing(layers: Sequence[str], lines: Sequence[Line], slug: str, caption: str, heading: str) -> Drawing:
    """Measures along the matched layers, with two standard errors, and the range of unrelated layers in grey."""
    alt = f"{heading}: {', '.join(line.name for line in lines)} along {len(layers)} layers, from {layers[0]} to {layers[-1]}."
    return Drawing(slug, alt, caption, lambda narrow: _lines(layers, lines, heading, narrow))


def _lines(layers: Sequence[str], lines: Sequence[Line], heading: str, narrow: bool) -> Figure:
    width = NARROW_IN if narrow else WIDE_IN
    names = 0.2 + 0.06 * max(min(len(name), _NAME_LENGTH) for name in layers)
    legend = ROW_IN * (len(lines) if narrow else -(-len(lines) // 3)) + 0.12
    height = (2.2 if narrow else 2.9) + names + legend + 0.35
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes(
        (0.55 / width, (names + legend) / height, (width - 0.65) / width, (height - names - legend - 0.35) / height)
    )
    places = np.arange(len(layers))
    for index, line in enumerate(lines):
        colour = style.sequence_colour(index, len(lines))
        if line.error is not None:
            low, high = line.values - 2 * line.error, line.values + 2 * line.error
            axes.fill_between(places, low, high, color=colour, alpha=0.25, linewidth=0)
        if line.null_mean is not None and line.null_std is not None:
            low, high = line.null_mean - 2 * line.null_std, line.null_mean + 2 * line.null_std
            axes.fill_between(places, low, high, color=style.MUTED, alpha=0.3, linewidth=0)
        axes.plot(places, line.values, color=colour, marker="o", markersize=3, linewidth=1.5, label=line.name)
    room = max(4, int((width - 0.65) / 0.17))
    step = -(-len(layers) // room)
    axes.set_xticks(
        places[::step], [style.shorten(name, _NAME_LENGTH) for name in layers[::step]], rotation=90, fontsize=7
    )
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.set_title(style.shorten(heading, 44 if narrow else 90), loc="left", fontsize=9)
    figure.legend(loc="lower left", bbox_to_anchor=(0.04, 0.0), ncols=1 if narrow else 3, fontsize=8, labelspacing=0.35)
    return figure


def matrices_drawing(
    matrices: Mapping[str, np.ndarray], slug: str, caption: str, *, limit: float | None = None
) -> Drawing:
    """Matrices [out, in] as images side by side, rows = output channels, each on its own symmetric scale or on +-limit."""
    alt = f"Images of the matrices {', '.join(matrices)}; rows are output channels, columns input channels."
    return Drawing(slug, alt, caption, lambda narrow: _matrices(matrices, limit, narrow))


def _matrices(matrices: Mapping[str, np.ndarray], limit: float | None, narrow: bool) -> Figure:
    width, columns = (NARROW_IN, 2) if narrow else (WIDE_IN, 4)
    rows = -(-len(matrices) // columns)
    side = width / columns
    figure = Figure(figsize=(width, rows * (side + 0.35)))
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    figure.subplots_adjust(left=0.06, right=0.97, bottom=0.08, top=0.93, wspace=0.45, hspace=0.35)
    for axes, (name, matrix) in zip(grid, matrices.items(), strict=False):
        _matrix(axes, name, np.asarray(matrix, np.float64), limit)
    for axes in grid[len(matrices) :]:
        axes.set_axis_off()
    return figure


def _matrix(axes: Axes, name: str, matrix: np.ndarray, limit: float | None) -> None:
    bound = limit or float(np.abs(matrix).max()) or 1.0
    options: dict[str, Any] = {"cmap": _SIGNED, "vmin": -bound, "vmax": bound, "interpolation": "none"}
    image = axes.imshow(matrix, aspect="equal", **options)
    axes.grid(visible=False)
    axes.set_title(name, fontsize=8)
    axes.tick_params(labelsize=6, length=2)
    bar = axes.figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03, ticks=[-bound, 0.0, bound])
    bar.ax.set_yticklabels([f"{value:.2g}" for value in (-bound, 0.0, bound)], fontsize=6)
    bar.outline.set_visible(False)
