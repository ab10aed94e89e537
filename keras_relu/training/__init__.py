"""Training: schedules, optimizers, losses, checkpoints, distribution strategies and the one `fit` of all stages.

`fit` here is the function; its module is `keras_relu.training.fit`.
"""

from __future__ import annotations

from keras_relu.training import (
    checkpoint,
    compiled,
    ema,
    losses,
    optimizers,
    precision,
    progress,
    schedules,
    signals,
    strategy,
    supervised,
)
from keras_relu.training.compiled import TrainStep
from keras_relu.training.fit import fit
from keras_relu.training.strategy import get_strategy

__all__ = [
    "TrainStep",
    "checkpoint",
    "checks",
    "compiled",
    "ema",
    "fit",
    "get_strategy",
    "losses",
    "optimizers",
    "precision",
    "progress",
    "schedules",
    "signals",
    "strategy",
    "supervised",
]
