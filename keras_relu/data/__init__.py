"""Datasets by name as `tf.data` pipelines that are a pure function of (seed, epoch, step).

    dataset = keras_relu.data.load("cifar10", data_dir="data")
    for images, labels in dataset.train.epoch(128, seed=0, epoch=3, augment=True):
        inputs = dataset.normalization.apply(images)

Batches stay uint8 until `normalization.apply`, which belongs on the device, inside the training step.
"""

from __future__ import annotations

from keras_relu.data.augmentation import Augmentation
from keras_relu.data.datasets import Dataset, list_datasets, load
from keras_relu.data.normalization import NORMALIZATIONS, Normalization, get_normalization
from keras_relu.data.splits import ArraySplit, Split

__all__ = [
    "NORMALIZATIONS",
    "ArraySplit",
    "Augmentation",
    "Dataset",
    "Normalization",
    "Split",
    "get_normalization",
    "list_datasets",
    "load",
]
