"""ReLUs that borrow their keep/kill bit from prototype neurons of an earlier layer.

The bit of a neuron with pre-activation x is d = [x >= 0]. A `PrototypeBits` (or an `InducerReLU`, which is a whole ReLU as
well) computes the bits of K prototypes; an `InducedReLU` multiplies its own input by bits it copies from there. So the graph
really holds K comparisons for all the sites that share them.

Sources: specification `induction` of the design, sections 1.2 and 10.4 (polarity and constants are ours).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from keras_relu.activations._facts import runtime_facts
from keras_relu.errors import UserError

__all__ = ["InducedReLU", "InducerReLU", "PrototypeBits", "gate_bits", "induced_relu", "prototype_bits"]


def prototype_bits(x: tf.Tensor, indices: tf.Tensor) -> tf.Tensor:
    """d = [x >= 0] of the chosen elements of each image; K comparisons, no gradient.

    Args:
        x: [B, ...] pre-activations.
        indices: int32 [K], places in the row-major flattened image.

    Returns:
        bool [B, K].
    """
    return tf.gather(_flat(x), indices, axis=1) >= 0


def gate_bits(bits: tf.Tensor, codes: tf.Tensor) -> tf.Tensor:
    """The gate of every element: bool [B, N] from bits [B, K] and codes int32 [N].

    Code k < K copies prototype k, K + k its complement, 2 K passes always and 2 K + 1 never.
    """
    constant = tf.ones_like(bits[:, :1])
    codebook = tf.concat([bits, tf.logical_not(bits), constant, tf.logical_not(constant)], axis=1)
    return tf.gather(codebook, codes, axis=1)


def induced_relu(x: tf.Tensor, bits: tf.Tensor, codes: tf.Tensor, *, max_value: float | None = None) -> tf.Tensor:
    """y = x g with the borrowed gate g, cut off at `max_value` unless that is None.

    Gradient: dL/dx = dL/dy g (and 0 beyond `max_value`); none flows to the bits, which come from a comparison. Cost: no
    comparison, or one per element with a `max_value`.

    Args:
        x: [B, ...] with N elements per image.
        bits: bool [B, K].
        codes: int32 [N], see `gate_bits`.
    """
    gate = tf.reshape(gate_bits(bits, codes), tf.shape(x))
    y = tf.where(gate, x, tf.zeros([], x.dtype))
    return y if max_value is None else tf.minimum(y, tf.constant(max_value, x.dtype))


def _flat(x: tf.Tensor) -> tf.Tensor:
    return tf.reshape(x, [-1, math.prod(x.shape[1:])])


def _known_shape(layer: keras.layers.Layer, shape: Any) -> tuple[int, ...]:
    sizes = tuple(tf.TensorShape(shape))[1:]
    if None in sizes:
        raise UserError(
            f"Layer {layer.name!r} needs an input whose sizes are all known but the batch, received {list(sizes)}."
        )
    return tuple(int(size) for size in sizes)


def _checked_count(prototypes: Any) -> int:
    if isinstance(prototypes, bool) or not isinstance(prototypes, int | np.integer) or prototypes < 0:
        raise UserError(f"prototypes must be a whole number of at least 0, received {prototypes!r}.")
    return int(prototypes)


class _Prototypes(keras.layers.Layer):
    """Holds which elements of its input are prototypes: `indices`, int32 [K], not trainable."""

    def __init__(self, prototypes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.prototypes = _checked_count(prototypes)

    def build(self, input_shape: Any) -> None:
        """Creates `indices`, zeros until `set_indices`."""
        self._site_shape = _known_shape(self, input_shape)
        self.indices = self.add_weight(
            "indices",
            (self.prototypes,),
            dtype="int32",
            initializer="zeros",
            trainable=False,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )
        super().build(input_shape)

    def set_indices(self, indices: np.ndarray) -> None:
        """Choose the prototypes: [K] places in the row-major flattened input.

        Raises:
            UserError: another number of places, or one outside the input.
        """
        indices = np.asarray(indices)
        size = math.prod(self._site_shape)
        if indices.shape != (self.prototypes,) or (indices.size and not 0 <= indices.min() <= indices.max() < size):
            raise UserError(
                f"Layer {self.name!r} needs {self.prototypes} indices from 0 to {size - 1}, received {indices.shape}."
            )
        self.indices.assign(indices.astype(np.int32))

    def get_config(self) -> dict[str, Any]:
        """Every constructor argument."""
        return {**super().get_config(), "prototypes": self.prototypes}


@keras.saving.register_keras_serializable(package="keras_relu")
class PrototypeBits(_Prototypes):
    """The bits of K prototypes of its input [B, ...]: bool [B, K]; see `prototype_bits`.

    Stands before a site that induces itself, so that these are the only comparisons made there.

    Args:
        prototypes: K.

    Raises:
        UserError: K is no whole number of at least 0; on build, an input without static shape.
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """bool [B, K]."""
        return prototype_bits(inputs, self.indices)

    def site_facts(self) -> dict[str, int]:
        """Cost per image: K comparisons."""
        return _facts(comparison_count=self.prototypes)

    def runtime_facts(self) -> dict[str, int]:
        """What a tensor runtime executes; see `_facts.runtime_facts`."""
        return runtime_facts(self.prototypes, 0, None, None)


