"""How much the filter lists of two classes tell about each other: mutual information and overlap.

Each list is a 0/1 indicator over the D filters; mutual information is that of the two indicators' empirical joint, in
nats. The published average runs over all ordered pairs, those of a class with itself included, which is where most of it
comes from (80 % at 5 filters of 64): their mutual information is just the indicator's entropy. Both averages are given.

Source: specification `decomposition`, section 6.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_relu.errors import UserError

__all__ = ["mutual_information", "overlap", "summarize"]


def overlap(member: np.ndarray) -> np.ndarray:
    """Filters that two classes share: 0/1 [C, D] -> [C, C]; the diagonal is the length of each list."""
    member = np.asarray(member, np.int64)
    return member @ member.T


def mutual_information(member: np.ndarray) -> np.ndarray:
    """Mutual information of every pair of indicators, in nats: 0/1 [C, D] -> [C, C].

    sum_ab p(a, b) ln(p(a, b) / (p(a) p(b))) over the four cells, empty cells left out.

    Raises:
        UserError: values other than 0 and 1.
    """
    member = np.asarray(member)
    if member.ndim != 2 or not member.size or not np.isin(member, (0, 1)).all():
        raise UserError("Mutual information needs indicators of 0 and 1, [classes, filters].")
    filters = member.shape[1]
    information = np.zeros((len(member), len(member)))
    sides = (1 - member.astype(np.int64), member.astype(np.int64))
    for left in sides:
        for right in sides:
            joint = (left @ right.T) / filters
            expected = np.outer(left.sum(axis=1), right.sum(axis=1)) / filters**2
            ratio = np.divide(joint, expected, out=np.ones_like(joint), where=joint > 0)
            information += joint * np.log(ratio)
    return information


def summarize(member: np.ndarray) -> dict[str, Any]:
    """Matrices and averages of one table.

    Returns:
        {"mutual_information": over all ordered pairs as published, "mutual_information_off_diagonal": without self pairs
        (null for one class), "entropy": mean of the self pairs, "matrix": [C][C], "overlap": [C][C],
        "shared_filters": mean number two classes share}.
    """
    information, shared = mutual_information(member), overlap(member)
    apart = ~np.eye(len(member), dtype=bool)
    return {
        "mutual_information": float(information.mean()),
        "mutual_information_off_diagonal": float(information[apart].mean()) if apart.any() else None,
        "entropy": float(np.diag(information).mean()),
        "shared_filters": float(shared[apart].mean()) if apart.any() else None,
        "matrix": information.tolist(),
        "overlap": shared.tolist(),
    }
