"""Representations of many images, kept in memory while they fit and in temporary files beyond that."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from keras_relu.errors import UserError

__all__ = ["Spill", "spilled"]

_ITEM = np.dtype(np.float32).itemsize


class Spill:
    """Rows [N, D] of float32, appended batch by batch and read by slices; `file` None keeps them in memory.

    Files are read block by block and never mapped, so that memory holds no more than was asked for.
    """

    def __init__(self, width: int, images: int, file: Path | None) -> None:
        self.width, self.file = width, file
        self._rows = 0
        self._array = np.empty((images, width), np.float32) if file is None else None
        self._writer = file.open("wb") if file else None

    @property
    def shape(self) -> tuple[int, int]:
        """(rows so far, D)."""
        return self._rows, self.width

    def append(self, batch: np.ndarray) -> None:
        """Add the rows of a batch [n, ...] of D features each."""
        flat = np.ascontiguousarray(batch.reshape(len(batch), -1), np.float32)
        if self._array is not None:
            self._array[self._rows : self._rows + len(flat)] = flat
        elif self._writer is not None:
            flat.tofile(self._writer)
        self._rows += len(flat)

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, step = rows.indices(self._rows)
        if step != 1:
            raise UserError(f"Only neighbouring rows can be read, received a step of {step}.")
        if self._array is not None:
            return self._array[start:stop]
        if self._writer is not None:
            self._writer.flush()
        count = max(0, stop - start)
        values = np.fromfile(str(self.file), np.float32, count * self.width, offset=start * self.width * _ITEM)
        return values.reshape(count, self.width)

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()


@contextmanager
def spilled(widths: Mapping[str, int], images: int, *, memory_bytes: int = 2**29) -> Iterator[dict[str, Spill]]:
    """A `Spill` for `images` rows of each width, in temporary files when together they exceed `memory_bytes`.

    The files are removed at the end of the block.

    Raises:
        UserError: the disk has no room for them.
    """
    needed = _ITEM * images * sum(widths.values())
    if needed <= memory_bytes:
        yield {name: Spill(width, images, None) for name, width in widths.items()}
        return
    with tempfile.TemporaryDirectory(prefix="keras_relu_") as folder:
        free = shutil.disk_usage(folder).free
        if needed > 0.9 * free:
            raise UserError(
                f"{images:,} images of {len(widths)} layers need {needed / 1e9:.1f} GB in {folder}, where "
                f"{free / 1e9:.1f} GB are free; choose fewer images or layers, another TMPDIR, or the measure cka_minibatch."
            )
        files = {
            name: Spill(width, images, Path(folder) / f"{i}.f32") for i, (name, width) in enumerate(widths.items())
        }
        try:
            yield files
        finally:
            for spill in files.values():
                spill.close()
