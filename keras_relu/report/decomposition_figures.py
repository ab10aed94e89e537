"""Figures of a decomposition: per-class bars, filter-by-class maps, accuracy against k, noise, mutual information."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from keras_relu.report import style
from keras_relu.report.drawing import NARROW_IN, ROW_IN, WIDE_IN, Drawing

__all__ = [
    "class_drawings",
    "curve_drawings",
    "filter_drawing",
    "information_drawing",
    "noise_class_drawing",
    "noise_drawing",
    "table_label",
]

Entry = Mapping[str, Any]

# Beyond so many classes names cannot be read and cells cannot hold a number.
_MOST_NAMED = 40
_MOST_WRITTEN = 12
# More bars than these per class cannot be told apart.
_MOST_BARS = 4
_MARKERS = "osD^vPX*"
_GROUPS = (("influential", "noise at the influential filters", 0), ("other", "noise at all other filters", 1))


def table_label(entry: Entry) -> str:
    """`frequency, k = 5`, or the name of a file that does not say how it was made."""
    source = entry.get("rule") or (Path(entry["file"]).stem if entry.get("file") else "filters")
    return f"{source}, k = {entry['top_k']:g}"


def _class_names(result: Entry, count: int) -> list[str]:
    names = result.get("class_names") or [str(number) for number in range(count)]
    return [style.shorten(name, 18) for name in names]


def _frame(
    narrow: bool, body: float, *, left: float, bottom: float, top: float, right: float = 0.15
) -> tuple[Figure, Axes]:
    """A figure whose one pair of axes is `body` inches high, with margins in inches."""
    width, height = (NARROW_IN if narrow else WIDE_IN), body + top + bottom
    figure = Figure(figsize=(width, height))
    place = (left / width, bottom / height, (width - left - right) / width, body / height)
    return figure, figure.add_axes(place)


def _title(axes: Axes, text: str, left: float) -> None:
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    x = -(left - 0.1) / (axes.get_position().width * figure.get_figwidth())
    axes.set_title(style.shorten(text, 50), x=x, loc="left", fontsize=10)


def class_drawings(result: Entry, slug: str) -> list[Drawing]:
    """Accuracy per class in one figure, or in one figure per k where there are too many tables for one."""
    parts: dict[float, list[Entry]] = defaultdict(list)
    for entry in result["tables"]:
        parts[entry["top_k"] if len(result["tables"]) > _MOST_BARS else 0].append(entry)
    groups = [
        entries[start : start + _MOST_BARS]
        for _, entries in sorted(parts.items())
        for start in range(0, len(entries), _MOST_BARS)
    ]
    slugs = [slug] if len(groups) == 1 else [f"{slug}-{number}" for number in range(1, len(groups) + 1)]
    return [_class_drawing({**result, "tables": group}, name) for group, name in zip(groups, slugs, strict=True)]


def _class_drawing(result: Entry, slug: str) -> Drawing:
    """Accuracy of every class with the original and with each decomposed last layer; changes alone for many classes."""
    labels = ", ".join(table_label(entry) for entry in result["tables"])
    alt = f"Accuracy per class of the original last layer and of the decomposed ones ({labels})."
    if len(result["per_class_total"]) > _MOST_NAMED:
        caption = "Change of each class's accuracy in percentage points, classes sorted by it."
        return Drawing(slug, alt, caption, lambda narrow: _sorted_changes(result, narrow))
    caption = f"Images of each class answered rightly, in percent of the {result['dataset']} {result['split']} images."
    return Drawing(slug, alt, caption, lambda narrow: _class_bars(result, narrow))


def _class_bars(result: Entry, narrow: bool) -> Figure:
    totals = np.maximum(np.array(result["per_class_total"], float), 1)
    series = [("original", result["original"])] + [(table_label(entry), entry) for entry in result["tables"]]
    shares = np.array([100 * np.array(entry["per_class_correct"]) / totals for _, entry in series])
    legend = -(-len(series) // (1 if narrow else 3)) * ROW_IN + 0.15
    thickness = 0.8 / len(series)
    figure, axes = _frame(
        narrow, max(0.09 * len(series) + 0.08, 0.2) * len(totals), left=1.25, bottom=0.5 + legend, top=0.35
    )
    rows = np.arange(len(totals))
    for place, values in enumerate(shares):
        offset = (place - (len(series) - 1) / 2) * thickness
        axes.barh(rows + offset, values, height=thickness * 0.92, color=_series_colour(place, len(series)))
    axes.set_yticks(rows, _class_names(result, len(totals)), fontsize=8)
    axes.set_ylim(len(totals) - 0.5, -0.5)
    axes.set_xlim(max(0.0, np.floor((shares.min() - 5) / 10) * 10), 100)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("Right answers, %")
    _title(axes, f"{result['model']}: accuracy per class", 1.25)
    handles = [
        Patch(color=_series_colour(place, len(series)), label=style.readable(style.shorten(label, 40)))
        for place, (label, _) in enumerate(series)
    ]
    figure.legend(
        handles=handles, loc="lower left", ncols=1 if narrow else 3, fontsize=8, borderaxespad=0.4, handlelength=1.2
    )
    return figure


def _series_colour(place: int, count: int) -> str:
    return style.MUTED if place == 0 else style.sequence_colour(place - 1, count - 1)


def _sorted_changes(result: Entry, narrow: bool) -> Figure:
    figure, axes = _frame(narrow, 2.4, left=0.6, bottom=0.5, top=0.35)
    totals = np.maximum(np.array(result["per_class_total"], float), 1)
    original = np.array(result["original"]["per_class_correct"])
    for place, entry in enumerate(result["tables"]):
        changes = np.sort(100 * (np.array(entry["per_class_correct"]) - original) / totals)
        colour = style.sequence_colour(place, len(result["tables"]))
        axes.plot(changes, color=colour, label=style.readable(style.shorten(table_label(entry), 40)))
    axes.axhline(0, color=style.MUTED, linewidth=0.8)
    axes.set_xlabel("Classes, sorted by change")
    axes.set_ylabel("Change, points")
    axes.legend(fontsize=8)
    _title(axes, f"{result['model']}: change per class", 0.6)
    return figure


def filter_drawing(entry: Entry, names: Entry, slug: str) -> Drawing:
    """Which filters each class has: classes x filters, shaded by rank."""
    distinct = len({index for row in entry["indices"] for index in row})
    alt = f"Filters of each class ({table_label(entry)}): {distinct} of {entry['filters']} filters are in use."
    caption = (
        "Rows are classes, columns filters by number; the darker a cell, the higher the filter ranks for the class."
    )
    return Drawing(slug, alt, caption, lambda narrow: _filter_map(entry, names, narrow))


def _filter_map(entry: Entry, names: Entry, narrow: bool) -> Figure:
    classes = len(entry["indices"])
    values = np.full((classes, entry["filters"]), np.nan)
    for number, row in enumerate(entry["indices"]):
        values[number, row] = 1.0 - np.arange(len(row)) / max(len(row), 1)
    left = 0.95 if classes <= _MOST_NAMED else 0.5
    figure, axes = _frame(narrow, min(0.2 * classes, 5.0), left=left, bottom=0.5, top=0.35)
    # Classes without a filter keep the colour of the page.
    axes.imshow(values, cmap="viridis_r", vmin=0, vmax=1, aspect="auto", interpolation="none")
    axes.grid(visible=False)
    if classes <= _MOST_NAMED:
        axes.set_yticks(range(classes), _class_names(names, classes), fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(6 if narrow else 12, integer=True))
    axes.set_xlabel("Filter")
    _title(axes, f"Filters per class: {table_label(entry)}", left)
    return figure


def curve_drawings(results: Sequence[Entry], tuned: Sequence[Entry] = ()) -> list[Drawing]:
    """Accuracy against filters per class, one figure per model and data set; fine-tuned runs as single points."""
    groups: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for result in results:
        groups[str(result["model"]), str(result["dataset"])].append(result)
    return [
        _curve(key, members, [run for run in tuned if _belongs(run, key)], f"curve-{index}")
        for index, (key, members) in enumerate(groups.items(), 1)
    ]


def _belongs(run: Entry, key: tuple[str, str]) -> bool:
    return str(run["dataset"]) == key[1] and run.get("arch") in (None, key[0])


def _curve(key: tuple[str, str], results: list[Entry], tuned: list[Entry], slug: str) -> Drawing:
    points: dict[str, dict[float, float]] = defaultdict(dict)
    for result in results:
        for entry in result["tables"]:
            name = str(entry.get("rule") or "files without a manifest")
            points[name][entry["multiplications"] / len(result["per_class_total"])] = 100 * entry["accuracy"]
    classes = len(results[0]["per_class_total"])
    for run in tuned:
        points[f"{run['name']}, fine-tuned"][run["head_multiplications"] / classes] = 100 * run["accuracy"]
    original = 100 * results[0]["original"]["accuracy"]
    told = "; ".join(
        f"{name}: " + ", ".join(f"{value:.2f} % at {k:g}" for k, value in sorted(line.items()))
        for name, line in points.items()
    )
    alt = f"Accuracy of {key[0]} on {key[1]} against filters per class; original {original:.2f} %; {told}."
    caption = "Accuracy in percent against the mean number of filters per class; the dashed line is the original layer."
    return Drawing(slug, alt, caption, lambda narrow: _curve_figure(key, points, original, narrow))


def _curve_figure(
    key: tuple[str, str], points: Mapping[str, Mapping[float, float]], original: float, narrow: bool
) -> Figure:
    legend = (len(points) + 1) * ROW_IN + 0.1 if narrow else 0.0
    figure, axes = _frame(narrow, 2.5, left=0.65, bottom=0.5 + legend, top=0.35)
    axes.axhline(original, color=style.MUTED, linestyle="--", linewidth=1.2)
    handles = [Line2D([], [], color=style.MUTED, linestyle="--", label=f"original {original:.2f} %")]
    for place, (name, line) in enumerate(points.items()):
        look: dict[str, Any] = {
            "color": style.sequence_colour(place, len(points)),
            "marker": _MARKERS[place % len(_MARKERS)],
        }
        ks = sorted(line)
        axes.plot(ks, [line[k] for k in ks], markersize=5, **look)
        handles.append(Line2D([], [], label=style.readable(style.shorten(name, 40)), markersize=5, **look))
    axes.set_xlabel("Filters per class")
    axes.set_ylabel("Accuracy, %")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(6 if narrow else 12, integer=True))
    _title(axes, f"{key[0]} on {key[1]}: accuracy against k", 0.65)
    if narrow:
        figure.legend(handles=handles, loc="lower left", fontsize=8, borderaxespad=0.4)
    else:
        axes.legend(handles=handles, loc="lower right", fontsize=8)
    return figure


def noise_drawing(entries: Sequence[Entry], slug: str, heading: str) -> Drawing:
    """Surviving images with noise at the influential filters, at the others and at none; one row per table.

    Args:
        entries: each with `label`, `groups` and `total`, as `essential` returns them.
    """
    told = "; ".join(
        f"{entry['label']}: {entry['groups']['none']['correct']} without noise, "
        f"{entry['groups']['influential']['correct_mean']:.0f} with noise at the influential filters, "
        f"{entry['groups']['other']['correct_mean']:.0f} at the others"
        for entry in entries
    )
    caption = (
        "Images still answered rightly, in percent, when features are replaced by Gaussian noise; bars are means over "
        "the draws with one standard deviation, the tick is the accuracy without noise. Essential filters: a short "
        "first and a long second bar."
    )
    return Drawing(slug, f"{heading}. {told}.", caption, lambda narrow: _noise_bars(list(entries), heading, narrow))


def _noise_bars(entries: list[Entry], heading: str, narrow: bool) -> Figure:
    left = 1.5
    figure, axes = _frame(narrow, 0.42 * len(entries) + 0.1, left=left, bottom=0.5 + 3 * ROW_IN, top=0.35)
    rows = np.arange(len(entries))
    totals = np.array([max(entry["total"], 1) for entry in entries])
    for group, _, place in _GROUPS:
        means = np.array([entry["groups"][group]["correct_mean"] for entry in entries])
        spread = np.array([entry["groups"][group]["correct_std"] for entry in entries])
        axes.barh(
            rows + (place - 0.5) * 0.38,
            100 * means / totals,
            xerr=100 * spread / totals,
            height=0.35,
            color=style.sequence_colour(place, 2),
            error_kw={"ecolor": style.INK, "elinewidth": 0.9},
        )
    clean = 100 * np.array([entry["groups"]["none"]["correct"] for entry in entries]) / totals
    axes.plot(clean, rows, linestyle="none", marker="|", markersize=15, color=style.INK)
    axes.set_yticks(rows, [style.shorten(entry["label"], 23) for entry in entries], fontsize=8)
    axes.set_ylim(len(entries) - 0.5, -0.5)
    axes.set_xlim(0, 102)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("Right answers, %")
    _title(axes, heading, left)
    figure.legend(handles=_noise_handles("|"), loc="lower left", fontsize=8, borderaxespad=0.4)
    return figure


def _noise_handles(marker: str) -> list[Any]:
    bars = [Patch(color=style.sequence_colour(place, 2), label=label) for _, label, place in _GROUPS]
    return [*bars, Line2D([], [], linestyle="none", marker=marker, color=style.INK, label="no noise")]


def noise_class_drawing(entry: Entry, names: Entry, slug: str) -> Drawing:
    """The same class by class for one table."""
    alt = f"Right answers per class under {entry['noise']} noise ({table_label(entry)})."
    caption = (
        "Images of each class still answered rightly, in percent; error bars are one standard deviation over the draws."
    )
    return Drawing(slug, alt, caption, lambda narrow: _noise_classes(entry, names, narrow))


def _noise_classes(entry: Entry, names: Entry, narrow: bool) -> Figure:
    totals = np.maximum(np.array(entry["per_class_total"], float), 1)
    figure, axes = _frame(narrow, min(0.24 * len(totals), 6.0), left=1.25, bottom=0.5 + 3 * ROW_IN, top=0.35)
    rows = np.arange(len(totals))
    for group, _, place in _GROUPS:
        values = entry["groups"][group]
        axes.errorbar(
            100 * np.array(values["per_class_mean"]) / totals,
            rows,
            xerr=100 * np.array(values["per_class_std"]) / totals,
            linestyle="none",
            marker="os"[place],
            markersize=5,
            color=style.sequence_colour(place, 2),
        )
    clean = 100 * np.array(entry["groups"]["none"]["per_class_correct"]) / totals
    axes.plot(clean, rows, linestyle="none", marker="|", markersize=9, color=style.INK)
    if len(totals) <= _MOST_NAMED:
        axes.set_yticks(rows, _class_names(names, len(totals)), fontsize=8)
    axes.set_ylim(len(totals) - 0.5, -0.5)
    axes.set_xlim(0, 102)
    axes.set_xlabel("Right answers, %")
    _title(axes, f"{entry['noise']} noise: {table_label(entry)}", 1.25)
    figure.legend(handles=_noise_handles("|"), loc="lower left", fontsize=8, borderaxespad=0.4)
    return figure


def information_drawing(entry: Entry, names: Entry, slug: str) -> Drawing:
    """Mutual information between the filter lists of two classes; self pairs are left blank."""
    without = entry["mutual_information_off_diagonal"]
    alt = (
        f"Mutual information between classes ({table_label(entry)}): mean {entry['mutual_information']:.4f} nats over all "
        f"pairs, {'none' if without is None else f'{without:.4f}'} without self pairs."
    )
    caption = (
        "Mutual information of the filter lists of two classes, in thousandths of a nat. The pairs of a class with itself "
        f"are left out: there it is the list's entropy, {entry['entropy']:.4f} nats on average."
    )
    return Drawing(slug, alt, caption, lambda narrow: _information_map(entry, names, narrow))


def _information_map(entry: Entry, names: Entry, narrow: bool) -> Figure:
    values = 1000 * np.array(entry["matrix"])
    classes = len(values)
    np.fill_diagonal(values, np.nan)
    left, named = (0.95 if classes <= _MOST_NAMED else 0.5), classes <= _MOST_NAMED
    side = (NARROW_IN if narrow else 5.2) - left - 0.2
    figure, axes = _frame(
        narrow, side, left=left, bottom=0.95 if named else 0.4, top=0.35, right=0.2 if narrow else WIDE_IN - left - side
    )
    finite = values[np.isfinite(values)]
    top = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
    axes.imshow(values, cmap=style.FRACTION_CMAP, vmin=0, vmax=top, interpolation="none")
    axes.grid(visible=False)
    if named:
        axes.set_xticks(range(classes), _class_names(names, classes), fontsize=8, rotation=90)
        axes.set_yticks(range(classes), _class_names(names, classes), fontsize=8)
    if classes <= _MOST_WRITTEN and not narrow:
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                ink = "#101112" if value > 0.6 * top else "#fafbfc"
                axes.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=7.5, color=ink)
    _title(axes, f"Mutual information: {table_label(entry)}", left)
    return figure
