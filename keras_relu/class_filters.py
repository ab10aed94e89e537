"""Lists of filters, one per class, as index files and the decomposed last layer hold them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from keras_relu.errors import UserError

__all__ = ["checked_rows", "masked_kernel"]


def checked_rows(indices: Iterable[Iterable[int]], filters: int | None = None) -> list[list[int]]:
    """`indices` as lists of Python integers, one per class.

    Args:
        filters: number of filters D of the layer they belong to; None leaves the upper end open.

    Raises:
        UserError: no class, a class without filters, a number that is not an integer in [0, D), or a filter twice in
            one class.
    """
    rows = [list(row) for row in indices]
    if not rows:
        raise UserError("The filters of at least one class are needed, received none.")
    return [_checked_row(number, row, filters) for number, row in enumerate(rows)]


def _checked_row(number: int, row: list[Any], filters: int | None) -> list[int]:
    allowed = "whole numbers from 0" if filters is None else f"whole numbers from 0 to {filters - 1}"
    if not row:
        raise UserError(f"Class {number} has no filter; at least one is needed.")
    for value in row:
        whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        if not whole or value < 0 or (filters is not None and value >= filters):
            raise UserError(f"Class {number} has the filter {value!r}; allowed are {allowed}.")
    if len(set(row)) < len(row):
        double = next(value for value in row if row.count(value) > 1)
        raise UserError(f"Class {number} has the filter {double} more than once.")
    return [int(value) for value in row]


def masked_kernel(kernel: np.ndarray, rows: Sequence[Sequence[int]]) -> np.ndarray:
    """The dense weights [D, C] with zeros outside each class's filters: what the decomposed layer computes."""
    masked = np.zeros_like(kernel)
    for number, row in enumerate(rows):
        masked[list(row), number] = kernel[list(row), number]
    return masked
