"""Experiments: directories with an experiment.yaml that name a network, a stage and a recipe, and the runs they become.

`config` reads them, `tree` finds and orders them, `run` trains or evaluates one, `chain` trains all below a directory,
`slurm` turns them into batch scripts.
"""

from __future__ import annotations

from keras_relu.experiments.config import Experiment, ExperimentConfig, list_recipes, load_experiment

__all__ = ["Experiment", "ExperimentConfig", "list_recipes", "load_experiment"]
