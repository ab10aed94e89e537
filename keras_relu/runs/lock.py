"""One process at a time works on a run."""

from __future__ import annotations

from pathlib import Path
from typing import IO

from keras_relu.errors import UserError

__all__ = ["RunBusyError", "hold"]


class RunBusyError(UserError):
    """Another process is working on the run."""


def hold(path: Path) -> IO[str] | None:
    """Take the lock of the run at `path`; it lasts until the returned file is closed or the process ends, however it ends.

    None where the system has no such locks (Windows, some network file systems): then nothing protects the run.

    Raises:
        RunBusyError: another process has the lock.
    """
    try:
        import fcntl
    except ImportError:
        return None
    handle = open(path / ".lock", "a")  # noqa: SIM115 - the lock lives as long as the file is open
    try:
        # A POSIX lock belongs to the process, so that one process may reopen its own run.
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        raise RunBusyError(f"Another process is working on the run {str(path)!r}; wait for it or stop it.") from None
    except OSError:
        handle.close()
        return None
    return handle
