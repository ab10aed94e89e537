"""Class selectivity of single filters: does one class drive a filter more than the others do?"""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_relu.errors import UserError

__all__ = ["class_selectivity", "summarize"]

# As in the original, so that a filter that never responds has selectivity 0.
_EPSILON = 1e-7


def class_selectivity(means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(largest - mean of the others) / (largest + mean of the others + 1e-7) over the class means of each filter.

    0 = all classes drive the filter alike, 1 = only one class does. For responses >= 0.

    Args:
        means: mean response to the images of each class, [C, D].

    Returns:
        (selectivity [D], preferred class [D]).

    Raises:
        UserError: fewer than two classes, or a negative mean.

    Source: Leavitt and Morcos, "Selectivity considered harmful" (ICLR 2021, arXiv 2003.01262), section 3.
    """
    means = np.asarray(means, np.float64)
    if means.ndim != 2 or len(means) < 2:
        raise UserError(f"Selectivity needs the mean responses of at least two classes, received {list(means.shape)}.")
    if means.min() < 0:
        raise UserError(
            f"Selectivity needs responses of at least 0, received a mean of {means.min():.3g}; choose a layer behind a ReLU."
        )
    largest = means.max(axis=0)
    others = (means.sum(axis=0) - largest) / (len(means) - 1)
    return (largest - others) / (largest + others + _EPSILON), means.argmax(axis=0)


def summarize(means: np.ndarray) -> dict[str, Any]:
    """{"selectivity": [D], "preferred_class": [D], "mean", "median", "per_class_filters": filters preferring each class}."""
    values, preferred = class_selectivity(means)
    return {
        "selectivity": values.tolist(),
        "preferred_class": preferred.tolist(),
        "mean": float(values.mean()),
        "median": float(np.median(values)),
        "per_class_filters": np.bincount(preferred, minlength=len(means)).tolist(),
    }
