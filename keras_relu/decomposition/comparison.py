"""The comparison with class-specific gates: both orders of the gates, with everything that is measured on filter lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_relu.class_filters import masked_kernel
from keras_relu.decomposition import information
from keras_relu.decomposition.csg import ORDERS, gate_statistics, gate_table
from keras_relu.decomposition.noise import check_settings, dense_logits, essential, survivors
from keras_relu.decomposition.tables import FilterTable
from keras_relu.errors import UserError

if TYPE_CHECKING:
    import tf_keras as keras

    from keras_relu.data import Dataset
    from keras_relu.decomposition.head import Head

__all__ = ["compare_gates", "describe_table"]


def describe_table(table: FilterTable, filters: int | None = None) -> dict[str, Any]:
    """Where a table comes from, its lists, and what they share; see `information.summarize`."""
    filters = filters or table.filters()
    facts = {**table.describe(), "filters": filters, "classes": table.classes, "indices": table.rows}
    return {**facts, **information.summarize(table.membership(filters))}


def compare_gates(
    gates: np.ndarray,
    *,
    top_k: Sequence[float] = (5, 10, 20),
    model: keras.Model | None = None,
    dataset: Dataset | None = None,
    repetitions: int = 20,
    seed: int = 0,
    batch_size: int = 500,
) -> dict[str, Any]:
    """The filters that gates give each class, in the published and in the corrected order.

    Args:
        gates: [C, D].
        top_k: filters per class, whole numbers.
        model: the network the gates were trained with; with `dataset` its test images are read once.
        repetitions: of the noise.

    Returns:
        {"gates": statistics, "standard_path": correct, total, accuracy, per_class_correct (null without images),
        "rows": one per order and k with order, description, and what `describe_table` says; with images also
        decomposed_correct and essential (see `essential`, standard noise)}.

    Raises:
        UserError: gates that are not of the model's classes and filters, or numbers out of range.
    """
    check_settings("standard", repetitions, seed)
    tables = [(order, gate_table(gates, k, order)) for order in ORDERS for k in top_k]
    rows = [{"order": order, "order_description": ORDERS[order], **describe_table(table)} for order, table in tables]
    result: dict[str, Any] = {"gates": gate_statistics(gates), "standard_path": None, "rows": rows}
    if model is None or dataset is None:
        return result
    from keras_relu.decomposition.head import find_head
    from keras_relu.decomposition.validation import collect_features

    head = find_head(model)
    _check(gates, head)
    features, labels = collect_features(model, dataset, batch_size=batch_size)
    result["standard_path"] = _standard_path(features, labels, head)
    result["first_image_logits"] = dense_logits(features[:1], head.kernel, head.bias)[0].astype(float).tolist()
    for row, (_, table) in zip(rows, tables, strict=True):
        kernel = masked_kernel(head.kernel, table.rows)
        row["decomposed_correct"] = int(survivors(features, labels, kernel, head.bias).sum())
        row["essential"] = essential(
            features, labels, head.kernel, head.bias, table.rows, repetitions=repetitions, seed=seed
        )
    return result


def _check(gates: np.ndarray, head: Head) -> None:
    if gates.shape != (head.dense.units, head.filters):
        raise UserError(
            f"The gates are for {gates.shape[0]} classes and {gates.shape[1]} filters, the network has "
            f"{head.dense.units} and {head.filters}."
        )


def _standard_path(features: np.ndarray, labels: np.ndarray, head: Head) -> dict[str, Any]:
    right = survivors(features, labels, head.kernel, head.bias)
    correct = int(right.sum())
    return {
        "correct": correct,
        "total": len(labels),
        "accuracy": correct / len(labels),
        "per_class_correct": right.tolist(),
    }
