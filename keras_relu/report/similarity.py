"""Reports of stitchings and comparisons: one HTML file that needs nothing else, and the same as PDF.

Nothing here imports TensorFlow: reports are written from the files of finished runs.

    keras_relu.report.similarity.stitch_report("run/stitch")
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import pandas as pd
from markupsafe import Markup
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure

from keras_relu.files import atomic_path, write_text
from keras_relu.report import drawing, style
from keras_relu.report.similarity_pages import Page, Section, Table, comparison_page, grid_page, stitch_page

__all__ = ["comparison_report", "grid_report", "stitch_report", "write_html", "write_pdf"]

_A4 = (8.27, 11.69)
_ROWS_PER_PAGE = 34
_COLUMNS_PER_TABLE = 11


def stitch_report(folder: str | Path) -> tuple[Path, Path]:
    """Write report.html and report.pdf into a finished stitching run; returns both paths."""
    return _write(stitch_page(folder), Path(folder))


def comparison_report(comparison: Mapping[str, Any], folder: str | Path, **facts: str) -> tuple[Path, Path]:
    """Write report.html and report.pdf of `Comparison.to_dict()` into a folder; returns both paths."""
    return _write(comparison_page(comparison, facts), Path(folder))


def grid_report(frame: pd.DataFrame, folder: str | Path) -> tuple[Path, Path]:
    """Write report.html and report.pdf of the table of a grid into its folder; returns both paths."""
    return _write(grid_page(frame), Path(folder))


def _write(page: Page, folder: Path) -> tuple[Path, Path]:
    html, pdf = folder / "report.html", folder / "report.pdf"
    write_html(page, html)
    write_pdf(page, pdf)
    return html, pdf


def write_html(page: Page, target: Path) -> None:
    """The page as one HTML file, figures inline."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["svg"] = lambda item: Markup(drawing.inline(item))
    environment.filters["plain"] = style.plain
    folder = resources.files("keras_relu.report").joinpath("templates")
    variables = f":root {{ {style.css_variables(dark=False)} }}\n@media screen and (prefers-color-scheme: dark) "
    variables += f"{{ :root {{ {style.css_variables(dark=True)} }} }}\n"
    css = variables + folder.joinpath("page.css").read_text(encoding="utf-8")
    template = environment.from_string(folder.joinpath("similarity.html").read_text(encoding="utf-8"))
    write_text(target, template.render(css=Markup(css), page=page, written=_now()))


def write_pdf(page: Page, target: Path) -> None:
    """The page as A4 PDF: text and tables first within each section, then its figures."""
    settings: Any = style.RC
    with matplotlib.rc_context(settings), atomic_path(target) as temporary, PdfPages(temporary) as pdf:
        pdf.savefig(_title_sheet(page))
        for section in page.sections:
            for sheet in _sheets(section):
                pdf.savefig(sheet)


def _sheets(section: Section) -> Iterator[Figure]:
    sentences = list(section.sentences)
    for table in section.tables or ([Table("", (), ())] if sentences else []):
        for part in _parts(table):
            yield _table_sheet(section.heading, sentences, part)
            sentences = []
    for item in section.drawings:
        figure = item.draw(False)
        figure.suptitle(section.heading, x=0.02, ha="left", fontsize=7, color=style.MUTED, y=0.998)
        yield figure


def _parts(table: Table) -> Iterator[Table]:
    """The table cut so that each part fits onto a page."""
    for left in range(0, max(1, len(table.columns)), _COLUMNS_PER_TABLE):
        columns = list(table.columns)[left : left + _COLUMNS_PER_TABLE]
        rows = [row[left : left + _COLUMNS_PER_TABLE] for row in table.text()]
        for top in range(0, max(1, len(rows)), _ROWS_PER_PAGE):
            yield Table(table.caption, columns, rows[top : top + _ROWS_PER_PAGE])


def _title_sheet(page: Page) -> Figure:
    figure = Figure(figsize=_A4)
    figure.text(0.08, 0.94, textwrap.fill(page.title, 60), fontsize=16, va="top")
    figure.text(0.08, 0.87, textwrap.fill(page.lead, 95), fontsize=10, va="top")
    lines = [f"{name}: {value}" for name, value in page.facts.items()] + [f"Written {_now()}"]
    text = "\n".join(textwrap.fill(style.plain(line), 100, subsequent_indent="    ") for line in lines)
    figure.text(0.08, 0.78, text, fontsize=8, va="top", color=style.MUTED)
    return figure


def _table_sheet(heading: str, sentences: list[str], table: Table) -> Figure:
    figure = Figure(figsize=_A4)
    figure.text(0.08, 0.95, heading, fontsize=13, va="top")
    text = "\n".join(textwrap.fill(sentence, 100) for sentence in [*sentences, table.caption] if sentence)
    figure.text(0.08, 0.91, text, fontsize=9, va="top")
    if table.columns:
        top = 0.88 - 0.018 * (text.count("\n") + 1)
        height = min(top - 0.04, 0.024 * (len(table.rows) + 2))
        axes = figure.add_axes((0.05, top - height, 0.9, height))
        axes.set_axis_off()
        heads = [textwrap.fill(style.plain(name), 12) for name in table.columns]
        cells = [[style.shorten(cell, 34) for cell in row] for row in table.rows]
        drawn = axes.table(cells, colLabels=heads, loc="upper center", cellLoc="right", edges="horizontal")
        drawn.auto_set_font_size(False)
        drawn.set_fontsize(7 if len(heads) < 8 else 5.5)
        drawn.auto_set_column_width(list(range(len(heads))))
        for (row, _), cell in drawn.get_celld().items():
            cell.set_edgecolor(style.GRID)
            cell.set_height((2.2 if row == 0 else 1.0) / (len(table.rows) + 2.2))
    return figure


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
