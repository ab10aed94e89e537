"""The executable form of a fixed mask: only the kept elements are compared."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from keras_relu.activations import _kernels
from keras_relu.activations._facts import runtime_facts
from keras_relu.activations.fixed import FixedActivation, horner

__all__ = ["LoweredActivation"]


@keras.saving.register_keras_serializable(package="keras_relu")
class LoweredActivation(FixedActivation):
    """What `FixedActivation` computes, as gather -> one contiguous ReLU -> scatter with static indices.

    A selection between relu(x) and g(x) compares every element, since a tensor runtime evaluates both sides. Here the
    kept elements are gathered into one vector [B, K], which alone goes through the ReLU; g is computed at the other
    elements alone (for the identity nowhere); and one gather with constant indices puts both in place. All indices are
    constants of the graph: they, and with them the mask, are public in a private-inference protocol.

    Arguments, errors and gradient are those of `FixedActivation`.
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """y for `inputs` [B, ..., C]."""
        if self._bits is None or not self._bits.any():
            return self._polynomial(inputs)
        if self._bits.all():
            return _kernels.relu(inputs, self.max_value)
        flat = tf.reshape(inputs, [-1, self._bits.size])
        kept, places = self.kept_indices(), np.flatnonzero(~self._bits.ravel())
        compared = _kernels.relu(tf.gather(flat, kept, axis=1), self.max_value)
        if self._rows is None:
            order = np.arange(self._bits.size) + len(kept)
            order[kept] = np.arange(len(kept))
            joined = tf.concat([compared, flat], axis=1)
        else:
            order = np.argsort(np.concatenate([kept, places]))
            joined = tf.concat([compared, self._others(tf.gather(flat, places, axis=1), places)], axis=1)
        return tf.reshape(tf.gather(joined, order, axis=1), [-1, *self._bits.shape])

    def _others(self, values: tf.Tensor, places: np.ndarray) -> tf.Tensor:
        """g at the elements `places` of the flattened image: [B, len(places)] -> the same shape."""
        bits: Any = self._bits
        rows: Any = np.asarray(self._rows)[:, places % bits.shape[-1]]
        return horner([tf.constant(row, values.dtype) for row in rows], values)

    def runtime_facts(self) -> dict[str, int]:
        """What a tensor runtime executes: the kept comparisons, and polynomials at the other elements."""
        kept = self.relu_count()
        return runtime_facts(kept, math.prod(self._site_shape) - kept, self.degree, self.max_value)
