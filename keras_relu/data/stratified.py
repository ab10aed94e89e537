"""Choosing a fixed number of examples so that every class keeps its share."""

from __future__ import annotations

import numpy as np

__all__ = ["stratified_choice", "stratified_cut"]


def _class_counts(sizes: np.ndarray, count: int) -> np.ndarray:
    """Whole numbers that sum to `count`, proportional to `sizes` (largest remainder, ties to the lower class)."""
    total = int(sizes.sum())
    # In integers: a float share may round differently and cost an example.
    counts, remainders = np.divmod(sizes.astype(np.int64) * count, total)
    order = np.lexsort((np.arange(len(sizes)), -remainders))
    counts[order[: count - int(counts.sum())]] += 1
    return counts


def stratified_choice(labels: np.ndarray, count: int, *, seed: tuple[int, ...]) -> np.ndarray:
    """Sorted indices of exactly `count` examples; each class is represented within one example of its share.

    Args:
        labels: integers `[N]`.
        count: 0 to N.
        seed: the only source of randomness; the same seed always chooses the same examples.
    """
    rng = np.random.default_rng(seed)
    classes, sizes = np.unique(labels, return_counts=True)
    counts = _class_counts(sizes, count) if count else np.zeros_like(sizes)
    chosen = [rng.permutation(np.flatnonzero(labels == c))[:k] for c, k in zip(classes, counts, strict=True)]
    return np.sort(np.concatenate([np.empty(0, np.int64), *chosen]))


def stratified_cut(labels: np.ndarray, count: int, *, seed: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Two disjoint sorted index arrays that cover `labels`: the rest, and `count` stratified examples."""
    chosen = stratified_choice(labels, count, seed=seed)
    return np.setdiff1d(np.arange(len(labels)), chosen), chosen
