"""A Keras model as the StableHLO text that the secure engine compiles, weights as parameters so that they can stay secret."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf
import tf_keras as keras

from keras_relu.errors import UserError
from keras_relu.surgery import require_functional

__all__ = ["InferenceProgram", "inference_program"]


@dataclass(frozen=True)
class InferenceProgram:
    """`text`: StableHLO of logits = f(images, *weights); `weights`: the arrays, in the order of its parameters."""

    text: str
    weights: list[np.ndarray] = field(repr=False)


def inference_program(model: keras.Model, batch_size: int = 1) -> InferenceProgram:
    """The inference function of `model` for [batch_size, H, W, C] float32 images.

    Variables become parameters. Constants of the graph (masks, indices, coefficients of fixed polynomials) stay constants,
    which every party sees.

    Raises:
        UserError: the model has several inputs or outputs, or XLA cannot compile it.
    """
    model = require_functional(model)
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise UserError(f"Model {model.name!r} needs one input and one output to be measured.")
    shape = tf.TensorSpec((batch_size, *model.inputs[0].shape[1:]), tf.float32)
    if not shape.shape.is_fully_defined():
        raise UserError(f"Model {model.name!r} has the input {list(shape.shape)}; the engine needs fixed sizes.")
    function = tf.function(lambda images: model(images, training=False), jit_compile=True)
    try:
        captured = function.get_concrete_function(shape).captured_inputs
        text = function.experimental_get_compiler_ir(shape)(stage="stablehlo")
    except (tf.errors.OpError, ValueError, NotImplementedError) as error:
        raise UserError(
            f"Model {model.name!r} cannot be compiled for the engine: {str(error).splitlines()[0]}"
        ) from error
    by_handle = {id(variable.handle): variable for variable in model.variables}
    missing = [tensor for tensor in captured if id(tensor) not in by_handle]
    if missing:
        raise UserError(f"Model {model.name!r} reads {len(missing)} tensors that are no weights of its own.")
    return InferenceProgram(text, [by_handle[id(tensor)].numpy() for tensor in captured])
