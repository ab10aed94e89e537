"""A gated activation whose mask and coefficients are constants: what a network ships with."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from keras_relu.activations import _kernels
from keras_relu.activations._facts import gated_facts, runtime_facts
from keras_relu.errors import UserError

__all__ = ["FixedActivation", "horner", "pack_mask", "unpack_mask"]


def pack_mask(mask: np.ndarray) -> dict[str, Any]:
    """A bool array as JSON: its shape and its bits, eight to a byte in C order, as base64 text."""
    mask = np.asarray(mask, bool)
    return {"shape": list(mask.shape), "bits": base64.b64encode(np.packbits(mask).tobytes()).decode("ascii")}


def unpack_mask(packed: Mapping[str, Any]) -> np.ndarray:
    """The bool array that `pack_mask` packed.

    Raises:
        UserError: not such a mapping, not base64, or the number of bytes does not fit the shape.
    """
    try:
        shape = tuple(int(size) for size in packed["shape"])
        data = np.frombuffer(base64.b64decode(packed["bits"], validate=True), np.uint8)
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise UserError(
            f"A packed mask needs 'shape' (sizes) and 'bits' (base64), received {packed!r:.100}."
        ) from error
    size = math.prod(shape)
    if len(data) != -(-size // 8):
        raise UserError(f"A packed mask of shape {shape} needs {-(-size // 8)} bytes, received {len(data)}.")
    return np.unpackbits(data, count=size).astype(bool).reshape(shape)


@keras.saving.register_keras_serializable(package="keras_relu")
class FixedActivation(keras.layers.Layer):
    """y = relu(x) where the mask is set, g(x) = w[0] + w[1] x + w[2] x^2 elsewhere; no variables.

    The gradient is the exact derivative. Cost: one ReLU, one polynomial and one selection per element.

    Args:
        mask: as `pack_mask` makes it, with the shape of one input; None = no ReLU is kept.
        coefficients: [degree + 1][C] numbers, lowest degree first, for degree 1 or 2; None = the identity.
        max_value: where the kept ReLUs are cut off, 6.0 for ReLU6; None = nowhere.

    Raises:
        UserError: a malformed mask or coefficients; on build, an input of another shape.
    """

    def __init__(
        self,
        mask: Mapping[str, Any] | None = None,
        coefficients: Sequence[Sequence[float]] | None = None,
        *,
        max_value: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.mask = None if mask is None else dict(mask)
        self.coefficients = None if coefficients is None else [[float(w) for w in row] for row in coefficients]
        self.max_value = max_value
        self._bits = None if mask is None else unpack_mask(mask)
        self._rows = None if self.coefficients is None else _coefficient_rows(self.coefficients)

    def build(self, input_shape: Any) -> None:
        """Checks the input against the constants."""
        self._site_shape = tuple(tf.TensorShape(input_shape))[1:]
        if self._bits is not None and self._bits.shape != self._site_shape:
            raise UserError(
                f"Layer {self.name!r} has a mask of shape {self._bits.shape}, received an input of {self._site_shape}."
            )
        if self._rows is not None and self._rows.shape[1] != self._site_shape[-1]:
            raise UserError(
                f"Layer {self.name!r} has coefficients for {self._rows.shape[1]} channels, "
                f"received an input of {self._site_shape}."
            )
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """y for `inputs` [B, ..., C]."""
        value = self._polynomial(inputs)
        return value if self._bits is None else tf.where(self._bits, _kernels.relu(inputs, self.max_value), value)

    def _polynomial(self, inputs: tf.Tensor) -> tf.Tensor:
        if self._rows is None:
            return tf.identity(inputs)
        return horner([tf.constant(row, inputs.dtype) for row in self._rows], inputs)

    def kept_indices(self) -> np.ndarray:
        """Indices of the kept elements in the flattened image, ascending, int64."""
        return np.flatnonzero(self._bits) if self._bits is not None else np.zeros(0, np.int64)

    def relu_count(self) -> int:
        """ReLUs kept per image."""
        return len(self.kept_indices())

    def site_facts(self) -> dict[str, int]:
        """Cost per image; see `_facts.gated_facts`.

        Raises:
            UserError: the layer was built for an input whose sizes are not all known.
        """
        if None in self._site_shape:
            raise UserError(f"Layer {self.name!r} has an input of unknown size {self._site_shape}: nothing to count.")
        return gated_facts(self._site_shape, self.relu_count(), self.degree, self.max_value)

    def runtime_facts(self) -> dict[str, int]:
        """What a tensor runtime executes: both sides of the selection, at every element; see `_facts.runtime_facts`."""
        elements = math.prod(self._site_shape)
        return runtime_facts(0 if self._bits is None else elements, elements, self.degree, self.max_value)

    @property
    def degree(self) -> int | None:
        """Degree of the polynomial at the replaced elements; None = the identity."""
        return None if self._rows is None else len(self._rows) - 1

    def line(self) -> tuple[np.ndarray, np.ndarray] | None:
        """(slope, constant) [C] in float64 where the whole site is a line, else None."""
        if self._rows is None or len(self._rows) != 2 or (self._bits is not None and self._bits.any()):
            return None
        return np.asarray(self._rows[1], np.float64), np.asarray(self._rows[0], np.float64)

    def to_lowered(self) -> keras.layers.Layer:
        """The same function with as many comparisons as the mask keeps ReLUs, under the same name."""
        from keras_relu.activations.lowered import LoweredActivation

        return LoweredActivation.from_config(self.get_config())

    def get_config(self) -> dict[str, Any]:
        """Every constructor argument."""
        arguments = {"mask": self.mask, "coefficients": self.coefficients, "max_value": self.max_value}
        return {**super().get_config(), **arguments}


def horner(rows: list[Any], values: tf.Tensor) -> tf.Tensor:
    """The polynomial with coefficient `rows` (lowest degree first, each broadcastable to `values`) at `values`."""
    result = rows[-1]
    for row in reversed(rows[:-1]):
        result = result * values + row
    return result


def _coefficient_rows(coefficients: list[list[float]]) -> np.ndarray:
    if len(coefficients) not in (2, 3) or len({len(row) for row in coefficients}) != 1:
        raise UserError(
            "Coefficients must be two or three rows of one length (lowest degree first), "
            f"received rows of {[len(row) for row in coefficients]}."
        )
    return np.array(coefficients, np.float32)
