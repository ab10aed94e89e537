"""Essential-ness: how many images of a class survive noise at its influential filters, and at all the others.

For an image of class c the features of one group of filters are *replaced* by Gaussian noise and go through the whole
original dense layer. Influential filters are essential when few images survive noise there and many elsewhere.

Source: Badola et al., "Decomposing the Deep" (arXiv 2112.07719); specification `decomposition`, section 6. The original
draws from N(0, 1), which also takes the mean of the features away; `matched` draws with each filter's own mean and
standard deviation over all images, so that only what the filter knows about the image is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_relu.class_filters import checked_rows
from keras_relu.errors import UserError, unknown_key

__all__ = ["NOISES", "check_settings", "dense_logits", "essential", "replaced", "survivors"]

NOISES = {
    "matched": "Gaussian with each filter's own mean and standard deviation over the images",
    "standard": "N(0, 1), as published",
}


def check_settings(noise: str, repetitions: int = 2, seed: int = 0) -> None:
    """Refuse settings of `essential` before images are read.

    Raises:
        UserError: an unknown noise, fewer than two repetitions, or a negative seed.
    """
    if noise not in NOISES:
        raise unknown_key("noise", noise, NOISES)
    if repetitions < 2:
        raise UserError(f"repetitions is {repetitions}; at least 2 are needed for a standard deviation.")
    if seed < 0:
        raise UserError(f"seed is {seed}; allowed is a whole number from 0.")


def dense_logits(features: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """features [N, D] x kernel [D, C] + bias [C] in float32.

    Raises:
        UserError: the result is NaN or infinite.
    """
    logits = np.asarray(features @ kernel + bias, np.float32)
    if not np.isfinite(logits).all():
        raise UserError("The network's outputs are NaN or infinite; it diverged, or its input is scaled otherwise.")
    return logits


def replaced(features: np.ndarray, where: np.ndarray, noise: np.ndarray, kind: str = "standard") -> np.ndarray:
    """Features [N, D] with noise at `where` [N, D].

    Args:
        noise: draws from N(0, 1), [N, D].
        kind: key of `NOISES`; `matched` scales and shifts the draws by the moments of `features` over the images.

    Raises:
        UserError: an unknown kind.
    """
    check_settings(kind)
    if kind == "matched":
        noise = features.mean(axis=0) + features.std(axis=0) * noise
    return np.where(where, noise, features).astype(np.float32)


def survivors(features: np.ndarray, labels: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Images per class that a dense layer [D, C] still assigns to their label: [C]."""
    right = dense_logits(features, kernel, bias).argmax(axis=-1) == labels
    return np.bincount(labels[right], minlength=kernel.shape[1])


def essential(
    features: np.ndarray,
    labels: np.ndarray,
    kernel: np.ndarray,
    bias: np.ndarray,
    rows: Sequence[Sequence[int]],
    *,
    noise: str = "standard",
    repetitions: int = 20,
    seed: int = 0,
) -> dict[str, Any]:
    """Survivors of noise at the influential filters, at the others, and at none.

    Args:
        features: [N, D], the images of all classes.
        labels: [N].
        kernel, bias: the original dense layer, [D, C] and [C].
        rows: influential filters of each class.
        noise: key of `NOISES`.
        repetitions: independent draws; each has a stream of its own, derived from `seed`.

    Returns:
        {"noise", "repetitions", "seed", "total", "per_class_total", "groups"}. groups["none"] has correct and
        per_class_correct; groups["influential"] and groups["other"] have the mean and standard deviation over the
        repetitions (n - 1 in the denominator): correct_mean, correct_std, per_class_mean, per_class_std.

    Raises:
        UserError: indices that do not fit, or as `check_settings`.
    """
    check_settings(noise, repetitions, seed)
    member = np.zeros((kernel.shape[1], kernel.shape[0]), bool)
    for number, row in enumerate(checked_rows(rows, kernel.shape[0])):
        member[number, row] = True
    influential = member[labels]
    counts: dict[str, list[np.ndarray]] = {"influential": [], "other": []}
    for repetition in range(repetitions):
        draws = np.random.default_rng((seed, repetition)).standard_normal(features.shape, np.float32)
        for group, where in (("influential", influential), ("other", ~influential)):
            counts[group].append(survivors(replaced(features, where, draws, noise), labels, kernel, bias))
    untouched = survivors(features, labels, kernel, bias)
    return {
        "noise": noise,
        "repetitions": repetitions,
        "seed": seed,
        "total": len(labels),
        "per_class_total": np.bincount(labels, minlength=kernel.shape[1]).tolist(),
        "groups": {
            "none": {"correct": int(untouched.sum()), "per_class_correct": untouched.tolist()},
            **{group: _moments(np.stack(values)) for group, values in counts.items()},
        },
    }


def _moments(counts: np.ndarray) -> dict[str, Any]:
    sums = counts.sum(axis=1)
    return {
        "correct_mean": float(sums.mean()),
        "correct_std": float(sums.std(ddof=1)),
        "per_class_mean": counts.mean(axis=0).tolist(),
        "per_class_std": counts.std(axis=0, ddof=1).tolist(),
    }
