"""Reports of stitchings and comparisons: one HTML file that needs nothing else, and the same as PDF.

Nothing here imports TensorFlow: reports are written from the files of finished runs.

    keras_relu.report.similarity.stitch_report("run/stitch")
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from keras_relu.files import write_text
from keras_relu.report import drawing, style
from keras_relu.report.paged import write_pdf
from keras_relu.report.similarity_pages import (
    Page,
    comparison_page,
    grid_page,
    match_page,
    stitch_page,
)

__all__ = ["comparison_report", "grid_report", "match_report", "stitch_report", "write_html"]


def stitch_report(folder: str | Path) -> tuple[Path, Path]:
    """Write report.html and report.pdf into a finished stitching run; returns both paths."""
    return _write(stitch_page(folder), Path(folder))


def comparison_report(comparison: Mapping[str, Any], folder: str | Path, **facts: str) -> tuple[Path, Path]:
    """Write report.html and report.pdf of `Comparison.to_dict()` into a folder; returns both paths."""
    return _write(comparison_page(comparison, facts), Path(folder))


def match_report(matching: Mapping[str, Any], folder: str | Path) -> tuple[Path, Path]:
    """Write report.html and report.pdf of what `stitch match` found into a folder; returns both paths."""
    return _write(match_page(matching), Path(folder))


def grid_report(frame: pd.DataFrame, folder: str | Path) -> tuple[Path, Path]:
    """Write report.html and report.pdf of the table of a grid into its folder; returns both paths."""
    return _write(grid_page(frame), Path(folder))


def _write(page: Page, folder: Path) -> tuple[Path, Path]:
    html, pdf = folder / "report.html", folder / "report.pdf"
    write_html(page, html)
    write_pdf(page, pdf, _now())
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


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
