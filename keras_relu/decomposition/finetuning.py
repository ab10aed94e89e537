"""Fine-tuning of a decomposed network: the whole network, with the selected weights and biases as its last layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import tf_keras as keras

from keras_relu import surgery
from keras_relu.decomposition.head import check_fits, decompose, find_head
from keras_relu.decomposition.tables import FilterTable, write_table
from keras_relu.decomposition.validation import check_table
from keras_relu.training import supervised

if TYPE_CHECKING:
    from keras_relu.data import Dataset
    from keras_relu.runs import Run

__all__ = ["PUBLISHED", "finetune"]

# Adam at a constant rate on all weights, batch normalisation in training mode (specification `decomposition`, section 6).
PUBLISHED: dict[str, Any] = {
    "epochs": 1,
    "batch_size": 64,
    "optimizer": "adam",
    "learning_rate": 1e-4,
    "schedule": "constant",
}


def finetune(
    model: keras.Model,
    table: FilterTable,
    dataset: Dataset,
    config: supervised.TrainConfig | Mapping[str, Any] | None = None,
    *,
    run: Run | None = None,
    distill: bool = False,
    facts: Mapping[str, Any] | None = None,
    **options: Any,
) -> tuple[keras.Model, dict[str, Any]]:
    """Decompose `model` by `table` and train all its weights.

    Args:
        model: ends in a dense layer on pooled features; it is not changed.
        dataset: trained on `train`, watched on `validation`; `test` is read once at the end.
        config: a `TrainConfig` or plain values on top of `PUBLISHED`.
        run: gets metrics, checkpoints, the model, the index file and result.json; None writes nothing.
        distill: learn from the logits of `model` too.
        facts: further keys of the result.
        options: resume, strategy, checkpoint_every, log_every, progress, max_steps; see `supervised.train`.

    Returns:
        (the trained model, its result).

    Raises:
        UserError: a table or data set that does not fit, or settings out of range.
        TrainingDivergedError, Interrupted: see `training.fit`.
    """
    if not isinstance(config, supervised.TrainConfig):
        config = supervised.TrainConfig.parse({**PUBLISHED, **(config or {})})
    check_table(table, find_head(model))
    check_fits(model, dataset)
    decomposed = decompose(model, table.rows)
    if run is not None and run.chief:
        write_table(run.path / "indices.json", table)
    result = supervised.train(
        decomposed,
        dataset,
        run,
        config,
        teacher=surgery.copy_model(model) if distill else None,
        facts={**(facts or {}), **_head_facts(decomposed, table), "distilled": distill},
        **options,
    )
    return decomposed, result


def _head_facts(decomposed: keras.Model, table: FilterTable) -> dict[str, Any]:
    layer = next(layer for layer in reversed(decomposed.layers) if hasattr(layer, "mac_count"))
    return {
        "top_k": table.top_k,
        "rule": table.facts.get("rule"),
        "head_parameters": layer.count_params(),
        "head_multiplications": layer.mac_count,
    }
