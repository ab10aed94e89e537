"""How figures look: colours that tell apart for colour-blind readers, in a light and a dark variant, and tick labels.

A figure is drawn once, in the light colours. Inline SVG then has every theme colour exchanged for a CSS variable, so
that the page can follow `prefers-color-scheme`; files keep the light colours on white.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm, to_hex
from matplotlib.ticker import FixedFormatter, FixedLocator, NullFormatter, NullLocator

__all__ = [
    "FRACTION_CMAP",
    "FRACTION_NORM",
    "FRACTION_TICKS",
    "GRID",
    "INK",
    "MUTED",
    "PAPER",
    "RC",
    "TRACK",
    "contrast_ink",
    "css_variables",
    "log_count_axis",
    "number",
    "percent_tick",
    "plain",
    "readable",
    "replacement_style",
    "sequence_colour",
    "shorten",
    "themed",
]

INK, MUTED, GRID, PAPER, TRACK = "#1c2024", "#5d6570", "#dfe2e6", "#fefefe", "#d4d9df"
_DARK = {INK: "#e9ecef", MUTED: "#a3abb5", GRID: "#363c44", PAPER: "#15181c", TRACK: "#3a414a"}

# Replacement -> (light, dark, marker). Hues from Okabe and Ito, moved in lightness until each has a contrast of at
# least 3:1 on its background; the marker tells them apart without any colour.
_REPLACEMENTS = {
    "identity": ("#0072b2", "#56b4e9", "o"),
    "line": ("#c65102", "#ff9a52", "s"),
    "quadratic": ("#00795a", "#2fc79a", "D"),
    "scaled_quadratic": ("#a0458b", "#e39cc9", "^"),
    "moment_line": ("#8a6d00", "#f0c84b", "v"),
    "moment_quadratic": ("#4b4fc4", "#a9adff", "P"),
}
_OTHER = (("#7a3b2e", "#d99a8b", "X"), ("#36606b", "#8fc3d1", "*"), ("#6b6b00", "#d0d060", "h"))

_SEQUENCE_LENGTH = 8
_VIRIDIS, _PLASMA = matplotlib.colormaps["viridis"], matplotlib.colormaps["plasma"]
_SEQUENCE = [
    (to_hex(_PLASMA(0.02 + 0.62 * t)), to_hex(_PLASMA(0.45 + 0.5 * t)))
    for t in (index / (_SEQUENCE_LENGTH - 1) for index in range(_SEQUENCE_LENGTH))
]

# One scale for every map of kept fractions, so that runs compare; the square root opens up the small budgets.
FRACTION_CMAP = "viridis"
FRACTION_NORM = PowerNorm(gamma=0.5, vmin=0.0, vmax=1.0)
FRACTION_TICKS = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0)

RC: dict[str, Any] = {
    "font.size": 9.0,
    "font.family": "sans-serif",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.facecolor": PAPER,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "figure.facecolor": PAPER,
    "image.composite_image": False,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
}


def replacement_style(name: str | None) -> tuple[str, str]:
    """(light colour, marker) of a replacement; unknown names get a stable one of the remaining."""
    if name in _REPLACEMENTS:
        light, _, marker = _REPLACEMENTS[name]
    else:
        light, _, marker = _OTHER[sum(map(ord, name or "")) % len(_OTHER)]
    return light, marker


def sequence_colour(index: int, count: int) -> str:
    """Colour `index` of `count` ordered lines, spread over the whole sequence."""
    return _SEQUENCE[round(index * (_SEQUENCE_LENGTH - 1) / max(count - 1, 1)) % _SEQUENCE_LENGTH][0]


@cache
def _theme() -> dict[str, tuple[str, str, str]]:
    """Light hex -> (CSS variable, light, dark)."""
    pairs = [*_DARK.items(), *((light, dark) for light, dark, _ in (*_REPLACEMENTS.values(), *_OTHER)), *_SEQUENCE]
    return {light: (f"--fig-{index}", light, dark) for index, (light, dark) in enumerate(pairs)}


def themed(tag: str) -> str:
    """An SVG tag with theme colours replaced by CSS variables."""
    theme = _theme()
    return re.sub(r"#[0-9a-f]{6}\b", lambda hit: f"var({theme[hit[0]][0]})" if hit[0] in theme else hit[0], tag)


def css_variables(*, dark: bool) -> str:
    """The declarations that give the variables of `themed` their values."""
    return " ".join(f"{name}: {night if dark else day};" for name, day, night in _theme().values())


def contrast_ink(fraction: float) -> str:
    """Near-white or near-black, whichever reads better on the map colour of `fraction`."""
    red, green, blue, _ = _VIRIDIS(FRACTION_NORM(fraction))
    return "#101112" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "#fafbfc"


def number(count: float) -> str:
    """Axis form of a count: 500, 1.5k, 20k, 1M."""
    for unit, suffix in ((1e6, "M"), (1e3, "k")):
        if count >= unit:
            return f"{count / unit:.3g}{suffix}"
    return f"{count:.3g}"


def percent_tick(value: float, _: float) -> str:
    """A tick of an accuracy axis in percent; the room above 100 gets none."""
    return f"{value:.4g}" if value <= 100 else ""


def plain(text: object) -> str:
    """Text that any renderer takes: unprintable characters become a replacement mark."""
    return "".join(mark if mark.isprintable() else "\N{REPLACEMENT CHARACTER}" for mark in str(text))


def readable(label: str) -> str:
    """A legend label; matplotlib hides labels that begin with an underscore."""
    return f" {label}" if label.startswith("_") else label


def shorten(text: object, length: int) -> str:
    """At most `length` characters, cut in the middle: site names differ at both ends."""
    label = plain(text)
    if len(label) <= length:
        return label
    head = (length - 1) // 2
    return f"{label[:head]}\N{HORIZONTAL ELLIPSIS}{label[head + 1 - length :]}"


def log_count_axis(axes: Axes, low: float, high: float, *, room: int, zero_at: float | None = None) -> None:
    """A logarithmic ReLU axis from `low` to `high` with at most about `room` labels such as 5k, 10k, 20k.

    `zero_at` is the position that stands for a budget of zero, which a logarithm has no place for.
    """
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    ticks = _ticks(low, high, room)
    labels = [number(tick) for tick in ticks]
    if zero_at is not None:
        kept = [(tick, label) for tick, label in zip(ticks, labels, strict=True) if tick > 1.5 * zero_at]
        ticks, labels = [zero_at, *(tick for tick, _ in kept)], ["0", *(label for _, label in kept)]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FixedFormatter(labels))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _ticks(low: float, high: float, room: int) -> list[float]:
    for steps in ((1, 1.5, 2, 3, 5, 7), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        ticks = _decades(low, high, steps)
        if len(ticks) <= room:
            return ticks
    return ticks


def _decades(low: float, high: float, steps: Sequence[float]) -> list[float]:
    values = (step * 10.0**power for power in range(-1, 13) for step in steps)
    return [value for value in values if low <= value <= high]
