"""Extraction: one pass over the training images of all classes, for every k at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tf_keras as keras

from keras_relu.decomposition.head import check_fits, feature_batches, feature_model, find_head
from keras_relu.decomposition.selection import ResponseStatistics, check_rule, checked_sizes, select
from keras_relu.decomposition.tables import FilterTable
from keras_relu.errors import UserError
from keras_relu.fingerprint import model_hash

if TYPE_CHECKING:
    from keras_relu.data import Dataset

__all__ = ["extract", "gather_statistics"]

_SCORES = {
    "frequency": "images of the class with the filter among their strongest",
    "frequency-tail": "images of the class with the filter among their strongest",
    "response-weight": "mean response times weight",
    "weight": "weight",
}


def extract(
    model: keras.Model,
    dataset: Dataset | None = None,
    *,
    top_k: Sequence[float] = (5, 10, 20),
    rule: str = "frequency",
    layer: str | None = None,
    batch_size: int = 500,
    augment_seed: int | None = None,
) -> list[FilterTable]:
    """The influential filters of every class, one table per entry of `top_k`.

    Args:
        model: a functional tf_keras model that ends in a dense layer on pooled features.
        dataset: its training images are read once, whatever the number of classes and of k; None only for `weight`.
        top_k: filters per class: whole numbers, or fractions in (0, 1) of cumulative mass.
        rule: key of `selection.RULES`.
        layer: a layer whose filters are ranked (frequency rules only); None = those the last layer reads.
        augment_seed: read the images augmented as in training; the published table for k = 5 was made so.

    Raises:
        UserError: an unknown rule or layer, numbers out of range, a rule that does not work at this layer or without
            images, a data set that does not fit, or a class without images.
    """
    check_rule(rule)
    body = feature_model(model, layer)
    sizes = checked_sizes(top_k, body.output_shape[-1])
    check_rule(rule, sizes)
    at_the_end = layer is None or body.output is find_head(model).features
    kernel = find_head(model).kernel if at_the_end else None
    statistics = None
    if dataset is not None and rule != "weight":
        counted = sizes if rule.startswith("frequency") else []
        options: dict[str, Any] = {"layer": layer, "batch_size": batch_size, "augment_seed": augment_seed}
        statistics = gather_statistics(model, dataset, top_k=counted, **options)
    facts = {
        "filters": int(body.output_shape[-1]),
        "classes": int(model.output_shape[-1]),
        "layer": layer or find_head(model).source,
        "last_layer": at_the_end,
        "rule": rule,
        "model": model.name,
        "model_hash": model_hash(model),
        **_data_facts(dataset if statistics else None, statistics, augment_seed),
    }
    return [_table(rule, size, statistics, kernel, facts) for size in sizes]


def gather_statistics(
    model: keras.Model, dataset: Dataset, *, top_k: Sequence[float] = (), **options: Any
) -> ResponseStatistics:
    """Statistics of the responses to the training images in one pass; options as of `feature_batches`.

    Raises:
        UserError: the data set does not fit the model, or a class has no image.
    """
    check_fits(model, dataset)
    filters = feature_model(model, options.get("layer")).output_shape[-1]
    statistics = ResponseStatistics(dataset.classes, int(filters), top_k)
    for responses, labels in feature_batches(model, dataset.train, dataset.normalization, **options):
        statistics.update(responses, labels)
    if not statistics.images.all():
        empty = int(np.argmin(statistics.images))
        raise UserError(
            f"Class {empty} ({dataset.class_names[empty]}) has no training image; its filters cannot be ranked."
        )
    return statistics


def _data_facts(
    dataset: Dataset | None, statistics: ResponseStatistics | None, augment_seed: int | None
) -> dict[str, Any]:
    if dataset is None or statistics is None:
        return {"dataset": None}
    return {
        "dataset": dataset.name,
        "normalization": dataset.normalization.name,
        "images": int(statistics.images.sum()),
        "augment_seed": augment_seed,
    }


def _table(
    rule: str,
    size: int | float,
    statistics: ResponseStatistics | None,
    kernel: np.ndarray | None,
    facts: dict[str, Any],
) -> FilterTable:
    rows, scores = select(rule, size, statistics, kernel)
    kept = [[round(float(scores[number, i]), 6) for i in row] for number, row in enumerate(rows)]
    mass = statistics.mean_mass(size) if statistics and isinstance(size, int) and size in statistics.masses else None
    distinct = len({i for row in rows for i in row})
    own = {"top_k": size, "mean_mass": mass, "distinct_filters": distinct, "score": _SCORES[rule], "scores": kept}
    return FilterTable(rows, {**facts, **own})
