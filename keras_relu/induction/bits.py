"""Arithmetic on packed sign vectors: one row of 64-bit words per neuron, one bit per image.

Bit i of word w is image 64 w + i (little bit order); bits beyond the last image are zero in every row, so that the XOR of two
rows has none there and its population count is the Hamming distance without a correction. Everything is blocked so that
one block stays in the processor's cache, and spread over threads (NumPy lets go of the interpreter lock inside).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

__all__ = ["distances", "nearest", "ones", "pack", "parallel", "signs", "unpack", "words_for"]

_WORD = np.dtype("<u8")
# Words of a block: 256 KB, which stay in a core's own cache, and calls long enough for threads to share the interpreter.
_BLOCK_WORDS = 32768
_ROWS_PER_TASK = 2048


def words_for(images: int) -> int:
    """64-bit words per neuron."""
    return -(-images // 64)


def pack(bits: np.ndarray) -> np.ndarray:
    """bool [M, N] (image, neuron) -> uint64 [N, ceil(M / 64)]."""
    padded = np.zeros((bits.shape[1], 8 * words_for(len(bits))), np.uint8)
    packed = np.packbits(np.asarray(bits, bool), axis=0, bitorder="little")
    padded[:, : len(packed)] = packed.T
    return padded.view(_WORD)


def unpack(words: np.ndarray, images: int) -> np.ndarray:
    """uint64 [N, W] -> uint8 0/1 [N, M]."""
    data = np.ascontiguousarray(words).view(np.uint8)
    return np.unpackbits(data, axis=1, count=images, bitorder="little")


def signs(words: np.ndarray, images: int) -> np.ndarray:
    """uint64 [N, W] -> float32 -1/+1 [N, M]."""
    values = unpack(words, images).astype(np.float32)
    values *= 2.0
    values -= 1.0
    return values


def parallel(task: Callable[[int, int], Any], rows: int, per_task: int = _ROWS_PER_TASK) -> list[Any]:
    """task(start, stop) over all ranges of `per_task` rows, on as many threads as there are cores; results in order."""
    ranges = [(start, min(start + per_task, rows)) for start in range(0, rows, per_task)]
    with ThreadPoolExecutor(_threads()) as pool:
        return list(pool.map(lambda pair: task(*pair), ranges))


def _threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _lookup_count(words: np.ndarray, out: np.ndarray) -> None:
    """Set bits of each word [R, W], for NumPy below 2, by a table of all 16-bit numbers."""
    parts = np.ascontiguousarray(words).view(np.uint16).reshape(*words.shape, 4)
    np.sum(_TABLE[parts], axis=-1, dtype=np.uint8, out=out)


_TABLE = np.array([bin(number).count("1") for number in range(1 << 16)], np.uint8)
_count_bits: Callable[..., Any] = getattr(np, "bitwise_count", _lookup_count)


class _Block:
    """Scratch memory for the distances of a block of rows."""

    def __init__(self, rows: int, width: int) -> None:
        self.rows = max(1, min(rows, _BLOCK_WORDS // max(1, width)))
        self._different = np.empty((self.rows, width), np.uint64)
        self._counts = np.empty((self.rows, width), np.uint8)

    def distances(self, words: np.ndarray, row: np.ndarray, out: np.ndarray) -> None:
        """Hamming distance of each of `words` [R <= rows, W] to `row` [W], into `out` [R]."""
        count = len(words)
        np.bitwise_xor(words, row, out=self._different[:count])
        _count_bits(self._different[:count], out=self._counts[:count])
        np.add.reduce(self._counts[:count], axis=1, dtype=out.dtype, out=out)


def distances(words: np.ndarray, row: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
    """Hamming distance of every row of uint64 [N, W] to one row [W]: uint32 [N]."""
    result = np.empty(len(words), np.uint32) if out is None else out
    block = _Block(len(words), words.shape[1])
    for start in range(0, len(words), block.rows):
        block.distances(words[start : start + block.rows], row, result[start : start + block.rows])
    return result


def ones(words: np.ndarray) -> np.ndarray:
    """Set bits of each row of uint64 [N, W]: uint32 [N]."""
    return distances(words, np.zeros(words.shape[1], np.uint64))


def nearest(words: np.ndarray, prototypes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The nearest and the farthest prototype of every row, ties to the lowest.

    Args:
        words: uint64 [N, W].
        prototypes: uint64 [K, W].

    Returns:
        (index of the nearest int32 [N], its distance int64 [N], index of the farthest, its distance).
    """

    def task(start: int, stop: int) -> tuple[np.ndarray, ...]:
        rows = np.ascontiguousarray(words[start:stop])
        block = _Block(len(rows), rows.shape[1])
        found = np.empty((4, len(rows)), np.int64)
        table = np.empty((len(prototypes), block.rows), np.uint32)
        for at in range(0, len(rows), block.rows):
            part = rows[at : at + block.rows]
            view = table[:, : len(part)]
            for row, prototype in zip(view, prototypes, strict=True):
                block.distances(part, prototype, row)
            near, far = view.argmin(0), view.argmax(0)
            columns = np.arange(len(part))
            found[:, at : at + len(part)] = near, view[near, columns], far, view[far, columns]
        return tuple(found)

    near, near_at, far, far_at = (np.concatenate(parts) for parts in zip(*parallel(task, len(words)), strict=True))
    return near.astype(np.int32), near_at, far.astype(np.int32), far_at
