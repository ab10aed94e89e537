"""Which weights of a training are kept: of the last epoch, averaged ones, or those that did best on validation."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from keras_relu.evaluate import Evaluator
from keras_relu.runs import Run
from keras_relu.training import checkpoint

if TYPE_CHECKING:
    from keras_relu.training.supervised import SupervisedStep, TrainConfig

__all__ = ["Selection"]


class Selection:
    """Which weights are validated and kept: averaged or not, of the last epoch or of the best one."""

    watch: Callable[[], Mapping[str, float]] | None = None
    eligible: Callable[[], bool] | None = None

    def __init__(
        self, step: SupervisedStep, dataset: Any, config: TrainConfig, run: Run | None, *, resume: bool
    ) -> None:
        self.step = step
        self.split = dataset.validation
        self.keep_best = config.keep == "best"
        self.run = run
        self.evaluator = Evaluator(step.model, dataset.normalization)
        self.best: tuple[float, dict[str, np.ndarray]] | None = None
        if self.keep_best and resume and run is not None and self._file.exists():
            arrays, meta = checkpoint.read(self._file)
            self.best = (meta["accuracy"], arrays)

    def validate(self) -> dict[str, float]:
        """Accuracy and loss on the validation split, with averaged weights where there are any."""
        with self.step.ema.swapped() if self.step.ema is not None else contextlib.nullcontext():
            measured = self.evaluator(self.split)
            # Epochs that a resumed run repeats give the same accuracy again, which is no improvement.
            better = self.best is None or measured["accuracy"] > self.best[0]
            if self.keep_best and better and (self.eligible is None or self.eligible()):
                self._remember(measured["accuracy"])
            watched = self.watch() if self.watch else {}
        return {"accuracy": measured["accuracy"], "loss": measured["loss"], **watched}

    def finish(self) -> None:
        """Put the kept weights into the model."""
        if self.best is not None:
            checkpoint.assign(self.best[1], self._variables())
        elif self.step.ema is not None:
            self.step.ema.copy_to_weights()

    def _remember(self, accuracy: float) -> None:
        self.best = (accuracy, checkpoint.collect(self._variables()))
        if self.run is not None and self.run.chief:
            checkpoint.write(self._file, self.best[1], {"accuracy": accuracy})

    def _variables(self) -> dict[str, list[tf.Variable]]:
        return {"model": list(self.step.model.variables)}

    @property
    def _file(self) -> Path:
        assert self.run is not None
        return self.run.checkpoints / "best.npz"
