"""Layer fusion evaluated: composite weights, and a block computed from them and the masks of its two ReLUs alone.

Spec `fusion`, section 5.1. With the normalisations folded (a, b per channel), q = s p + r - padding, and the masks m1 at
the input's and m2 at the output's resolution:

```
F[r, c, m, o] = W1[c, m] a1[m] D[r, m] a2[m] W2[m, o] a3[o]        composite weights, made once
E[r, c, o]    = sum of F[r, c, m, o] over the m with m1[q, m] = m2[p, m] = 1        additions only
y[p, o]       = sum_{r, c} x[q, c] E[r, c, o]  +  biases of the live channels       the only multiplications
```

This is a reference in NumPy: it proves that the algebra holds for a trained network and counts what it does. It is not
meant to be fast.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
import tf_keras as keras

from keras_relu.compression.blocks import Block
from keras_relu.compression.counts import inside_taps, per_channel
from keras_relu.errors import UserError

__all__ = ["FusedBlock", "Tally", "fold_norm"]


@dataclass
class Tally:
    """What an evaluation did.

    Attributes:
        multiplications: products of an input value and a summed composite weight, and those of a separate depthwise
            convolution.
        additions: composite weights added up, those of live pairs of channels only.
        bias_additions: the same for the biases.
        live_pairs, pairs: (tap, position, channel) triples inside the image with both masks set, and all of them.
    """

    multiplications: int = 0
    additions: int = 0
    bias_additions: int = 0
    live_pairs: int = 0
    pairs: int = 0

    def add(self, other: Tally) -> None:
        """Add the numbers of `other`."""
        for key, value in vars(other).items():
            setattr(self, key, getattr(self, key) + value)


def fold_norm(norm: keras.layers.BatchNormalization, bias: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(a, b), float64, with norm(x + bias) = a x + b in inference."""
    mean, variance = (np.asarray(value, np.float64) for value in (norm.moving_mean, norm.moving_variance))
    a = 1.0 / np.sqrt(variance + norm.epsilon)
    a = a * np.asarray(norm.gamma, np.float64) if norm.scale else a
    shift = mean if bias is None else mean - np.asarray(bias, np.float64)
    return a, (np.asarray(norm.beta, np.float64) if norm.center else 0.0) - shift * a


