"""The decomposed last layer: every class has a few filters of its own and reads only those."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from keras_relu.class_filters import checked_rows
from keras_relu.errors import UserError

__all__ = ["ClassSpecificDense", "class_specific_logits"]


def class_specific_logits(
    features: tf.Tensor, kernel: tf.Tensor, indices: Sequence[Sequence[int]], bias: tf.Tensor | None = None
) -> tf.Tensor:
    """logit[n, c] = sum_m features[n, indices[c][m]] * kernel[c, m] + bias[c].

    Exactly the dense layer whose weights outside each class's index list are zero; sum_c k_c multiplications.

    Args:
        features: [N, D].
        kernel: [C, k] when every class has k filters; otherwise [sum_c k_c], class after class.
        indices: one list of filters per class.
        bias: [C] or None.

    Returns:
        [N, C].

    Source: Badola et al., "Decomposing the Deep" (arXiv 2112.07719); specification `decomposition`, section 5.
    """
    lengths = [len(row) for row in indices]
    flat = tf.constant([i for row in indices for i in row], tf.int32)
    if min(lengths) == max(lengths):
        selected = tf.gather(features, tf.reshape(flat, [len(lengths), lengths[0]]), axis=-1)
        logits = tf.reduce_sum(selected * kernel, axis=-1)
    else:
        owners = tf.constant(np.repeat(np.arange(len(lengths)), lengths), tf.int32)
        products = tf.gather(features, flat, axis=-1) * kernel
        logits = tf.transpose(tf.math.segment_sum(tf.transpose(products), owners))
    return logits if bias is None else logits + bias


@keras.saving.register_keras_serializable(package="keras_relu")
class ClassSpecificDense(keras.layers.Layer):
    """Layer form of `class_specific_logits`: [N, D] -> [N, C] with sum_c k_c weights and C biases.

    ResNet-20 with 5 filters for each of 10 classes has 60 parameters and 50 multiplications here instead of 650 and 640.

    Args:
        indices: one list of filters per class; the lists may differ in length.
        activation: as in Dense.
        use_bias: as in Dense.

    Raises:
        UserError: malformed indices; on build, a filter that the input does not have.
    """

    def __init__(
        self,
        indices: Sequence[Sequence[int]],
        *,
        activation: Any = None,
        use_bias: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        rows = checked_rows(indices)
        # As arrays: Keras would track every one of a thousand lists as an object of its own.
        self._flat = np.concatenate([np.asarray(row, np.int32) for row in rows])
        self._ends = np.cumsum([len(row) for row in rows])
        self.activation = keras.activations.get(activation)
        self.use_bias = use_bias

    @classmethod
    def from_dense(cls, dense: keras.layers.Dense, indices: Sequence[Sequence[int]]) -> ClassSpecificDense:
        """The layer of the same name that computes `dense` with all weights outside `indices` set to zero.

        Raises:
            UserError: malformed indices, another number of classes than `dense` has outputs, or a filter it lacks.
        """
        kernel = dense.kernel.numpy()
        rows = checked_rows(indices, kernel.shape[0])
        if len(rows) != kernel.shape[1]:
            raise UserError(f"The indices are for {len(rows)} classes, layer {dense.name!r} has {kernel.shape[1]}.")
        layer = cls(
            rows, activation=dense.activation, use_bias=dense.use_bias, name=dense.name, dtype=dense.dtype_policy
        )
        layer.build((None, kernel.shape[0]))
        selected = np.concatenate([kernel[row, number] for number, row in enumerate(rows)])
        biases = [dense.bias.numpy()] if dense.use_bias else []
        layer.set_weights([selected.reshape(layer.kernel.shape), *biases])
        return layer

    @property
    def indices(self) -> list[list[int]]:
        """One list of filters per class."""
        return [row.tolist() for row in np.split(self._flat, self._ends[:-1])]

    @property
    def units(self) -> int:
        """Number of classes C."""
        return len(self._ends)

    @property
    def mac_count(self) -> int:
        """Multiplications per image, one for every weight."""
        return len(self._flat)

    def build(self, input_shape: Any) -> None:
        """Creates the weights; the filters must exist in the input."""
        rows = checked_rows(self.indices, tf.TensorShape(input_shape)[-1])
        same = len({len(row) for row in rows}) == 1
        shape = (self.units, len(rows[0])) if same else (self.mac_count,)
        # A class's logit sums its own filters, so they are its fan-in, not the sizes of this array.
        spread = (2.0 * self.units / self.mac_count) ** 0.5
        self.kernel = self.add_weight("kernel", shape, initializer=keras.initializers.RandomNormal(stddev=spread))
        self.bias = self.add_weight("bias", (self.units,), initializer="zeros") if self.use_bias else None
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        logits = class_specific_logits(inputs, self.kernel, self.indices, self.bias)
        return logits if self.activation is None else self.activation(logits)

    def compute_output_shape(self, input_shape: Any) -> tuple:
        return (*tuple(input_shape)[:-1], self.units)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "indices": self.indices,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
        }
