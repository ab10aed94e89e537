"""What a person sees while a phase trains: a progress bar on a terminal, one line per epoch in a log file."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any

__all__ = ["Progress", "describe"]


class Progress:
    """Progress of `total` steps on standard error, as a context.

    Args:
        enabled: false shows nothing at all.
    """

    def __init__(self, phase: str, total: int, *, enabled: bool = True) -> None:
        self.phase = phase
        self.total = total
        self.enabled = enabled
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        if self.enabled and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = RichProgress(*columns, TextColumn("{task.fields[logs]}"), console=Console(stderr=True))
            self._bar.start()
            self._task = self._bar.add_task(self.phase, total=self.total, logs="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def step(self, done: int) -> None:
        """Move the bar to `done` steps."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done)

    def window(self, logs: Mapping[str, float]) -> None:
        """Show the newest numbers beside the bar."""
        if self._bar is not None:
            self._bar.update(self._task, logs=describe(logs))

    def epoch(self, epoch: int, epochs: int, logs: Mapping[str, float]) -> None:
        """One line for a finished epoch, counted from 1; numbers of single layers (`metric/layer`) are left to metrics.csv."""
        whole = {key: value for key, value in logs.items() if "/" not in key}
        line = f"{self.phase} epoch {epoch}/{epochs}: {describe(whole)}"
        if self._bar is not None:
            self._bar.console.print(line, highlight=False)
        elif self.enabled:
            print(line, file=sys.stderr, flush=True)


def describe(logs: Mapping[str, Any]) -> str:
    """`loss 0.4321, accuracy 0.8712`: the numbers of a mapping with four significant digits."""
    return ", ".join(f"{key} {value:.4g}" for key, value in logs.items() if isinstance(value, (int, float)))
