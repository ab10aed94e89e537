"""The states of a stitch during its training, written one by one so that a killed run keeps them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_relu.files import atomic_path
from keras_relu.similarity import AffineMap

__all__ = ["History", "save_arrays"]


class History:
    """States by step, in memory and, with a folder, on disk until `arrays` gathers them.

    Args:
        folder: where each state is written; None = memory alone.
        every: steps between two states.
    """

    def __init__(self, folder: Path | None, every: int) -> None:
        self.folder, self.every = folder, every
        self.states: dict[int, AffineMap] = {}
        for file in sorted(folder.glob("*.npz")) if folder and folder.is_dir() else []:
            with np.load(file, allow_pickle=False) as saved:
                self.states[int(file.stem)] = AffineMap(saved["w"], saved["b"])

    def due(self, step: int) -> bool:
        """Whether the state before `step` is to be kept."""
        return step % self.every == 0 and step not in self.states

    def add(self, step: int, state: AffineMap) -> None:
        """Keep the state after `step` updates."""
        self.states[step] = state
        if self.folder is not None:
            save_arrays(self.folder / f"{step:08d}.npz", {"w": state.weight, "b": state.bias})

    def arrays(self) -> dict[str, np.ndarray]:
        """{"iterations": [S], "w": [S, out, in], "b": [S, out]}, in the order of steps."""
        steps = sorted(self.states)
        return {
            "iterations": np.array(steps, np.int64),
            "w": np.stack([self.states[step].weight for step in steps]).astype(np.float32),
            "b": np.stack([self.states[step].bias for step in steps]).astype(np.float32),
        }

    def close(self) -> None:
        """Remove the single files, after their arrays were saved."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def save_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write a compressed .npz of arrays atomically."""
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, **arrays)
