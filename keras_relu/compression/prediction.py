"""The stage pred: predictors put into a pruned network, and what they leave open trained around the frozen exact paths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tf_keras as keras
from pydantic import Field

from keras_relu import counting, surgery
from keras_relu.compression.config import _Stage
from keras_relu.compression.counts import count_fusion
from keras_relu.compression.masks import require_zeros, sparsity_facts, zero_masks, zero_rules
from keras_relu.compression.predictors import Predictors, insert_predictors
from keras_relu.compression.quality import QualityMeter, joined_quality
from keras_relu.errors import UserError
from keras_relu.evaluate import Evaluator
from keras_relu.runs import Run, load_model
from keras_relu.training import supervised
from keras_relu.training.checks import require_logits

__all__ = ["PredConfig", "predict"]


class PredConfig(_Stage, Predictors):
    """Settings of the stage pred: how predictors are made, and how what they leave open is trained."""

    epochs: int = Field(10, ge=0)
    batch_size: int = Field(64, ge=1, description="images per update, over all replicas")
    learning_rate: float = Field(0.01, gt=0, description="peak of the schedule")
    quality_images: int = Field(
        500, ge=1, description="validation images on which predictors are judged after an epoch"
    )


def predict(
    model: keras.Model,
    dataset: Any,
    run: Run | None,
    config: PredConfig | Mapping[str, Any],
    *,
    facts: Mapping[str, Any] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Put predictors into `model` and train what they leave open; every zero of a kernel stays zero.

    Args:
        model: the parent, usually pruned; functional, logits for the classes of `dataset`. It is not changed.
        dataset: trained on `train`, watched on `validation`; `test` is read once at the end.
        run: gets metrics, checkpoints, the model and result.json; None writes nothing.
        config: a `PredConfig` or its plain values.
        facts: further keys of the result.
        options: resume, strategy, checkpoint_every, log_every, progress, max_steps; see `supervised.optimize`.

    Returns:
        The result as in result.json: what `supervised.train` measures, and baseline_accuracy (of the parent), mode,
        predictors (quality by site on the validation split, where there is one), predictor_quality (over all sites),
        sparsity, kernels, macs, ternary_additions and fusion (None where predictors stand outside of blocks). Without a
        run also `model`.

    Raises:
        UserError: a model without anything to predict, settings that contradict each other.
        KerasReLUError: a pruned weight did not stay zero.
        TrainingDivergedError, Interrupted: see `training.fit`.
    """
    config = config if isinstance(config, PredConfig) else PredConfig.parse(config)
    require_logits(surgery.require_functional(model), dataset)
    predicted = insert_predictors(model, config)
    masks = zero_masks(model)
    watch = _watcher(dataset, config) if dataset.validation.size else None
    supervised.optimize(
        predicted, dataset, run, config, rules=lambda placed: zero_rules(placed, masks), watch=watch, **options
    )
    if run is not None:
        run.save_model(predicted)
        predicted = load_model(run.path)
    require_zeros(predicted, masks, "pred")
    result = {
        **(facts or {}),
        **supervised.measure(predicted, dataset, config),
        **_facts(model, predicted, dataset),
        **sparsity_facts(predicted, masks),
        "mode": config.mode,
        "epochs": {"pred": config.epochs},
    }
    return {**result, "model": predicted} if run is None else run.finish(result)


def _watcher(dataset: Any, config: PredConfig) -> Callable[[keras.Model], Callable[[], dict[str, float]]]:
    """What `optimize` shows after each epoch: the quality over all predictors, and of the worst one."""
    count = min(config.quality_images, dataset.validation.size)
    images = dataset.validation.subset(np.arange(count), name="validation")

    def make(model: keras.Model) -> Callable[[], dict[str, float]]:
        meter = QualityMeter(model, dataset.normalization)

        def measure() -> dict[str, float]:
            entries = meter(images)
            joined = joined_quality(entries)
            keys = ("precision", "recall", "false_negative_fraction", "live_fraction")
            numbers = {f"predictor_{key}": joined[key] for key in keys}
            for entry in entries:
                numbers |= {f"{key}/{entry['name']}": entry[key] for key in keys}
            return {key: float("nan") if value is None else value for key, value in numbers.items()}

        return measure

    return make


def _facts(model: keras.Model, predicted: keras.Model, dataset: Any) -> dict[str, Any]:
    counts = counting.count(predicted)
    baseline = Evaluator(model, dataset.normalization)(dataset.test, classes=dataset.classes)
    entries = QualityMeter(predicted, dataset.normalization)(dataset.validation) if dataset.validation.size else []
    return {
        "baseline_accuracy": baseline["accuracy"],
        "predictors": entries,
        "predictor_quality": joined_quality(entries) if entries else None,
        "macs": counts.macs,
        "ternary_additions": counts.ternary_additions,
        "fusion": _fusion(predicted),
    }


def _fusion(model: keras.Model) -> dict[str, Any] | None:
    """The sums of the fused blocks, or None where predictors stand outside of blocks."""
    try:
        counts = count_fusion(model).to_dict()
    except UserError:
        return None
    return {key: value for key, value in counts.items() if key != "blocks"}