class FusedBlock:
    """A block as its composite weights.

    Args:
        block: of a model that is built; its present weights are taken.
        dtype: of the composite weights and of the arithmetic.

    Attributes:
        composites: per tap r a sparse matrix [C_mid, inputs * C_out] with F[r, c, m, o] at (m, c * C_out + o), where c
            counts the inputs of the group of o. A pointwise pair has one tap and reads all inputs.
        biases: per tap [C_mid, C_out], B of the specification.
    """

    def __init__(self, block: Block, dtype: Any = np.float64) -> None:
        self.block, self.dtype = block, np.dtype(dtype)
        self.bottleneck = block.kind == "bottleneck"
        first, a1, b1 = _folded(block.first.conv, block.first.norm)
        second, a2, b2 = _folded(block.second.conv, block.second.norm)
        last, a3, b3 = _folded(block.last, block.last_norm)
        into = first[0, 0] * a1
        if self.bottleneck:
            taps = second[:, :, :, 0].reshape(-1, second.shape[2]) * a2
            out = _spread(last, block.groups) * a3
            self._compose(into, taps, out, bias=b1)
            self.second_bias, self.last_bias = self._cast(b2[:, None] * out), self._cast(b3)
        else:
            places = np.argsort(block.permutation())
            out = _spread(second, block.groups)[places] * a2
            self._compose(into, np.ones((1, into.shape[1])), out, bias=b1)
            self.last_bias = self._cast(b2)
            self.narrow = self._cast(last[:, :, :, 0] * a3), self._cast(b3)

    def _cast(self, values: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(values, self.dtype)

    def _compose(self, into: np.ndarray, taps: np.ndarray, out: np.ndarray, *, bias: np.ndarray) -> None:
        """`into` [inputs of a group, C_mid], `taps` [K K, C_mid], `out` [C_mid, C_out], zero outside a channel's group."""
        hidden, outputs = out.shape
        groups, own = self.block.groups, into.shape[0]
        group_of_hidden = np.arange(hidden) // (hidden // groups)
        # Inputs as the columns see them: of the group of the output, or all where a shuffle mixes the groups.
        self.inputs = own if self.bottleneck else own * groups
        offsets = np.zeros(hidden, int) if self.bottleneck else group_of_hidden * own
        rows = [_outer(into[:, m], out[m], offsets[m], outputs) for m in range(hidden)]
        counts = [len(columns) for columns, _ in rows]
        pointers = np.concatenate([[0], np.cumsum(counts)])
        values = np.concatenate([value for _, value in rows])
        columns = np.concatenate([column for column, _ in rows])
        base = scipy.sparse.csr_matrix((values, columns, pointers), (hidden, self.inputs * outputs))
        self.composites = [_scaled_rows(base, tap).astype(self.dtype) for tap in taps]
        self.biases = [self._cast((bias * tap)[:, None] * out) for tap in taps]
        group_of_output = np.arange(outputs) // (outputs // groups) if self.bottleneck else np.zeros(outputs, int)
        # Input channel that column (c, o) multiplies.
        self.reads = np.arange(self.inputs)[:, None] + own * group_of_output

    @property
    def stored(self) -> int:
        """Composite weights that are not zero."""
        return sum(matrix.nnz for matrix in self.composites)

    def __call__(self, x: np.ndarray, first_mask: np.ndarray, second_mask: np.ndarray) -> tuple[np.ndarray, Tally]:
        """The output of the block's last normalisation for one image.

        Args:
            x: [H, W, C_in].
            first_mask, second_mask: bool, of the shapes of the two sites.

        Returns:
            ([H', W', C_out], what it took).

        Raises:
            UserError: an array of another shape.
        """
        self._check(x, first_mask, second_mask)
        x, tally = np.asarray(x, self.dtype), Tally()
        if not self.bottleneck:
            return self._pointwise_pair(x, first_mask, second_mask, tally)
        height, width, outputs = self.block.output_shape
        y = np.tile(self.last_bias, (height * width, 1))
        later = second_mask.reshape(height * width, -1)
        y += later.astype(self.dtype) @ self.second_bias
        tally.bias_additions += y.size + int((later @ np.count_nonzero(self.second_bias, axis=1)).sum())
        for tap, (inside, places) in enumerate(self._taps()):
            live = first_mask.reshape(-1, first_mask.shape[2])[places] & later[inside]
            y[inside] += self._map(x.reshape(-1, x.shape[2])[places], live, tap, tally)
        return y.reshape(height, width, outputs), tally

    def _map(self, values: np.ndarray, live: np.ndarray, tap: int, tally: Tally) -> np.ndarray:
        """[positions, C_out] of one tap: composite weights summed over the live channels, then multiplied."""
        composites, biases = self.composites[tap], self.biases[tap]
        summed = (composites.T @ live.T.astype(self.dtype)).T.reshape(len(values), self.inputs, -1)
        products = values[:, self.reads] * summed
        tally.multiplications += products.size
        used = np.count_nonzero(live, axis=0).astype(np.int64)
        tally.additions += int(used @ np.diff(composites.indptr))
        tally.bias_additions += int(used @ np.count_nonzero(biases, axis=1))
        tally.live_pairs += int(used.sum())
        tally.pairs += live.size
        return products.sum(axis=1) + live.astype(self.dtype) @ biases

    def _taps(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Per tap: the output positions whose input lies inside the image, and that input's position, both flattened."""
        conv, shape, out = self.block.depthwise, self.block.hidden_shape, self.block.output_shape
        before = [pad for pad, _ in self.block.padding()]
        sides = zip(shape[:2], conv.kernel_size, conv.strides, before, out[:2], strict=True)
        rows, columns = (inside_taps(*side) for side in sides)
        taps = []
        for i, j in np.ndindex(*conv.kernel_size):
            inside = np.flatnonzero(np.outer(rows[:, i], columns[:, j]))
            p, q = np.divmod(inside, out[1])
            read = (p * conv.strides[0] + i - before[0]) * shape[1] + q * conv.strides[1] + j - before[1]
            taps.append((inside, read))
        return taps

    def _pointwise_pair(self, x: np.ndarray, first: np.ndarray, second: np.ndarray, tally: Tally) -> Any:
        height, width, outputs = second.shape
        live = first.reshape(height * width, -1)
        exact = self._map(x.reshape(height * width, -1), live, 0, tally) + self.last_bias
        tally.bias_additions += exact.size
        kept = np.where(second, exact.reshape(second.shape), 0)
        kernel, bias = self.narrow
        rows, columns, _ = self.block.output_shape
        y = np.tile(bias, (rows * columns, 1))
        for (inside, places), weights in zip(self._taps(), kernel.reshape(-1, outputs), strict=True):
            products = kept.reshape(-1, outputs)[places] * weights
            tally.multiplications += products.size
            y[inside] += products
        return y.reshape(rows, columns, outputs), tally

    def _check(self, x: np.ndarray, first_mask: np.ndarray, second_mask: np.ndarray) -> None:
        wanted = {
            "input": (x, self.block.input_shape),
            "first mask": (first_mask, self.block.hidden_shape),
            "second mask": (second_mask, tuple(self.block.second.output.shape[1:])),
        }
        for what, (array, shape) in wanted.items():
            if array.shape != tuple(shape):
                raise UserError(f"The {what} of block {self.block.name!r} has shape {array.shape}, not {tuple(shape)}.")


def _folded(conv: Any, norm: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(kernel, a, b) in float64."""
    kernel, *bias = conv.get_weights()
    return kernel.astype(np.float64), *fold_norm(norm, bias[0] if bias else None)


def _spread(kernel: np.ndarray, groups: int) -> np.ndarray:
    """A grouped 1x1 kernel as the whole matrix [C, F], zero between different groups."""
    own = per_channel(kernel, groups)
    channels, filters = own.shape
    whole = np.zeros((channels, filters * groups))
    for group in range(groups):
        rows = slice(group * channels // groups, (group + 1) * channels // groups)
        whole[rows, group * filters : (group + 1) * filters] = own[rows]
    return whole


def _outer(into: np.ndarray, out: np.ndarray, offset: int, outputs: int) -> tuple[np.ndarray, np.ndarray]:
    """(columns, values) of the non-zero products of one hidden channel."""
    (c,), (o,) = np.nonzero(into), np.nonzero(out)
    return ((c + offset)[:, None] * outputs + o).ravel(), np.outer(into[c], out[o]).ravel()


def _scaled_rows(matrix: Any, factors: np.ndarray) -> Any:
    """diag(factors) matrix, rows with factor zero left out."""
    scaled = scipy.sparse.diags(factors).tocsr() @ matrix
    scaled.eliminate_zeros()
    return scaled