@keras.saving.register_keras_serializable(package="keras_relu")
class InducerReLU(_Prototypes):
    """A plain ReLU that also hands out the bits of K of its elements: (y [B, ...], bool [B, K]).

    y = x [x >= 0], cut off at `max_value`; the bits are among the comparisons it makes anyway. dy/dx = [x >= 0] as for y;
    at x = 0 that is 1.

    Args:
        prototypes: K.
        max_value: 6.0 for ReLU6, which is a second comparison per element; None = nowhere.

    Raises:
        UserError: as `PrototypeBits`.
    """

    def __init__(self, prototypes: int, max_value: float | None = None, **kwargs: Any) -> None:
        super().__init__(prototypes, **kwargs)
        self.max_value = max_value

    def call(self, inputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """(y, bits)."""
        drelu = inputs >= 0
        y = tf.where(drelu, inputs, tf.zeros([], inputs.dtype))
        y = y if self.max_value is None else tf.minimum(y, tf.constant(self.max_value, y.dtype))
        return y, tf.gather(_flat(drelu), self.indices, axis=1)

    def site_facts(self) -> dict[str, int]:
        """Cost per image: one ReLU per element."""
        elements = math.prod(self._site_shape)
        return _facts(relu_count=elements, comparison_count=elements * (1 if self.max_value is None else 2))

    def runtime_facts(self) -> dict[str, int]:
        """What a tensor runtime executes; see `_facts.runtime_facts`."""
        return runtime_facts(math.prod(self._site_shape), 0, None, self.max_value)

    def get_config(self) -> dict[str, Any]:
        """Every constructor argument."""
        return {**super().get_config(), "max_value": self.max_value}


@keras.saving.register_keras_serializable(package="keras_relu")
class InducedReLU(keras.layers.Layer):
    """y = x g with a gate borrowed from prototypes: `call([x, bits])`; see `induced_relu`.

    Weight: `codes`, int32 [N], not trainable, which starts as the code that always passes; see `gate_bits`. The gate is
    gathered in two levels, K bits first and then N of them, so that no more than K comparisons are in the graph.

    Args:
        max_value: where y is cut off, which costs one comparison per element; None = nowhere.

    Raises:
        UserError: max_value is not above 0; on build, inputs that are not [x, bits] of known sizes.
    """

    def __init__(self, max_value: float | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if max_value is not None and not max_value > 0:
            raise UserError(f"max_value must be None or above 0, received {max_value!r}.")
        self.max_value = max_value

    def build(self, input_shape: Any) -> None:
        """Creates `codes`."""
        if not isinstance(input_shape, (list, tuple)) or len(input_shape) != 2 or isinstance(input_shape[0], int):
            raise UserError(f"Layer {self.name!r} takes two inputs, [x, bits], received the shape {input_shape}.")
        self._site_shape = _known_shape(self, input_shape[0])
        (self._prototypes,) = _known_shape(self, input_shape[1])
        self.codes = self.add_weight(
            "codes",
            (math.prod(self._site_shape),),
            dtype="int32",
            initializer=keras.initializers.Constant(2 * self._prototypes),
            trainable=False,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )
        super().build(input_shape)

    def set_codes(self, codes: np.ndarray) -> None:
        """Choose what each element borrows: [N] codes of `gate_bits`.

        Raises:
            UserError: another number of codes, or one above 2 K + 1.
        """
        codes = np.asarray(codes)
        elements, last = math.prod(self._site_shape), 2 * self._prototypes + 1
        if codes.shape != (elements,) or not 0 <= codes.min() <= codes.max() <= last:
            raise UserError(f"Layer {self.name!r} needs {elements} codes from 0 to {last}, received {codes.shape}.")
        self.codes.assign(codes.astype(np.int32))

    def call(self, inputs: Any) -> tf.Tensor:
        """y for [x, bits]."""
        x, bits = inputs
        return induced_relu(x, bits, self.codes, max_value=self.max_value)

    def site_facts(self) -> dict[str, int]:
        """Cost per image: one product of a value and a borrowed bit per element whose gate is not constant."""
        borrowed = int(np.count_nonzero(self.codes.numpy() < 2 * self._prototypes))
        capped = 0 if self.max_value is None else math.prod(self._site_shape)
        return _facts(comparison_count=capped, multiplications=borrowed, multiplicative_depth=int(borrowed > 0))

    def runtime_facts(self) -> dict[str, int]:
        """What a tensor runtime executes: a product of value and bit at every element, those with a constant gate too."""
        elements = math.prod(self._site_shape)
        facts = runtime_facts(0 if self.max_value is None else elements, 0, None, None)
        return {**facts, "products": elements, "multiplicative_depth": 1}

    def get_config(self) -> dict[str, Any]:
        """Every constructor argument."""
        return {**super().get_config(), "max_value": self.max_value}


def _facts(**known: int) -> dict[str, int]:
    names = ("relu_count", "comparison_count", "polynomial_count", "multiplications", "multiplicative_depth")
    return {name: known.get(name, 0) for name in names}
