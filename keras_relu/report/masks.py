"""Mask maps: for every site which pixels (mean over channels) and which channels (mean over pixels) survive."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from keras_relu.errors import UserError
from keras_relu.report import style
from keras_relu.report.drawing import NARROW_IN, WIDE_IN, Drawing
from keras_relu.report.load import RunData
from keras_relu.report.sites import fraction_bar

__all__ = ["channel_fractions", "mask_drawing", "spatial_fractions"]

# A tile in inches: two lines of text, the map, a gap, the strip of channels, the distance to the next tile.
_TEXT, _GAP, _STRIP, _MARGIN, _HEAD = 0.29, 0.05, 0.14, 0.16, 0.9


def spatial_fractions(mask: np.ndarray) -> np.ndarray:
    """(H, W, C) or (C,) 0/1 -> (H, W) kept fraction of each pixel over channels; (1, 1) without pixels."""
    return _as_hwc(mask).mean(axis=2)


def channel_fractions(mask: np.ndarray) -> np.ndarray:
    """(H, W, C) or (C,) 0/1 -> (C,) kept fraction of each channel over pixels."""
    return _as_hwc(mask).mean(axis=(0, 1))


def _as_hwc(mask: np.ndarray) -> np.ndarray:
    channels = mask.shape[-1] if mask.ndim else 1
    rows = mask.shape[0] if mask.ndim > 2 else 1
    return np.asarray(mask, np.float64).reshape(rows, -1, channels)


def mask_drawing(run: RunData, slug: str) -> Drawing | None:
    """The maps of one run; None when it wrote no masks.

    Raises:
        UserError: a mask is empty or holds anything but 0 and 1.
    """
    masks = run.masks()
    if not masks:
        return None
    for name, mask in masks.items():
        if mask.size == 0 or mask.dtype.kind not in "buif" or not np.isin(mask, (0, 1)).all():
            raise UserError(f"The mask of site {name!r} of the run {str(run.path)!r} must hold only 0 and 1.")
    alt = f"Mask maps of {run.name}: kept fraction per pixel and per channel of {len(masks)} sites."
    caption = (
        "One tile per site. Square: kept fraction of each pixel over the channels. Strip below: kept fraction of each "
        "channel over the pixels, first channel left. The colour scale is the same in all runs."
    )
    return Drawing(slug, alt, caption, lambda narrow: _figure(run, masks, narrow))


def _figure(run: RunData, masks: dict[str, np.ndarray], narrow: bool) -> Figure:
    columns, width = (2, NARROW_IN) if narrow else (6, WIDE_IN)
    across = (width - 0.1) / columns
    side = across - _MARGIN
    down = _TEXT + side + _GAP + _STRIP + _MARGIN
    body = -(-len(masks) // columns) * down
    figure = Figure(figsize=(width, body + _HEAD))
    # One pair of axes measured in inches for all tiles: a pair for each map would take seconds to draw.
    axes = figure.add_axes((0, 0, 1, body / (body + _HEAD)))
    axes.set_axis_off()
    for index, (name, mask) in enumerate(masks.items()):
        _tile(axes, name, mask, (0.05 + index % columns * across, index // columns * down, side))
    axes.set_xlim(0, width)
    axes.set_ylim(body, 0)
    top = body + _HEAD
    figure.text(0.05 / width, 1 - 0.04 / top, style.shorten(f"{run.name}: mask maps", 48), va="top", fontsize=10)
    scale = figure.add_axes((0.1 / width, (top - 0.6) / top, min(width - 0.3, 4.2) / width, 0.11 / top))
    fraction_bar(figure, scale, axes.images[0])
    return figure


def _tile(axes: Axes, name: str, mask: np.ndarray, place: tuple[float, float, float]) -> None:
    left, top, side = place
    pixels = spatial_fractions(mask)
    scale = side / max(pixels.shape)
    bottom = top + _TEXT + scale * pixels.shape[0]
    axes.text(left, top + 0.01, style.shorten(name, 21), va="top", fontsize=8)
    axes.text(left, top + 0.145, f"{int(mask.sum()):,} of {mask.size:,}", va="top", fontsize=7.5, color=style.MUTED)
    _image(axes, pixels, (left, left + scale * pixels.shape[1], bottom, top + _TEXT))
    _image(axes, channel_fractions(mask)[None], (left, left + side, bottom + _GAP + _STRIP, bottom + _GAP))


def _image(axes: Axes, values: np.ndarray, extent: tuple[float, float, float, float]) -> None:
    axes.imshow(
        values, extent=extent, aspect="auto", interpolation="none", cmap=style.FRACTION_CMAP, norm=style.FRACTION_NORM
    )
