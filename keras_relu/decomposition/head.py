"""The end of a network: its last dense layer, the features that go into it, and its class-specific replacement."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from keras_relu import surgery
from keras_relu.errors import UserError, unknown_key
from keras_relu.layers.class_specific import ClassSpecificDense
from keras_relu.splitting import unpack

if TYPE_CHECKING:
    from keras_relu.data import Dataset, Normalization, Split

__all__ = ["Head", "check_fits", "decompose", "feature_batches", "feature_model", "find_head"]

_ENDINGS = (keras.layers.Activation, keras.layers.Softmax)


@dataclass(frozen=True, eq=False)
class Head:
    """The last dense layer of a network.

    Attributes:
        dense: the layer.
        features: the Keras tensor [N, D] it reads.
        source: name of the layer that makes `features`.
    """

    dense: keras.layers.Dense
    features: Any
    source: str

    @property
    def kernel(self) -> np.ndarray:
        """Weights [D, C]."""
        return self.dense.kernel.numpy()

    @property
    def bias(self) -> np.ndarray:
        """Biases [C], zeros when the layer has none."""
        return self.dense.bias.numpy() if self.dense.use_bias else np.zeros(self.dense.units, np.float32)

    @property
    def filters(self) -> int:
        """Number of features D."""
        return int(self.features.shape[-1])


def find_head(model: keras.Model) -> Head:
    """The dense layer that makes the logits of `model`; only activations may follow it.

    Raises:
        UserError: the model cannot be edited, has several inputs or outputs, is decomposed already, or ends in anything else.
    """
    surgery.require_functional(model)
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise UserError(
            f"Model {model.name!r} has {len(model.inputs)} inputs and {len(model.outputs)} outputs; one input with the "
            "images and one output with the logits are needed."
        )
    node = model.outputs[0].node
    while isinstance(node.layer, _ENDINGS):
        node = node.keras_inputs[0].node
    layer = node.layer
    if isinstance(layer, ClassSpecificDense):
        raise UserError(f"Model {model.name!r} is decomposed already: its last layer reads only selected filters.")
    if not isinstance(layer, keras.layers.Dense) or node.keras_inputs[0].shape.rank != 2:
        raise UserError(
            f"Model {model.name!r} ends in layer {layer.name!r} ({type(layer).__name__}); a Dense layer on pooled features "
            "[batch, filters] is needed, with nothing but an activation behind it."
        )
    features = node.keras_inputs[0]
    return Head(layer, features, features.node.layer.name)


def decompose(model: keras.Model, indices: Sequence[Sequence[int]]) -> keras.Model:
    """A copy of `model` whose last layer reads only the filters of each class; weights and biases are those of `model`.

    Args:
        model: any functional tf_keras model that `find_head` accepts.
        indices: one list of filters per class.

    Raises:
        UserError: as `find_head`; malformed indices, or indices of another number of classes or filters.
    """
    dense = find_head(model).dense

    def make(layer: keras.layers.Layer) -> keras.layers.Layer | None:
        return ClassSpecificDense.from_dense(dense, indices) if layer is dense else None

    return surgery.replace_layers(model, make)


def feature_model(model: keras.Model, layer: str | None = None) -> keras.Model:
    """The part of `model` up to the features [N, D] of its filters.

    Args:
        layer: a layer whose output is averaged over its whole extent; None takes what the last dense layer reads.
            Those of nested models are named as by `splitting.unpack`.

    Raises:
        UserError: as `find_head`; no such layer, or its output has no filter axis of fixed size.
    """
    if layer is None:
        return keras.Model(model.inputs, find_head(model).features)
    if all(layer != candidate.name for candidate in surgery.require_functional(model).layers):
        model = unpack(model)
    names = [candidate.name for candidate in model.layers]
    if layer not in names:
        raise unknown_key(f"layer of {model.name!r}", layer, names)
    output = model.get_layer(layer).get_output_at(0)
    if not tf.is_tensor(output) or output.shape.rank not in (2, 4) or output.shape[-1] is None:
        raise UserError(
            f"The output of layer {layer!r} is {output!r}; one tensor [batch, (height, width,) filters] is needed."
        )
    pooled = output if output.shape.rank == 2 else keras.layers.GlobalAveragePooling2D()(output)
    return keras.Model(model.inputs, pooled)


def check_fits(model: keras.Model, dataset: Dataset) -> None:
    """Refuse a data set whose images or classes are not those of `model`, and a model that has diverged.

    Raises:
        UserError: another image size or number of classes, or a weight that is NaN or infinite.
    """
    # Responses do not show it: a ReLU makes zeros of NaN.
    diverged = next((weight.name for weight in model.weights if not np.isfinite(weight.numpy()).all()), None)
    if diverged is not None:
        raise UserError(f"Model {model.name!r} has diverged: its weight {diverged!r} is NaN or infinite.")
    shape, images = tuple(model.inputs[0].shape[1:]), tuple(dataset.image_shape)
    if len(shape) != len(images) or any(size not in (None, given) for size, given in zip(shape, images, strict=True)):
        raise UserError(f"Model {model.name!r} takes images {shape}, the data set {dataset.name!r} has {images}.")
    if model.output_shape[-1] != dataset.classes:
        raise UserError(
            f"Model {model.name!r} has {model.output_shape[-1]} outputs, the data set {dataset.name!r} has "
            f"{dataset.classes} classes."
        )


def feature_batches(
    model: keras.Model,
    split: Split,
    normalization: Normalization,
    *,
    layer: str | None = None,
    batch_size: int = 500,
    augment_seed: int | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(float32 features [B, D], int32 labels [B]) of a split, batch by batch, in its order.

    Args:
        layer: see `feature_model`.
        augment_seed: augment the images as in training, drawn from this seed; None leaves them as they are.

    Raises:
        UserError: as `feature_model`, or an empty split.
    """
    body = feature_model(model, layer)
    compute = tf.function(lambda images: body(normalization.apply(images), training=False), autograph=False)
    augment = None if augment_seed is None else _augmentation(split, augment_seed)
    for step, (images, labels) in enumerate(split.batches(batch_size)):
        yield compute(images if augment is None else augment(images, step)).numpy(), labels.numpy()


def _augmentation(split: Split, seed: int) -> Callable[[tf.Tensor, int], tf.Tensor]:
    from keras_relu.data.augmentation import step_seed

    key = tf.constant(np.random.SeedSequence(seed).generate_state(2), tf.int64)
    return lambda images, step: split.augmentation(images, step_seed(key, tf.constant(step, tf.int64)))
