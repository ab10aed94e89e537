"""metrics.csv: rows are appended and flushed one by one, so a killed run loses at most the row being written."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from keras_relu.files import write_text

__all__ = ["COLUMNS", "MetricsFile"]

COLUMNS = (
    "stage",
    "phase",
    "epoch",
    "step",
    "loss",
    "accuracy",
    "val_loss",
    "val_accuracy",
    "learning_rate",
    "kept",
    "seconds",
)


class MetricsFile:
    """A CSV file with a header that starts with `COLUMNS` and grows when a row brings a new key."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._columns: list[str] | None = None

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one row; None and missing keys become empty cells."""
        columns = self._header()
        new = [key for key in row if key not in columns]
        if new or not self.path.exists():
            self._rewrite(self.read(), [*columns, *new])
        with open(self.path, "a", encoding="utf-8", newline="") as stream:
            stream.write(_line([row.get(key) for key in self._header()]))
            stream.flush()

    def read(self) -> list[dict[str, Any]]:
        """All rows, numbers parsed, empty cells as None; an incomplete last line is left out."""
        if not self.path.exists():
            return []
        lines = list(csv.reader(io.StringIO(_whole_lines(self.path.read_text(encoding="utf-8")))))
        return [dict(zip(lines[0], map(_parse, cells), strict=True)) for cells in lines[1:]] if lines else []

    def keep(self, condition: Callable[[dict[str, Any]], bool]) -> None:
        """Drop every row for which `condition` is false."""
        rows = self.read()
        kept = [row for row in rows if condition(row)]
        if len(kept) < len(rows):
            self._rewrite(kept, self._header())

    def repair(self) -> None:
        """Cut off a line that was being written when the process died."""
        if self.path.exists():
            text = self.path.read_text(encoding="utf-8")
            if text != _whole_lines(text):
                write_text(self.path, _whole_lines(text))

    def _header(self) -> list[str]:
        if self._columns is None:
            first = self.path.read_text(encoding="utf-8").partition("\n")[0] if self.path.exists() else ""
            self._columns = first.strip().split(",") if first else list(COLUMNS)
        return self._columns

    def _rewrite(self, rows: list[dict[str, Any]], columns: list[str]) -> None:
        self._columns = columns
        write_text(self.path, _line(columns) + "".join(_line([row.get(key) for key in columns]) for row in rows))


def _line(cells: list[Any]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerow(["" if c is None else c for c in cells])
    return stream.getvalue()


def _whole_lines(text: str) -> str:
    return text[: text.rfind("\n") + 1]


def _parse(cell: str) -> Any:
    if cell == "":
        return None
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell
