"""Runs: a directory per training run, and everything about loading the models that users name by a path.

`Run` writes and reads the directory; `find_model` and `load_model` accept what a user may pass as a model.
"""

from __future__ import annotations

from keras_relu.runs.directory import Run
from keras_relu.runs.loading import find_model, load_model
from keras_relu.runs.lock import RunBusyError

__all__ = ["Run", "RunBusyError", "find_model", "load_model"]
