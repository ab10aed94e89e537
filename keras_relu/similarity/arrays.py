"""Representations as checked arrays, and the refusals that keep NaN out of every measure."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_relu.errors import UserError

__all__ = ["DegenerateError", "channel_pair", "channels", "flat", "flat_pair"]


class DegenerateError(UserError):
    """The measure is not defined on these representations: a dead layer, or too few samples. The message says which."""


def flat(representation: Any, name: str = "X") -> np.ndarray:
    """[N, ...] as [N, D]: one row per image.

    Raises:
        UserError: fewer than two axes, no images, no features, not real numbers.
        DegenerateError: a value is NaN or infinite.
    """
    array = np.asarray(representation)
    if array.ndim < 2 or 0 in array.shape:
        raise UserError(f"{name} has the shape {list(array.shape)}; allowed is [images, ...] with nothing empty.")
    if array.dtype.kind not in "fiub":
        raise UserError(f"{name} is of type {array.dtype}; allowed are real numbers.")
    array = array.reshape(len(array), -1)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DegenerateError(f"{name} has values that are NaN or infinite; no similarity is defined on them.")
    return array


def channels(representation: Any, name: str = "X") -> np.ndarray:
    """[N, ..., C] as [N * pixels, C]: one row per image and pixel."""
    array = np.asarray(representation)
    checked = flat(array, name)
    return checked.reshape(-1, array.shape[-1])


def flat_pair(x: Any, y: Any, *, least: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Both as [N, D] in float64.

    Raises:
        UserError: another number of images in `y` than in `x`.
        DegenerateError: fewer than `least` images.
    """
    x, y = flat(x, "X"), flat(y, "Y")
    if len(x) != len(y):
        raise UserError(f"X has {len(x)} images, Y has {len(y)}; both must be of the same images, row by row.")
    _enough(len(x), least)
    return x.astype(np.float64, copy=False), y.astype(np.float64, copy=False)


def channel_pair(x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both as [N * pixels, C] in float64; [N, D] counts as one pixel.

    Raises:
        UserError: other images or other spatial sizes in `y` than in `x`.
    """
    before, after = np.shape(x)[:-1], np.shape(y)[:-1]
    if before != after:
        raise UserError(
            f"X has images and pixels {list(before)}, Y has {list(after)}; channels can be compared only pixel by pixel."
        )
    x, y = channels(x, "X"), channels(y, "Y")
    _enough(len(x), 2)
    return x.astype(np.float64, copy=False), y.astype(np.float64, copy=False)


def _enough(given: int, least: int) -> None:
    if given < least:
        raise DegenerateError(f"{given} sample(s) are too few for this measure; at least {least} are needed.")
