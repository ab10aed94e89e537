"""Is the input pipeline fast enough? Augmented CIFAR-shaped batches per second against ResNet-20 training steps.

Both are measured in the same process, in turns, so that other load on the machine meets both alike. The bar: the
pipeline alone delivers at least five times the images that training consumes.

    python benchmarks/input_throughput.py [--data-dir DIR] [--rounds 3] [--steps 8]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import tensorflow as tf
import tf_keras as keras

import keras_relu
from keras_relu import data, models

BAR = 5.0
BATCH = 128
INPUT_STEPS = 300


def load(data_dir):
    """The real CIFAR-10 under `data_dir`, or synthetic images of the same shape and number."""
    if data_dir:
        return data.load("cifar10", data_dir=data_dir)
    return data.load("synthetic", options={"train_size": 50_000, "test_size": 10})


def train_step(normalization):
    """One plain training step as a compiled function: ResNet-20, SGD with momentum, cross entropy."""
    model = models.build("resnet20")
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function
    def step(images, labels):
        with tf.GradientTape() as tape:
            value = loss(labels, model(normalization.apply(images), training=True))
        weights = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(value, weights), weights, strict=True))
        return value

    return step


def input_rate(split, epoch):
    """Images per second of one augmented pass, from the first batch on (start-up is counted apart)."""
    batches = iter(split.epoch(BATCH, seed=0, epoch=epoch, augment=True).take(INPUT_STEPS + 1))
    next(batches)
    start = time.perf_counter()
    count = sum(1 for _ in batches)
    return BATCH * count / (time.perf_counter() - start)


def training_rate(split, step, steps):
    """Images per second of training alone: the batch is already there."""
    images, labels = next(iter(split.epoch(BATCH, seed=0, epoch=0)))
    step(images, labels)
    start = time.perf_counter()
    for _ in range(steps):
        value = step(images, labels)
    value.numpy()
    return BATCH * steps / (time.perf_counter() - start)


def fed_rate(split, step, steps):
    """Images per second of training fed by the pipeline: what a user gets."""
    batches = iter(split.epoch(BATCH, seed=0, epoch=0, augment=True).take(steps + 1))
    step(*next(batches))
    start = time.perf_counter()
    for images, labels in batches:
        value = step(images, labels)
    value.numpy()
    return BATCH * steps / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", help="folder with the real CIFAR-10; synthetic images otherwise")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8, help="training steps per round")
    arguments = parser.parse_args()
    dataset = load(arguments.data_dir)
    step = train_step(dataset.normalization)
    rates = {"input": [], "training": [], "training_fed": []}
    for turn in range(arguments.rounds):
        rates["training"].append(training_rate(dataset.train, step, arguments.steps))
        rates["input"].append(input_rate(dataset.train, turn))
        rates["training_fed"].append(fed_rate(dataset.train, step, arguments.steps))
    result = {f"{name}_images_per_s": round(statistics.median(values)) for name, values in rates.items()}
    result["ratio"] = round(result["input_images_per_s"] / result["training_images_per_s"], 1)
    print(json.dumps({"version": keras_relu.__version__, "batch_size": BATCH, **result, "bar": BAR}))
    raise SystemExit(0 if result["ratio"] >= BAR else 1)


if __name__ == "__main__":
    main()
