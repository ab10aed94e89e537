"""The four stages: for each the function that trains it and the typed settings it takes.

All functions have the signature of `training.supervised.train`; their first argument is the model they start from, a
fresh network for vanilla and the parent run's model for the others.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from keras_relu.config import Config
from keras_relu.errors import UserError, unknown_key
from keras_relu.experiments.config import Experiment, ExperimentConfig

__all__ = ["STAGES", "Stage", "parse_settings"]


@dataclass(frozen=True)
class Stage:
    """Where a stage is implemented; imported on first use, since that takes seconds."""

    module: str
    function: str
    settings: str

    def train(self) -> Callable[..., dict[str, Any]]:
        """The function that trains this stage."""
        return getattr(importlib.import_module(self.module), self.function)

    def config_class(self) -> type[Config]:
        """The class of its settings."""
        return getattr(importlib.import_module(self.module), self.settings)


STAGES: Mapping[str, Stage] = {
    "vanilla": Stage("keras_relu.training.supervised", "train", "TrainConfig"),
    "pruned": Stage("keras_relu.compression", "prune", "PruneConfig"),
    "pqat": Stage("keras_relu.compression", "pqat", "PqatConfig"),
    "pred": Stage("keras_relu.compression", "predict", "PredConfig"),
}


def parse_settings(experiment: Experiment, *, replicas: int = 1) -> Config:
    """The checked settings of the experiment's stage.

    Args:
        replicas: number of devices that share a batch; counts where the experiment gives batch_per_replica.

    Raises:
        UserError: a key that neither the experiment nor its stage has (with the nearest one), or a wrong value.
    """
    config, kind = experiment.config, STAGES[experiment.config.stage].config_class()
    for key in experiment.settings:
        if key not in kind.model_fields:
            allowed = [*ExperimentConfig.model_fields, *kind.model_fields, "extends"]
            raise unknown_key(f"key for the stage {config.stage!r}", key, allowed)
    values = dict(experiment.settings)
    if config.batch_per_replica is not None:
        values["batch_size"] = config.batch_per_replica * replicas
    if "seed" in kind.model_fields:
        values["seed"] = config.seed
    try:
        return kind.parse(values)
    except UserError as error:
        raise UserError(f"{str(experiment.directory)!r}: {error}") from error
