"""The Typer application: every command group is a module that registers itself."""

from __future__ import annotations

from typing import Any

import typer

from keras_relu._version import __version__
from keras_relu.cli import (
    compression,
    cost,
    decomposition,
    demo,
    experiments,
    fusion,
    induction,
    networks,
    reduction,
    reporting,
    similarity,
    stitching,
    submit,
    training,
)

__all__ = ["app", "command"]

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Which ReLUs a convolutional network needs, what each costs, and what can replace them.",
)


def _version(value: bool) -> None:
    if value:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
    debug: bool = typer.Option(False, "--debug", help="Show tracebacks; may stand anywhere."),
) -> None:
    """Options before any command. `--debug` is taken out of the arguments before they come here."""


for module in (
    networks,
    training,
    reduction,
    decomposition,
    reporting,
    demo,
    similarity,
    stitching,
    induction,
    compression,
    fusion,
    experiments,
    submit,
    cost,
):
    module.register(app)


def command() -> Any:
    """The click command behind the application."""
    return typer.main.get_command(app)
