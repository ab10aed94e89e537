"""Exceptions to one line on standard error and an exit code."""

from __future__ import annotations

import errno
import sys

import typer

from keras_relu.errors import KerasReLUError

__all__ = ["explain"]


def explain(error: BaseException) -> int:
    """Print what went wrong and return the exit code; a bug is named as one, with the way to see more."""
    if isinstance(error, typer.Exit):
        return error.exit_code
    # Usage errors come from the click that Typer brings along, which is not importable under one name in all versions.
    if hasattr(error, "show") and hasattr(error, "format_message"):
        error.show(file=sys.stderr)
        return 2
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return _say("stopped.", 130)
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, KerasReLUError):
        return _say(str(error), error.exit_code)
    if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
        return _say("out of memory; use a smaller --batch-size.", 1)
    if isinstance(error, OSError):
        reason = "the disk is full" if error.errno == errno.ENOSPC else str(error.strerror or error)
        return _say(f"{error.filename}: {reason}." if error.filename else f"{reason}.", 1)
    return _say(
        f"unexpected {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''} (--debug shows where)",
        1,
    )


def _say(message: str, code: int) -> int:
    print(f"keras-relu: {message}", file=sys.stderr)
    return code
