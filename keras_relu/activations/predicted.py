"""A ReLU whose sign is decided by a predictor instead of the value itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from keras_relu.errors import UserError

__all__ = ["PredictedReLU", "predicted_relu"]


def predicted_relu(predictor: tf.Tensor, exact: tf.Tensor, *, train_exact: bool = False) -> tf.Tensor:
    """h = exact where predictor > 0, 0 elsewhere.

    A negative `exact` value that is predicted to be live passes as it is. Gradient of the predictor: that of its own ReLU
    output, dy [predictor > 0] (straight-through); of `exact`: zero, or with `train_exact` that of h, dy [predictor > 0].

    Args:
        predictor: pre-activation of the predictor, of the shape of `exact`.
        exact: pre-activation that the ReLU would have had.
        train_exact: let the gradient through to `exact`, which the paper's training never does.

    Source: Olyaiy, Ng, Lis, ICS 2021 (10.1145/3447818.3460378); spec `fusion`, sections 4.2 and 4.3.
    """
    # Without the stop the backward pass would carry zeros through the whole exact path.
    return _predicted(predictor, exact if train_exact else tf.stop_gradient(exact))


@tf.custom_gradient
def _predicted(predictor: tf.Tensor, exact: tf.Tensor) -> Any:
    live = predictor > 0

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        passed = tf.where(live, upstream, tf.zeros_like(upstream))
        return passed, passed

    return tf.where(live, exact, tf.zeros_like(exact)), gradient


@keras.saving.register_keras_serializable(package="keras_relu")
class PredictedReLU(keras.layers.Layer):
    """Layer form of `predicted_relu`: [predictor, exact], both [B, ..., C], to h of that shape.

    One comparison per element (of the predictor; the exact value is not compared).

    Args:
        cascade: return (h, relu(predictor)): the predictor of the next ReLU reads the second.
        train_exact: see `predicted_relu`.

    Raises:
        UserError: on build, anything but two inputs of one shape.
    """

    def __init__(self, *, cascade: bool = False, train_exact: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cascade, self.train_exact = cascade, train_exact

    def build(self, input_shape: Any) -> None:
        """Checks that there are two inputs of one shape."""
        shapes = _shapes(input_shape)
        if len(shapes) != 2 or shapes[0] != shapes[1]:
            raise UserError(
                f"PredictedReLU {self.name!r} takes [predictor, exact] of one shape, received {input_shape}."
            )
        self._site_shape = shapes[0][1:]
        super().build(input_shape)

    def call(self, inputs: Sequence[tf.Tensor]) -> Any:
        predictor, exact = inputs
        kept = predicted_relu(predictor, exact, train_exact=self.train_exact)
        return (kept, tf.nn.relu(predictor)) if self.cascade else kept

    def site_facts(self) -> dict[str, int]:
        """Cost per image in the words of `counting`."""
        elements = math.prod(self._site_shape)
        return {
            "relu_count": elements,
            "comparison_count": elements,
            "polynomial_count": 0,
            "multiplications": 0,
            "multiplicative_depth": 0,
        }

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "cascade": self.cascade, "train_exact": self.train_exact}


def _shapes(input_shape: Any) -> list[tuple]:
    """The shapes of several inputs; [] for the shape of one."""
    several = not isinstance(input_shape, tf.TensorShape) and all(
        isinstance(shape, (tf.TensorShape, list, tuple)) for shape in input_shape
    )
    return [tuple(tf.TensorShape(shape)) for shape in input_shape] if several else []
