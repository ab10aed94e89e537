"""Which neurons of an inducer become prototypes: farthest points, a random set, or modes snapped to real neurons.

Source: specification `induction` of the design, sections 4.2 and 10.3.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from keras_relu.errors import UserError, unknown_key
from keras_relu.induction import bits

__all__ = ["SELECTIONS", "farthest_points", "modes", "random_points", "select"]

SELECTIONS = ("fps", "kmodes", "random")
_TILE = 1024


def select(
    method: str,
    words: np.ndarray,
    count: int,
    *,
    images: int,
    seed: int = 0,
    union: Sequence[np.ndarray] = (),
) -> np.ndarray:
    """Prototypes of one inducer.

    Args:
        method: fps (the original's), random or kmodes.
        words: packed responses uint64 [N, W] of the inducer.
        count: K.
        images: M, bits per row.
        union: packed responses of the induced sites; modes are sought among all of them.

    Returns:
        int64 [K'], indices of different neurons; K' < K when farthest points find no more than K' different responses.
        K = N gives 0 .. N-1 whatever the method.

    Raises:
        UserError: an unknown method, or K not within 1 and N.
    """
    if method not in SELECTIONS:
        raise unknown_key("selection", method, SELECTIONS)
    if not 1 <= count <= len(words):
        raise UserError(f"The number of prototypes must be 1 to {len(words)}, received {count}.")
    if count == len(words):
        return np.arange(count, dtype=np.int64)
    if method == "fps":
        return farthest_points(words, count, seed)
    if method == "random":
        return random_points(len(words), count, seed)
    return modes(words, count, images=images, seed=seed, union=union)


def random_points(size: int, count: int, seed: int) -> np.ndarray:
    """`count` of `size` neurons, drawn without replacement."""
    return np.random.default_rng(seed).choice(size, count, replace=False).astype(np.int64)


def farthest_points(words: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Farthest-point sampling: each new prototype maximises its smallest Hamming distance to those before; the first at ties.

    The first is drawn from `seed`. Stops early when every neuron equals a prototype, where the original repeats neuron 0.

    Args:
        words: uint64 [N, W].

    Returns:
        int64 [at most `count`].
    """
    rows = np.ascontiguousarray(words)
    chosen = [int(np.random.default_rng(seed).integers(len(rows)))]
    smallest = np.full(len(rows), np.iinfo(np.uint32).max, np.uint32)
    scratch = np.empty_like(smallest)
    per_task = max(1, -(-len(rows) // 8))

    def sweep(start: int, stop: int) -> None:
        bits.distances(rows[start:stop], rows[chosen[-1]], out=scratch[start:stop])
        np.minimum(smallest[start:stop], scratch[start:stop], out=smallest[start:stop])

    while len(chosen) < count:
        bits.parallel(sweep, len(rows), per_task)
        farthest = int(smallest.argmax())
        if smallest[farthest] == 0:
            break
        chosen.append(farthest)
    return np.array(chosen, np.int64)


def modes(
    words: np.ndarray,
    count: int,
    *,
    images: int,
    seed: int = 0,
    union: Sequence[np.ndarray] = (),
    iterations: int = 10,
    sample: int = 8192,
) -> np.ndarray:
    """Mini-batch k-modes: centres are bitwise majorities, in the end each snapped to the nearest free real neuron.

    A majority itself could not be had for one comparison. Each iteration assigns `sample` random neurons of the inducer
    and of `union` by a matrix product of signs, and adds them to their centres.

    Args:
        words: uint64 [N, W] of the inducer.
        images: M.

    Returns:
        int64 [count], all different.
    """
    generator = np.random.default_rng(seed)
    layers = [words, *union]
    start = words[random_points(len(words), count, seed)]
    sums = bits.signs(start, images)
    for _ in range(iterations):
        centres = np.where(sums >= 0, np.float32(1), np.float32(-1))
        for rows in _drawn(layers, sample, generator):
            part = bits.signs(rows, images)
            _accumulate(sums, part, (part @ centres.T).argmax(1))
    return _snapped(words, bits.pack((sums >= 0).T))


def _drawn(layers: Sequence[np.ndarray], sample: int, generator: np.random.Generator) -> list[np.ndarray]:
    """Packed rows of a random sample of all layers' neurons, in tiles."""
    ends = np.cumsum([len(layer) for layer in layers])
    drawn = np.sort(generator.choice(ends[-1], min(sample, ends[-1]), replace=False))
    parts = np.split(drawn, np.searchsorted(drawn, ends[:-1]))
    starts = [0, *ends[:-1]]
    rows = np.concatenate([layer[part - at] for layer, part, at in zip(layers, parts, starts, strict=True)])
    return [rows[at : at + _TILE] for at in range(0, len(rows), _TILE)]


def _accumulate(sums: np.ndarray, part: np.ndarray, nearest: np.ndarray) -> None:
    """sums[k] += the rows of `part` whose nearest centre is k."""
    order = np.argsort(nearest, kind="stable")
    keys, starts = np.unique(nearest[order], return_index=True)
    sums[keys] += np.add.reduceat(part[order], starts, axis=0)


def _snapped(words: np.ndarray, centres: np.ndarray) -> np.ndarray:
    rows = np.ascontiguousarray(words)
    free = np.ones(len(rows), bool)
    chosen = np.empty(len(centres), np.int64)
    far = np.uint32(np.iinfo(np.uint32).max)
    for position, centre in enumerate(centres):
        chosen[position] = np.where(free, bits.distances(rows, centre), far).argmin()
        free[chosen[position]] = False
    return chosen
