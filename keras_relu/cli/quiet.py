"""Import TensorFlow without the lines it prints before its own log level counts."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["start_tensorflow"]


def start_tensorflow() -> None:
    """Import TensorFlow and find its devices, quietly; whatever is printed is shown when that fails.

    On a machine without GPUs TensorFlow reports the missing driver as an error, on every start; a command whose own
    messages are one line long should not open with ten of those.
    """
    if "tensorflow" in sys.modules:
        return
    with _held_back_stderr():
        import tensorflow as tf

        tf.config.list_physical_devices()


@contextmanager
def _held_back_stderr() -> Iterator[None]:
    """What native code writes to file descriptor 2 goes to a file, and from there to the terminal if the block fails."""
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(saved, held.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)
