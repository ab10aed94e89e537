"""The stage pqat: a pruned network learns to live with int8 weights and activations, and keeps its zeros."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
import tf_keras as keras

from keras_relu import surgery
from keras_relu.compression import quantization
from keras_relu.compression.config import PqatConfig
from keras_relu.compression.masks import require_zeros, sparsity_facts, zero_masks, zero_rules
from keras_relu.compression.ranges import estimate_ranges
from keras_relu.runs import Run, load_model
from keras_relu.runs.quantized import save_quantized
from keras_relu.training.checks import require_logits
from keras_relu.training.supervised import measure, optimize

__all__ = ["pqat"]


def pqat(
    model: keras.Model,
    dataset: Any,
    run: Run | None,
    config: PqatConfig | Mapping[str, Any],
    *,
    strategy: tf.distribute.Strategy | None = None,
    facts: Mapping[str, Any] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Train a network with the rounding of int8 in it; every zero of its kernels stays zero.

    Args:
        model: a functional tf_keras model with logits for the classes of `dataset`, pruned or not; it is not changed.
        dataset, run, facts, options: as in `prune`.

    Returns:
        The result as in result.json; accuracies are those of the quantized network. Without a run also `model`, the
        quantized network.

    Raises:
        UserError: a wrong setting, or a layer that cannot be quantized.
        KerasReLUError: a zero was lost.
    """
    config = config if isinstance(config, PqatConfig) else PqatConfig.parse(config)
    require_logits(surgery.require_functional(model), dataset)
    masks = zero_masks(model)
    ranged = quantization.quantize(model, exclude=config.exclude)
    estimate_ranges(ranged, dataset.train, dataset.normalization)
    with (strategy or tf.distribute.get_strategy()).scope():
        quantized = quantization.quantize(model, exclude=config.exclude)
        quantization.assign_state(model, quantized, quantization.collect_state(model, ranged))
    optimize(
        quantized,
        dataset,
        run,
        config,
        strategy=strategy,
        rules=lambda placed: zero_rules(placed, masks),
        **options,
    )
    if run is not None:
        save_quantized(run, model, quantized, exclude=config.exclude)
        quantized = load_model(run.path, quantized=True)
    require_zeros(quantized, masks, "pqat")
    result = {
        **(facts or {}),
        **measure(quantized, dataset, config),
        "parameters": model.count_params(),
        **sparsity_facts(quantized, masks),
        "epochs": {"pqat": config.epochs},
    }
    return {**result, "model": quantized} if run is None else run.finish(result)
