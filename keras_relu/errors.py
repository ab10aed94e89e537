"""The errors a user can meet, each with one sentence that says what is wrong, what was received and what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["EXIT_INTERRUPTED", "Interrupted", "KerasReLUError", "TrainingDivergedError", "UserError", "unknown_key"]

# EX_TEMPFAIL of sysexits.h: saved and stopped on a signal, run the same command again to go on.
EXIT_INTERRUPTED = 75


class KerasReLUError(Exception):
    """Base of every error this package raises on purpose; the command line prints it without a traceback."""

    exit_code = 1


class UserError(KerasReLUError, ValueError):
    """The input is wrong: a missing file, an unknown key, a budget out of range."""

    exit_code = 2


class TrainingDivergedError(KerasReLUError, RuntimeError):
    """The loss or a weight became NaN or infinite; the message names the step."""


class Interrupted(KerasReLUError):
    """A signal asked the run to stop; its state is saved and the same command resumes it."""

    exit_code = EXIT_INTERRUPTED


def unknown_key(kind: str, received: str, allowed: Iterable[str]) -> UserError:
    """The error for a name that is not in a table, with the nearest valid one first."""
    names = sorted(allowed)
    near = difflib.get_close_matches(str(received), names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return UserError(f"Unknown {kind} {received!r}.{hint} Allowed: {', '.join(names) or 'none'}.")
