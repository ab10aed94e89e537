"""Inference-only evaluation of everything a user may call a model: Keras model, run, .keras, SavedModel, .tflite.

A SavedModel is evaluated through its serving signature, so no Python code that it may carry is run.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from keras_relu import tflite
from keras_relu.errors import UserError
from keras_relu.runs import find_model, load_model

__all__ = ["Evaluator", "NonFiniteLogitsError", "evaluate"]


class NonFiniteLogitsError(UserError):
    """The model's outputs are NaN or infinite, so it has no accuracy."""


@dataclass(frozen=True)
class _Predictor:
    """`predict` maps float32 [B, H, W, C] to logits [B, classes]; `compiled` says whether it can be part of a graph."""

    name: str
    input_shape: tuple[int | None, ...]
    classes: int | None
    predict: Callable[[tf.Tensor], tf.Tensor]
    compiled: bool = True


def evaluate(
    model_or_path: keras.Model | str | os.PathLike,
    dataset_split: Any,
    normalization: Any,
    *,
    batch_size: int = 500,
    classes: int | None = None,
    trusted: bool = False,
) -> dict[str, Any]:
    """Accuracy and mean cross entropy over a split, read batch by batch.

    Args:
        model_or_path: a model with logits or softmax as output, or a path that `runs.find_model` accepts.
        dataset_split: its `batches(batch_size)` yields (uint8 [B, H, W, C], int32 [B]).
        normalization: its `apply` makes the model's float32 input from the images.
        classes: number of classes of the dataset; None checks only that every label has an output.
        trusted: passed to `runs.load_model` for files that could run code.

    Returns:
        {"accuracy": fraction, "correct": int, "total": int, "loss": float}.

    Raises:
        UserError: no such model, or its input or its outputs do not fit the images or classes.
        NonFiniteLogitsError: a logit is NaN or infinite.
    """
    return Evaluator(model_or_path, normalization, trusted=trusted)(
        dataset_split, batch_size=batch_size, classes=classes
    )


