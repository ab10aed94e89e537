"""report."""

from __future__ import annotations

from typing import Annotated

import typer

from keras_relu.cli.common import Json, emit

__all__ = ["register"]


def report(
    runs: Annotated[list[str], typer.Argument(help="Run directories, or directories of runs.")],
    output: Annotated[str, typer.Option("--output", "-o", help="The HTML file to write.")] = "report.html",
    figures: Annotated[str | None, typer.Option(help="Folder for the figures as PNG and SVG.")] = None,
    reference: Annotated[bool, typer.Option(help="Draw published points of the same data set.")] = True,
    json: Json = False,
) -> None:
    """Tables and plots of one or many runs in one self-contained page."""
    from keras_relu.report import build_report

    path = build_report(runs, output, figures_dir=figures, reference=reference)
    emit({"output": str(path), "runs": runs}, as_json=json, lines=[f"wrote {path}"])


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(report)
