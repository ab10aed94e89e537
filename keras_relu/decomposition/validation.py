"""The decomposed layer beside the original one: correct images overall and per class, from one pass of features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import tf_keras as keras

from keras_relu.class_filters import checked_rows, masked_kernel
from keras_relu.decomposition.head import Head, check_fits, feature_batches, find_head
from keras_relu.decomposition.noise import dense_logits
from keras_relu.decomposition.tables import FilterTable
from keras_relu.errors import UserError
from keras_relu.fingerprint import model_hash

if TYPE_CHECKING:
    from keras_relu.data import Dataset, Split

__all__ = ["check_table", "collect_features", "validate"]


def validate(
    model: keras.Model, tables: Sequence[FilterTable], dataset: Dataset, *, split: str = "test", batch_size: int = 500
) -> dict[str, Any]:
    """Accuracy of `model` and of its decomposition by each table.

    Args:
        model: ends in a dense layer on pooled features; it is not changed.
        tables: at least one.
        split: "test", "validation" or "train".

    Returns:
        {"total", "per_class_total", "original", "decomposed": that of the first table, "tables": one entry per table}.
        `original` and each entry have correct, accuracy, loss, per_class_correct, parameters and multiplications of the
        last layer; an entry also says where its table came from, the fraction of images with the original's answer
        (agreement), and whether the table was extracted from these weights (model_matches; null when not recorded).

    Raises:
        UserError: no table; a table, data set or split that does not fit; logits that are NaN or infinite.
    """
    if not tables:
        raise UserError("At least one index file is needed, received none.")
    head, source = find_head(model), find_head(model).source
    for table in tables:
        check_table(table, head)
    check_fits(model, dataset)
    kernels = [head.kernel, *(masked_kernel(head.kernel, table.rows) for table in tables)]
    tallies = [_Tally(np.zeros(dataset.classes, np.int64)) for _ in kernels]
    totals = np.zeros(dataset.classes, np.int64)
    for features, labels in feature_batches(
        model, _split(dataset, split), dataset.normalization, batch_size=batch_size
    ):
        totals += np.bincount(labels, minlength=dataset.classes)
        reference = dense_logits(features, kernels[0], head.bias)
        for tally, kernel in zip(tallies, kernels, strict=True):
            tally.add(dense_logits(features, kernel, head.bias), labels, reference.argmax(axis=-1))
    total, biases = int(totals.sum()), head.dense.units if head.dense.use_bias else 0
    original = {**tallies[0].result(total), "parameters": kernels[0].size + biases, "multiplications": kernels[0].size}
    trained = model_hash(model)
    entries = []
    for table, tally in zip(tables, tallies[1:], strict=True):
        count = sum(len(row) for row in table.rows)
        known = table.facts.get("model_hash")
        entries.append(
            {
                **table.describe(),
                **tally.result(total),
                "agreement": tally.agreeing / total,
                "parameters": count + biases,
                "multiplications": count,
                "model_matches": None if known is None else known == trained,
            }
        )
    return {
        "model": model.name,
        "dataset": dataset.name,
        "normalization": dataset.normalization.name,
        "split": split,
        "layer": source,
        "class_names": list(dataset.class_names),
        "total": total,
        "per_class_total": totals.tolist(),
        "original": original,
        "decomposed": entries[0],
        "tables": entries,
    }


def check_table(table: FilterTable, head: Head) -> None:
    """Refuse a table that is not of the filters of `head`.

    Raises:
        UserError: other classes, other filters, or extracted at another layer.
    """
    if table.classes != head.dense.units:
        raise UserError(f"{table.name} is for {table.classes} classes, the network has {head.dense.units}.")
    if table.facts and table.facts["filters"] != head.filters:
        raise UserError(f"{table.name} is for {table.facts['filters']} filters, the last layer has {head.filters}.")
    # Names alone would not do: the same network built twice may call its pooling differently.
    if table.facts.get("last_layer") is False:
        raise UserError(
            f"{table.name} holds filters of layer {table.facts['layer']!r}; the last layer reads {head.source!r}."
        )
    checked_rows(table.rows, head.filters)


def collect_features(
    model: keras.Model, dataset: Dataset, *, split: str = "test", batch_size: int = 500
) -> tuple[np.ndarray, np.ndarray]:
    """Features [N, D] and labels [N] of a whole split, in memory."""
    check_fits(model, dataset)
    batches = feature_batches(model, _split(dataset, split), dataset.normalization, batch_size=batch_size)
    features, labels = zip(*batches, strict=True)
    return np.concatenate(features), np.concatenate(labels)


def _split(dataset: Dataset, name: str) -> Split:
    if name not in ("test", "train", "validation"):
        raise UserError(f"Unknown split {name!r}. Allowed: test, train, validation.")
    return getattr(dataset, name)


@dataclass
class _Tally:
    """Running sums of one last layer."""

    right: np.ndarray
    loss: float = 0.0
    agreeing: int = 0

    def add(self, logits: np.ndarray, labels: np.ndarray, reference: np.ndarray) -> None:
        answers = logits.argmax(axis=-1)
        self.right += np.bincount(labels[answers == labels], minlength=len(self.right))
        self.agreeing += int((answers == reference).sum())
        shifted = (logits - logits.max(axis=-1, keepdims=True)).astype(np.float64)
        self.loss += float((np.log(np.exp(shifted).sum(axis=-1)) - shifted[np.arange(len(labels)), labels]).sum())

    def result(self, total: int) -> dict[str, Any]:
        correct = int(self.right.sum())
        return {
            "correct": correct,
            "accuracy": correct / total,
            "loss": self.loss / total,
            "per_class_correct": self.right.tolist(),
        }
