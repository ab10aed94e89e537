"""The command `keras-relu`: parses, calls the package, prints. TensorFlow is imported only when a command runs.

Exit codes: 0 = done; 1 = failed; 2 = the input is wrong; 75 = stopped by SIGTERM or SIGUSR1 after saving, run again with
--resume.
"""

from __future__ import annotations

import os
import sys

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code, so that the console script can pass it on."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given or bool(os.environ.get("KERAS_RELU_DEBUG"))
    return _run([argument for argument in given if argument != "--debug"], debug=debug)


def _run(arguments: list[str], *, debug: bool) -> int:
    from keras_relu.cli.app import command
    from keras_relu.cli.errors import explain

    try:
        code = command()(args=arguments, prog_name="keras-relu", standalone_mode=False)
    except BaseException as error:
        if debug and isinstance(error, Exception):
            raise
        return explain(error)
    return code if isinstance(code, int) else 0
