"""Pages of similarity as an A4 document: headings, paragraphs, tables and figures one below the other."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from keras_relu.files import atomic_path
from keras_relu.report import style
from keras_relu.report.drawing import Drawing
from keras_relu.report.similarity_pages import Page, Section, Table

__all__ = ["write_pdf"]

_WIDTH, _HEIGHT, _MARGIN = 8.27, 11.69, 0.7
_ROOM = _WIDTH - 2 * _MARGIN
# Points of table text, inches of a row, and inches of a character at that size.
_SMALL, _ROW, _LETTER = 7.0, 0.185, 0.062
_GAP, _LONGEST = 0.14, 60
_DPI = 200


def write_pdf(page: Page, target: Path, written: str) -> None:
    """Write a page as PDF, atomically.

    Args:
        written: the date, as it is to stand in the document.
    """
    settings: Any = style.RC
    with matplotlib.rc_context(settings), atomic_path(target) as temporary, PdfPages(temporary) as pdf:
        sheets = _Sheets(pdf)
        sheets.text(page.title, 16)
        sheets.text(page.lead, 10)
        for section in page.sections:
            _section(sheets, section)
        if page.facts:
            sheets.heading("Where it comes from")
            for name, value in page.facts.items():
                sheets.text(f"{name}: {value}", 8, style.MUTED)
        sheets.text(f"Written {written}", 8, style.MUTED)
        sheets.close()


def _section(sheets: _Sheets, section: Section) -> None:
    # A heading stays with the beginning of what it stands over.
    first = section.drawings[0] if section.drawings and not (section.tables or section.sentences) else None
    sheets.heading(section.heading, followed=_size(first)[0] + 0.45 if first else 1.0)
    for sentence in section.sentences:
        sheets.text(sentence, 9)
    for table in section.tables:
        sheets.table(table)
    for item in section.drawings:
        sheets.drawing(item)


class _Sheets:
    """The sheet that is being filled; `left` is the room below in inches."""

    def __init__(self, pdf: PdfPages) -> None:
        self.pdf = pdf
        self._begin()

    def _begin(self) -> None:
        self.figure = Figure(figsize=(_WIDTH, _HEIGHT))
        self.left = _HEIGHT - 2 * _MARGIN

    def close(self) -> None:
        """Write the sheet."""
        self.pdf.savefig(self.figure)

    def need(self, inches: float) -> None:
        """Begin a new sheet unless so much is left; what is higher than a sheet gets one of its own."""
        if inches > self.left and self.left < _HEIGHT - 2 * _MARGIN:
            self.close()
            self._begin()

    @property
    def y(self) -> float:
        """Where the next thing stands, from 0 at the bottom to 1."""
        return (_MARGIN + self.left) / _HEIGHT

    def heading(self, text: str, followed: float = 1.0) -> None:
        self.need(0.5 + followed)
        self.left -= 0.15
        self.text(text, 12.5)

    def text(self, text: str, size: float, colour: str = style.INK) -> None:
        """A paragraph."""
        lines = textwrap.wrap(style.plain(text), int(_ROOM * 72 / size / 0.52))
        height = len(lines) * size * 1.35 / 72
        self.need(height)
        whole, x = "\n".join(lines), _MARGIN / _WIDTH
        self.figure.text(x, self.y, whole, fontsize=size, color=colour, va="top", linespacing=1.25)
        self.left -= height + size * 0.7 / 72

    def table(self, table: Table) -> None:
        """A table; columns that do not fit stand in a second part, which begins with the first column again."""
        cells = [[style.shorten(style.plain(cell), _LONGEST) for cell in row] for row in table.text()]
        heads = [textwrap.wrap(style.plain(name), 13) or [""] for name in table.columns]
        for columns in _column_groups(heads, cells):
            self._table([heads[c] for c in columns], [[row[c] for c in columns] for row in cells])
        if table.caption:
            self.text(table.caption, 8, style.MUTED)
        self.left -= 0.05

    def _table(self, heads: list[list[str]], cells: list[list[str]]) -> None:
        widths = _widths(heads, cells)
        tall = max(len(head) for head in heads)
        self.need(_ROW * (tall + min(len(cells), 4)))
        self._head(heads, widths, tall)
        for row in cells:
            if self.left < _ROW:
                self.need(_HEIGHT)
                self._head(heads, widths, tall)
            self._row(row, widths)
        self.left -= 0.08

    def _head(self, heads: list[list[str]], widths: list[float], tall: int) -> None:
        for line in range(tall):
            # Short heads stand on the line of the last row of the long ones.
            row = [head[line - tall + len(head)] if line >= tall - len(head) else "" for head in heads]
            self._row(row, widths, ruled=line == tall - 1, bold=True)

    def _row(self, row: Sequence[str], widths: list[float], *, ruled: bool = True, bold: bool = False) -> None:
        at = _MARGIN
        for index, (cell, width) in enumerate(zip(row, widths, strict=True)):
            side = "left" if index == 0 else "right"
            x = at if side == "left" else at + width - _GAP
            weight = "bold" if bold else "normal"
            self.figure.text(x / _WIDTH, self.y, cell, fontsize=_SMALL, ha=side, va="top", weight=weight)
            at += width
        self.left -= _ROW
        if ruled:
            ends, y = (_MARGIN / _WIDTH, (at - _GAP) / _WIDTH), self.y + 0.05 / _HEIGHT
            self.figure.add_artist(Line2D(ends, (y, y), color=style.GRID, linewidth=0.6))

    def drawing(self, item: Drawing) -> None:
        """A figure as wide as the text, smaller when it would be higher than a sheet, and its caption."""
        height, width = _size(item)
        self.need(height + 0.45)
        place = (_MARGIN / _WIDTH, self.y - height / _HEIGHT, width / _WIDTH, height / _HEIGHT)
        axes = self.figure.add_axes(place)
        axes.set_axis_off()
        axes.imshow(_pixels(item), aspect="auto", interpolation="none")
        self.left -= height + 0.05
        self.text(item.caption, 8, style.MUTED)
        self.left -= 0.1


def _size(item: Drawing) -> tuple[float, float]:
    """Height and width in inches of a figure on the sheet."""
    width, height = item.draw(False).get_size_inches()
    scale = min(_ROOM / width, (_HEIGHT - 2 * _MARGIN - 0.8) / height, 1.0)
    return height * scale, width * scale


def _pixels(item: Drawing) -> np.ndarray:
    figure = item.draw(False)
    figure.set_dpi(_DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def _widths(heads: Sequence[Sequence[str]], cells: Sequence[Sequence[str]]) -> list[float]:
    longest = [
        max([len(part) for part in head] + [len(row[index]) for row in cells]) for index, head in enumerate(heads)
    ]
    return [_GAP + _LETTER * length for length in longest]


def _column_groups(heads: Sequence[Sequence[str]], cells: Sequence[Sequence[str]]) -> list[list[int]]:
    """Columns that fit beside each other; every group begins with the first one."""
    widths = _widths(heads, cells)
    groups: list[list[int]] = [[0]]
    for index in range(1, len(widths)):
        if sum(widths[c] for c in groups[-1]) + widths[index] > _ROOM and len(groups[-1]) > 1:
            groups.append([0])
        groups[-1].append(index)
    return groups