class Evaluator:
    """`evaluate` for one model and several calls: the graph is traced once."""

    def __init__(
        self, model_or_path: keras.Model | str | os.PathLike, normalization: Any, *, trusted: bool = False
    ) -> None:
        self.predictor = _predictor(model_or_path, trusted=trusted)
        self.normalization = normalization
        self._measure = self._eagerly
        if self.predictor.compiled:
            images = tf.TensorSpec([None, *self.predictor.input_shape], tf.uint8)
            signature = [images, tf.TensorSpec([None], tf.int32)]
            self._measure = tf.function(self._eagerly, input_signature=signature, autograph=False)

    def __call__(self, dataset_split: Any, *, batch_size: int = 500, classes: int | None = None) -> dict[str, Any]:
        """See `evaluate`."""
        batches = dataset_split.batches(batch_size)
        _check_shapes(self.predictor, batches.element_spec[0].shape[1:])
        _check_classes(self.predictor, dataset_split.labels, classes)
        sums = tf.zeros([4], tf.float64)
        for images, labels in batches:
            sums += self._measure(images, labels)
        total, correct, loss, bad = (float(value) for value in sums)
        if bad:
            raise NonFiniteLogitsError(
                f"The outputs of {self.predictor.name} are NaN or infinite for {int(bad)} of {int(total)} images; "
                "its training diverged, or its input is scaled otherwise."
            )
        return {"accuracy": correct / total, "correct": int(correct), "total": int(total), "loss": loss / total}

    def _eagerly(self, images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """[examples, right ones, sum of losses, examples with a non-finite logit] of a batch, float64."""
        logits = tf.cast(self.predictor.predict(self.normalization.apply(images)), tf.float32)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
        right = tf.equal(tf.argmax(logits, axis=-1, output_type=tf.int32), labels)
        bad = tf.logical_not(tf.reduce_all(tf.math.is_finite(logits), axis=-1))
        columns = [tf.ones_like(losses), tf.cast(right, tf.float32), losses, tf.cast(bad, tf.float32)]
        return tf.reduce_sum(tf.cast(tf.stack(columns), tf.float64), axis=1)


def _predictor(model_or_path: Any, *, trusted: bool) -> _Predictor:
    if isinstance(model_or_path, keras.Model):
        return _keras_predictor(model_or_path, f"model {model_or_path.name!r}")
    if not isinstance(model_or_path, (str, os.PathLike)):
        kind = type(model_or_path)
        keras_3 = " of Keras 3; build it with tf_keras instead" if kind.__module__.split(".")[0] == "keras" else ""
        raise UserError(f"Expected a tf_keras model or a path, received {kind.__name__}{keras_3}.")
    file = find_model(model_or_path)
    if file.is_dir():
        return _saved_model_predictor(file)
    if file.suffix == ".tflite":
        return _tflite_predictor(file)
    model = load_model(model_or_path, trusted=trusted, quantized=True)
    return _keras_predictor(model, f"model {str(file)!r}")


def _keras_predictor(model: keras.Model, name: str) -> _Predictor:
    if isinstance(model.input_shape, list) or isinstance(model.output_shape, list):
        raise UserError(
            f"The {name} must have one input and one output, it has {len(model.inputs)} and {len(model.outputs)}."
        )

    def predict(x: tf.Tensor) -> tf.Tensor:
        return model(x, training=False)

    def predict_log(x: tf.Tensor) -> tf.Tensor:
        return tf.math.log(tf.maximum(tf.cast(model(x, training=False), tf.float32), 1e-30))

    softmax = getattr(model.layers[-1], "activation", None) is keras.activations.softmax
    return _Predictor(name, tuple(model.input_shape[1:]), model.output_shape[-1], predict_log if softmax else predict)


def _saved_model_predictor(path: Path) -> _Predictor:
    try:
        loaded = tf.saved_model.load(str(path))
    except Exception as error:  # a damaged protobuf surfaces as almost any type
        raise UserError(f"The SavedModel {str(path)!r} is corrupt or incomplete: {_short(error)}") from error
    signature = loaded.signatures.get("serving_default")
    inputs = list(signature.structured_input_signature[1].items()) if signature is not None else []
    if len(inputs) != 1 or len(signature.structured_outputs) != 1 or inputs[0][1].shape.rank != 4:
        raise UserError(
            f"The SavedModel {str(path)!r} needs a signature 'serving_default' with one image input and one output."
        )
    (key, spec), (output, output_spec) = inputs[0], next(iter(signature.structured_outputs.items()))

    def predict(x: tf.Tensor) -> tf.Tensor:
        # `loaded` must stay alive: the signature refers to its variables weakly.
        return loaded.signatures["serving_default"](**{key: tf.cast(x, spec.dtype)})[output]

    return _Predictor(f"SavedModel {str(path)!r}", tuple(spec.shape[1:]), output_spec.shape[-1], predict)


def _tflite_predictor(path: Path) -> _Predictor:
    loaded = tflite.load(path)

    def predict(x: tf.Tensor) -> tf.Tensor:
        return tf.constant(loaded(x.numpy()))

    return _Predictor(f"TFLite file {str(path)!r}", loaded.input_shape, loaded.outputs, predict, compiled=False)


def _check_shapes(predictor: _Predictor, images: tf.TensorShape) -> None:
    if not images.is_compatible_with(predictor.input_shape):
        raise UserError(
            f"The {predictor.name} takes images of shape {list(predictor.input_shape)}, "
            f"the dataset has images of shape {list(images)} (height, width, channels)."
        )


def _check_classes(predictor: _Predictor, labels: np.ndarray, classes: int | None) -> None:
    outputs = predictor.classes
    needed = int(np.max(labels)) + 1 if len(labels) else 0
    if outputs is not None and (needed > outputs or (classes is not None and classes != outputs)):
        wanted = f"{classes} classes" if classes is not None else f"labels up to {needed - 1}"
        raise UserError(f"The {predictor.name} has {outputs} outputs, the dataset has {wanted}.")


def _short(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
