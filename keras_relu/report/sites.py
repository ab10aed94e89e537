"""Where the kept ReLUs are: bars per site for one run, a heat map of sites against runs for several."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from keras_relu.report import style
from keras_relu.report.drawing import NARROW_IN, WIDE_IN, Drawing
from keras_relu.report.load import RunData

__all__ = ["bar_drawing", "fraction_bar", "heat_map_drawings"]

_RUNS_PER_MAP = 16
_NAME_LENGTH = 22


def fraction_bar(figure: Figure, axes: Axes, image: AxesImage) -> None:
    """A horizontal colour bar of kept fractions in `axes`, on the scale that all maps of a report share."""
    bar = figure.colorbar(image, cax=axes, orientation="horizontal", ticks=style.FRACTION_TICKS)
    bar.ax.set_xticklabels([f"{100 * tick:g}" for tick in style.FRACTION_TICKS], fontsize=8)
    bar.ax.minorticks_off()
    bar.outline.set_visible(False)
    axes.set_title("kept, % of the ReLUs there (square-root colour scale)", fontsize=8, loc="left", pad=3)


def bar_drawing(run: RunData, slug: str) -> Drawing | None:
    """Kept and total ReLUs of each site of one run; None when the run lists no sites."""
    if not run.sites:
        return None
    worst = min(run.sites, key=lambda site: site.kept_fraction)
    best = max(run.sites, key=lambda site: site.kept_fraction)
    alt = (
        f"Kept ReLUs per site of {run.name}: most at {best.name} ({best.kept_fraction:.1%}), "
        f"fewest at {worst.name} ({worst.kept_fraction:.1%})."
    )
    caption = (
        "ReLUs per image at each activation site, from the input (top) to the output: kept (coloured) out of all "
        "(grey), with the kept fraction in percent."
    )
    return Drawing(slug, alt, caption, lambda narrow: _bars(run, narrow))


def _bars(run: RunData, narrow: bool) -> Figure:
    width = NARROW_IN if narrow else WIDE_IN
    height = 0.85 + 0.2 * len(run.sites)
    figure = Figure(figsize=(width, height))
    left, right = 1.45, (0.5 if narrow else 1.75)
    axes = figure.add_axes((left / width, 0.48 / height, (width - left - right) / width, (height - 0.78) / height))
    rows = np.arange(len(run.sites))
    colour, _ = style.replacement_style(run.setting("replacement"))
    axes.barh(rows, [site.total for site in run.sites], height=0.72, color=style.TRACK)
    axes.barh(rows, [site.kept for site in run.sites], height=0.72, color=colour)
    axes.set_yticks(rows, [style.shorten(site.name, _NAME_LENGTH) for site in run.sites], fontsize=8)
    axes.set_ylim(len(run.sites) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, max(max(site.total for site in run.sites), 1))
    axes.xaxis.set_major_locator(MaxNLocator(3 if narrow else 6, integer=True))
    axes.xaxis.set_major_formatter(lambda count, _: style.number(count))
    axes.set_xlabel("ReLUs per image")
    for row, site in enumerate(run.sites):
        share = f"{100 * site.kept_fraction:.1f} %"
        text = share if narrow else f"{site.kept:,} of {site.total:,} ({share})"
        axes.annotate(text, (1, row), xycoords=("axes fraction", "data"), xytext=(4, 0),
                      textcoords="offset points", va="center", fontsize=8)  # fmt: skip
    axes.set_title(style.shorten(f"{run.name}: kept ReLUs per site", 52), x=-left / (width - left - right), loc="left",
                   fontsize=10)  # fmt: skip
    return figure


def heat_map_drawings(runs: Sequence[RunData]) -> list[Drawing]:
    """Kept fraction of sites x runs, for every set of at least two runs with the same sites (16 runs a figure)."""
    groups: dict[tuple, list[RunData]] = defaultdict(list)
    for run in runs:
        if run.sites:
            groups[str(run.setting("arch", "network")), tuple(site.name for site in run.sites)].append(run)
    drawings: list[Drawing] = []
    for (network, _), members in groups.items():
        members.sort(key=lambda run: (str(run.setting("replacement", "")), -(run.number("relu_count") or 0), run.name))
        for start in range(0, len(members), _RUNS_PER_MAP):
            part = members[start : start + _RUNS_PER_MAP]
            if len(members) > 1:
                drawings.append(_heat_map_drawing(network, part, f"sites-{len(drawings) + 1}"))
    return drawings


def _heat_map_drawing(network: str, runs: list[RunData], slug: str) -> Drawing:
    alt = (
        f"Heat map of the kept fraction per site of {network} (rows) in {len(runs)} runs (columns); the numbers are "
        "in the bar chart of each run."
    )
    caption = (
        f"Kept fraction of each site of {network} in percent, input at the top; one column per run, sorted by "
        "replacement and falling budget."
    )
    return Drawing(slug, alt, caption, lambda narrow: _heat_map(network, runs, narrow))


def _heat_map(network: str, runs: list[RunData], narrow: bool) -> Figure:
    values = np.array([[site.kept_fraction for site in run.sites] for run in runs]).T
    width = NARROW_IN if narrow else WIDE_IN
    left, top, bottom, row = 1.45, 0.75, 0.15 + _label_inches(runs, narrow), 0.215
    height = top + bottom + row * len(values)
    across = min(width - left - 0.1, len(runs) * (0.55 if narrow else 0.9))
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((left / width, bottom / height, across / width, row * len(values) / height))
    image = axes.imshow(values, cmap=style.FRACTION_CMAP, norm=style.FRACTION_NORM, aspect="auto", interpolation="none")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_yticks(range(len(values)), [style.shorten(site.name, _NAME_LENGTH) for site in runs[0].sites], fontsize=8)
    axes.set_xticks(range(len(runs)), [style.shorten(run.name, 24) for run in runs], fontsize=8, rotation=90)
    if across / len(runs) >= 0.36:
        _write_cells(axes, values)
    scale = figure.add_axes((0.1 / width, (height - 0.5) / height, min(width - 0.3, 4.2) / width, 0.11 / height))
    fraction_bar(figure, scale, image)
    return figure


def _label_inches(runs: list[RunData], narrow: bool) -> float:
    return 0.072 * max(min(len(run.name), 24) for run in runs)


def _write_cells(axes: Axes, values: np.ndarray) -> None:
    for (row, column), value in np.ndenumerate(values):
        text = f"{100 * value:.0f}" if value >= 0.0995 or value == 0 else f"{100 * value:.1f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=style.contrast_ink(value))
