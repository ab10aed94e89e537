"""A tiny network and dataset for the training loop: small enough to compile in a second."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from keras_relu import data
from keras_relu.training import losses
from keras_relu.training.optimizers import Optimizer, compute_gradients, get_optimizer
from keras_relu.training.schedules import get_schedule

SHAPE = (6, 6, 3)
CLASSES = 4


@dataclasses.dataclass
class TinyDataset:
    """What `fit` and `train` need of a dataset."""

    train: data.ArraySplit
    validation: data.ArraySplit
    test: data.ArraySplit
    normalization: data.Normalization = data.NORMALIZATIONS["signed"]
    name: str = "tiny"
    classes: int = CLASSES
    image_shape: tuple[int, int, int] = SHAPE


def make_split(size: int, seed: int, name: str) -> data.ArraySplit:
    """Random images whose mean brightness tells the class."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, size)
    images = random.integers(0, 64, (size, *SHAPE)) + 60 * labels[:, None, None, None]
    return data.ArraySplit(
        images=images.astype(np.uint8),
        labels=labels.astype(np.int32),
        name=name,
        augmentation=data.Augmentation(flip=True, pad=1),
    )


def tiny_model(*, batch_norm: bool = True, seed: int = 0) -> keras.Model:
    """Convolution, ReLU, pooling, classifier."""
    keras.utils.set_random_seed(seed)
    inputs = x = keras.Input(SHAPE)
    x = keras.layers.Conv2D(6, 3, padding="same", name="conv")(x)
    if batch_norm:
        x = keras.layers.BatchNormalization(name="bn")(x)
    x = keras.layers.ReLU(name="relu")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, keras.layers.Dense(CLASSES, name="classifier")(x), name="tiny")


class TinyStep:
    """The smallest useful training step; `poison` makes the loss of that step NaN."""

    def __init__(self, *, batch_norm: bool = False, poison: int = -1, optimizer: Optimizer | None = None) -> None:
        self.model = tiny_model(batch_norm=batch_norm)
        self.optimizer = optimizer or get_optimizer("sgd", momentum=0.9, weight_decay=1e-3)
        self.optimizer.build(self.model.trainable_variables)
        self.schedule = get_schedule("cosine", peak=0.05, total_steps=24, warmup_steps=2)
        self.poison = poison

    def __call__(self, images: tf.Tensor, labels: tf.Tensor, step_index: tf.Tensor) -> dict[str, tf.Tensor]:
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            logits = self.model(tf.cast(images, tf.float32) / 255.0, training=True)
            loss = losses.global_mean(losses.cross_entropy(labels, logits))
        gradients, _ = compute_gradients(tape, loss, variables, clip_norm=1.0)
        self.optimizer.apply(zip(gradients, variables, strict=True), self.schedule(step_index))
        shown = loss * losses.replica_count()
        shown = tf.where(tf.equal(step_index, self.poison), np.nan, shown)
        return {"loss": shown, "accuracy": losses.accuracy(labels, logits)}

    def variables(self) -> dict[str, list[tf.Variable]]:
        return {"model": list(self.model.variables), "optimizer": self.optimizer.variables}

    def values(self) -> list[np.ndarray]:
        return [variable.numpy() for group in self.variables().values() for variable in group]


@pytest.fixture(scope="session")
def tiny_dataset() -> TinyDataset:
    return TinyDataset(make_split(50, 0, "train"), make_split(20, 1, "validation"), make_split(20, 2, "test"))


@pytest.fixture
def make_step():
    return TinyStep


@pytest.fixture
def make_model():
    return tiny_model
