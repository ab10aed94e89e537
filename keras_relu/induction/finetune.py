"""Fine-tuning of an induced network: weights move, the borrowed bits stay as assigned.

Source: specification `induction` of the design, section 5.3 for the original's recipe (preset `original`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import tf_keras as keras

from keras_relu import surgery
from keras_relu.activations import InducedReLU
from keras_relu.errors import UserError
from keras_relu.induction.config import FINETUNE
from keras_relu.training import supervised

if TYPE_CHECKING:
    from keras_relu.data import Dataset
    from keras_relu.runs import Run

__all__ = ["finetune"]


def finetune(
    model: keras.Model,
    dataset: Dataset,
    config: supervised.TrainConfig | Mapping[str, Any] | None = None,
    *,
    teacher: keras.Model | None = None,
    run: Run | None = None,
    facts: Mapping[str, Any] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Train all weights of an induced network in place.

    Args:
        model: has at least one `InducedReLU`.
        config: a `TrainConfig`, or plain values; None takes `config.FINETUNE`.
        teacher: its logits are learned from too, usually those of the network before the induction.
        run: gets metrics, checkpoints, the model and result.json; None writes nothing.
        facts: further keys of the result.
        options: resume, strategy, checkpoint_every, log_every, progress, max_steps; see `supervised.train`.

    Returns:
        The result, see `supervised.train`.

    Raises:
        UserError: nothing in the model is induced, or settings out of range.
        TrainingDivergedError, Interrupted: see `training.fit`.
    """
    if not any(isinstance(layer, InducedReLU) for layer in surgery.iter_layers(model)):
        raise UserError(f"Model {model.name!r} has no induced site; build an induced network first.")
    if not isinstance(config, supervised.TrainConfig):
        config = supervised.TrainConfig.parse(FINETUNE if config is None else config)
    known = {**(facts or {}), "distilled": teacher is not None, "finetune": config.to_dict()}
    return supervised.train(model, dataset, run, config, teacher=teacher, facts=known, **options)
