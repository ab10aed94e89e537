"""What an evaluation reports about a model of any stage, read from the model itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import tf_keras as keras

from keras_relu import counting
from keras_relu.data import Dataset
from keras_relu.errors import UserError
from keras_relu.evaluate import Evaluator

__all__ = ["PUBLISHED_IMAGES", "measure"]

# The originals dropped the last, incomplete batch: 9,984 of 10,000 with each of their batch sizes.
PUBLISHED_IMAGES = 9984


def measure(model: keras.Model, dataset: Dataset) -> dict[str, Any]:
    """Accuracy on the test split and, where that has 10,000 images, on its first 9,984 as the originals reported it.

    Returns:
        accuracy, correct, total, loss; published_accuracy_images, accuracy_first (None for other test splits);
        parameters, macs, relu_count and density, the fraction of non-zero values in all kernels.
    """
    evaluator = Evaluator(model, dataset.normalization)
    test, classes = dataset.test, dataset.classes
    if test.size <= PUBLISHED_IMAGES:
        measured = evaluator(test, classes=classes)
        first = None
    else:
        cut = np.arange(test.size)
        head = evaluator(test.subset(cut[:PUBLISHED_IMAGES], name="test"), classes=classes)
        measured = _joined(head, evaluator(test.subset(cut[PUBLISHED_IMAGES:], name="test"), classes=classes))
        first = head["accuracy"]
    return {
        "dataset": dataset.name,
        "normalization": dataset.normalization.name,
        **measured,
        "accuracy_first_9984": first,
        **_sizes(model),
    }


def _joined(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    total = one["total"] + other["total"]
    correct = one["correct"] + other["correct"]
    loss = (one["loss"] * one["total"] + other["loss"] * other["total"]) / total
    return {"accuracy": correct / total, "correct": correct, "total": total, "loss": loss}


def _sizes(model: keras.Model) -> dict[str, Any]:
    kernels = [v.numpy() for v in model.trainable_weights + model.non_trainable_weights if "kernel" in v.name]
    size = sum(kernel.size for kernel in kernels)
    density = sum(int(np.count_nonzero(kernel)) for kernel in kernels) / size if size else None
    sizes: dict[str, Any] = {"parameters": model.count_params(), "kernel_density": density}
    try:
        counts = counting.count(model)
    except UserError:
        # Quantised models hold wrappers that have no counts.
        return sizes
    return {**sizes, "macs": counts.macs, "relu_count": counts.relu_count}
