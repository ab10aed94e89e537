"""Memory that was freed, given back to the system."""

from __future__ import annotations

import contextlib
import ctypes
import gc

__all__ = ["release"]


def release() -> None:
    """Collect cycles and return freed memory; where the C library keeps it and has no way to say otherwise, only collect.

    After a step that held large arrays in many threads, the pools of glibc stay as large as they ever were; the next step
    would come on top of them.
    """
    gc.collect()
    # AttributeError: another C library; the others: a system where a process cannot be opened as a library.
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
