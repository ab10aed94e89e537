"""Centred kernel alignment of many layers at once, tile by tile of the Gram matrices, which never exist as a whole.

One sweep over pairs of image blocks gathers all that biased and unbiased CKA, their permutation null and their bootstrap
need. By symmetry each Gram entry is computed once, however many pairs of layers are compared, and memory is one tile per
layer. With the Gram matrices K, L of N images, r = K1, s = L1 and the diagonals k, l:

* biased HSIC (Gretton et al., 2005): tr(HKHL) = <K, L> - 2/N r.s + (1.r)(1.s)/N^2, H = I - 11^T/N;
* unbiased HSIC (Song et al., 2012, Journal of Machine Learning Research 13, section 3), with p = r - k, q = s - l:
  [<K, L> - k.l + (1.p)(1.q)/((N-1)(N-2)) - 2/(N-2) p.q] / (N(N-3)).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from keras_relu.errors import UserError, unknown_key
from keras_relu.similarity.arrays import DegenerateError

__all__ = ["KERNELS", "GramStatistics", "Rows", "gram_statistics", "unbiased_null_variance"]

KERNELS = ("linear", "rbf")

# One product sums at most this many rows and columns in float32; longer sums are gathered in float64.
_GROUP = 256
_MEDIAN_IMAGES = 2000


class Rows(Protocol):
    """Something like an array [N, D] that gives slices of its rows."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, D)."""

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        """The rows of a slice."""


@dataclass(frozen=True)
class GramStatistics:
    """What a sweep over the Gram matrices of L layers leaves behind.

    Attributes:
        products: [G, G, L, L], sums of K * L over the images of two groups.
        sums: [L, N, G], sums of each row of K over the images of a group.
        diagonal: [L, N].
        groups: [N], the group of each image; groups are runs of neighbouring images.
    """

    products: np.ndarray
    sums: np.ndarray
    diagonal: np.ndarray
    groups: np.ndarray

    @property
    def images(self) -> int:
        """N."""
        return len(self.groups)

    def hsic(self, *, unbiased: bool = False, weights: np.ndarray | None = None) -> np.ndarray:
        """[L, L]: tr(HKHL), or the unbiased estimator; `weights` [G] count each group so many times."""
        weights = np.ones(len(self.products)) if weights is None else weights
        w = weights[self.groups]
        n = w.sum()
        inner = np.einsum("g,h,ghlm->lm", weights, weights, self.products)
        rows = self.sums @ weights
        if not unbiased:
            total = rows @ w
            return inner - 2.0 / n * (rows * w) @ rows.T + np.outer(total, total) / n**2
        inner = inner - np.square(w) * self.diagonal @ self.diagonal.T
        rows = rows - w * self.diagonal
        total = rows @ w
        corrected = inner + np.outer(total, total) / ((n - 1) * (n - 2)) - 2.0 / (n - 2) * (rows * w) @ rows.T
        return corrected / (n * (n - 3))

    def cka(self, *, unbiased: bool = False, weights: np.ndarray | None = None) -> np.ndarray:
        """[L, L]: HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)); 0 in rows and columns of `degenerate` layers."""
        hsic = self.hsic(unbiased=unbiased, weights=weights)
        norms = np.diag(hsic).copy()
        norms[list(self.degenerate(unbiased=unbiased))] = 0.0
        scale = np.where(norms > 0, 1.0 / np.sqrt(np.where(norms > 0, norms, 1.0)), 0.0)
        values = hsic * np.outer(scale, scale)
        np.fill_diagonal(values, np.where(scale > 0, 1.0, 0.0))
        # The unbiased estimator may leave [0, 1] honestly; the biased one only by rounding.
        return values if unbiased else np.clip(values, 0.0, 1.0)

    def degenerate(self, *, unbiased: bool = False) -> dict[int, str]:
        """Layers for which CKA is not defined, with the reason."""
        self_hsic = np.diag(self.hsic(unbiased=unbiased))
        # Relative to what the entries are made of: a constant layer leaves only their rounding.
        size = np.einsum("ghll->l", self.products)
        dead = np.diag(self.hsic()) <= 1e-12 * size
        reasons = {int(i): "the layer is dead: every image has the same representation" for i in np.flatnonzero(dead)}
        if unbiased:
            low = "its unbiased self-similarity is not positive, so that too few images were given to normalise by it"
            reasons |= {int(i): low for i in np.flatnonzero(self_hsic <= 0) if int(i) not in reasons}
        return reasons

    def null(self, *, unbiased: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation [L, L] of CKA when the images of one side are permuted at random.

        Exact over all N! permutations, no sampling: the moments of the RV coefficient (Kazi-Aoual et al., 1995,
        Computational Statistics & Data Analysis 20), of which CKA is the case of two Gram matrices.

        Raises:
            DegenerateError: fewer than four images.
        """
        n = self.images
        if n < 4:
            raise DegenerateError(f"{n} images are too few for the permutation null; at least 4 are needed.")
        if unbiased:
            deviation = np.sqrt(unbiased_null_variance(np.array(n)))
            return np.zeros_like(self.products[0, 0]), np.full_like(self.products[0, 0], deviation)
        norms = np.diag(self.hsic())
        norms = np.where(norms > 0, norms, 1.0)
        rows = self.sums.sum(axis=2, dtype=np.float64)
        centred = self.diagonal - 2.0 / n * rows + rows.sum(axis=1, keepdims=True) / n**2
        beta = np.square(centred.sum(axis=1)) / norms
        spread = n * (n + 1) * np.square(centred).sum(axis=1) / norms - (n - 1) * (beta + 2)
        room = np.maximum(n - 1 - beta, 1e-12)
        tau = (n - 1) / ((n - 3) * room) * spread
        variance = 2.0 * np.outer(room, room) / ((n + 1) * (n - 1) ** 2 * (n - 2))
        variance *= 1.0 + (n - 3) / (2.0 * n * (n - 1)) * np.outer(tau, tau)
        return np.sqrt(np.outer(beta, beta)) / (n - 1), np.sqrt(np.maximum(variance, 0.0))

    def bootstrap(self, replicates: int, *, seed: int = 0, unbiased: bool = False) -> np.ndarray:
        """Standard errors [L, L] of CKA from resampling the groups of images with replacement.

        Raises:
            UserError: fewer than two replicates.
        """
        if replicates < 2:
            raise UserError(f"A bootstrap needs at least 2 replicates, received {replicates}.")
        generator = np.random.default_rng(seed)
        count = len(self.products)
        drawn = (np.bincount(generator.integers(count, size=count), minlength=count) for _ in range(replicates))
        values = [self.cka(unbiased=unbiased, weights=weights.astype(np.float64)) for weights in drawn]
        return np.std(values, axis=0, ddof=1)


def unbiased_null_variance(images: np.ndarray) -> np.ndarray:
    """Variance of unbiased CKA over all permutations of n images; it depends on n alone, and the mean is 0."""
    n = images.astype(np.float64)
    return 2.0 / ((n + 1) * (n - 2)) * (1.0 + 2.0 * (n - 1) / (n * (n - 3)))


def gram_statistics(
    layers: Sequence[Rows],
    *,
    kernel: str = "linear",
    bandwidth: float = 1.0,
    groups: int = 1,
    memory_bytes: int = 2**28,
    dtype: Any = np.float32,
) -> GramStatistics:
    """Sweep once over the Gram matrices of all layers.

    Args:
        layers: [N, D_l] each, of the same N images.
        kernel: "linear", x.y on centred features; "rbf", exp(-|x - y|^2 / (2 bandwidth^2 m)) with m the median squared
            distance of two different images (of the first 2,000).
        groups: resampling units of the bootstrap; there may be more, and never more than images.
        memory_bytes: bound of the tiles of features.
        dtype: of the products; their sums are float64 always.

    Raises:
        UserError: an unknown kernel, unequal numbers of images, a bandwidth that is not positive.
        DegenerateError: fewer than two images, or a value that is NaN or infinite.
    """
    images = _check(layers, kernel, bandwidth)
    size = -(-images // min(images, max(groups, -(-images // _GROUP))))
    per_image = np.dtype(dtype).itemsize * sum(layer.shape[1] for layer in layers)
    tile = size * max(1, memory_bytes // (per_image * size))
    sweep = _Sweep(layers, images, size, min(tile, size * -(-images // size)), dtype)
    sweep.run([_kernel(layer, kernel, bandwidth, tile, dtype) for layer in layers])
    return GramStatistics(sweep.products, sweep.sums, sweep.diagonal, np.arange(images) // size)


class _Sweep:
    def __init__(self, layers: Sequence[Rows], images: int, size: int, tile: int, dtype: Any) -> None:
        self.layers, self.images, self.size, self.tile, self.dtype = layers, images, size, tile, dtype
        count = -(-images // size)
        self.products = np.zeros((count, count, len(layers), len(layers)))
        self.sums = np.zeros((len(layers), images, count), dtype)
        self.diagonal = np.zeros((len(layers), images))

    def run(self, kernels: list[_Kernel]) -> None:
        for a in range(0, self.images, self.tile):
            left = [kernel.rows(slice(a, a + self.tile)) for kernel in kernels]
            for b in range(a, self.images, self.tile):
                self._tile(a, b, kernels, left)

    def _tile(self, a: int, b: int, kernels: list[_Kernel], left: list[np.ndarray]) -> None:
        size, many = self.size, len(kernels)
        rows, columns = min(self.tile, self.images - a), min(self.tile, self.images - b)
        p, q = -(-rows // size), -(-columns // size)
        # Padding with zeros adds nothing to any sum and makes all groups of one size.
        grams = np.zeros((many, p * size, q * size), self.dtype)
        for index, kernel in enumerate(kernels):
            right = left[index] if a == b else kernel.rows(slice(b, b + self.tile))
            grams[index, :rows, :columns] = kernel.gram(left[index], right)
        blocks = grams.reshape(many, p, size, q, size).transpose(1, 3, 0, 2, 4).reshape(p, q, many, size * size)
        products = np.matmul(blocks, blocks.swapaxes(2, 3)).astype(np.float64)
        first, second = slice(a // size, a // size + p), slice(b // size, b // size + q)
        self.products[first, second] = products
        self.sums[:, a : a + rows, second] = grams.reshape(many, p * size, q, size).sum(axis=3)[:, :rows]
        if a == b:
            self.diagonal[:, a : a + rows] = np.diagonal(grams, axis1=1, axis2=2)[:, :rows]
            return
        self.products[second, first] = products.transpose(1, 0, 2, 3)
        other = grams.reshape(many, p, size, q * size).sum(axis=2)
        self.sums[:, b : b + columns, first] = other.transpose(0, 2, 1)[:, :columns]


@dataclass(frozen=True)
class _Kernel:
    """`rows` loads centred rows of a layer, `gram` makes a tile of two such blocks."""

    rows: Callable[[slice], np.ndarray]
    gram: Callable[[np.ndarray, np.ndarray], np.ndarray]


def _kernel(layer: Rows, kernel: str, bandwidth: float, tile: int, dtype: Any) -> _Kernel:
    mean = sum(block.sum(axis=0, dtype=np.float64) for block in _blocks(layer, tile)) / layer.shape[0]
    if not np.isfinite(mean).all():
        raise DegenerateError("A layer has values that are NaN or infinite; no similarity is defined on them.")

    def rows(block: slice) -> np.ndarray:
        return (layer[block] - mean).astype(dtype, copy=False)

    def linear(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return a @ b.T

    if kernel == "linear":
        return _Kernel(rows, linear)
    # A layer that never changes has no median; its Gram matrix is constant under any width.
    width = 2.0 * bandwidth**2 * (_median_squared_distance(rows(slice(0, _MEDIAN_IMAGES))) or 1.0)
    return _Kernel(rows, lambda a, b: np.exp(-_squared_distances(a, b) / width))


def _blocks(layer: Rows, tile: int) -> Iterator[np.ndarray]:
    for start in range(0, layer.shape[0], tile):
        yield layer[start : start + tile]


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    lengths = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1)[None, :]
    distances = np.maximum(lengths - 2.0 * (a @ b.T), 0.0)
    if a is b:
        np.fill_diagonal(distances, 0.0)
    return distances


def _median_squared_distance(rows: np.ndarray) -> float:
    distances = _squared_distances(rows, rows)
    return float(np.median(distances[np.triu_indices(len(rows), 1)]))


def _check(layers: Sequence[Rows], kernel: str, bandwidth: float) -> int:
    if kernel not in KERNELS:
        raise unknown_key("kernel", kernel, KERNELS)
    if not bandwidth > 0:
        raise UserError(f"bandwidth is {bandwidth}; allowed is a number above 0, in units of the median distance.")
    counts = {layer.shape[0] for layer in layers}
    if len(counts) != 1:
        raise UserError(f"The layers have {sorted(counts)} images; all must be of the same images, row by row.")
    images = counts.pop()
    if images < 2:
        raise DegenerateError(f"{images} image(s) are too few for CKA; at least 2 are needed.")
    return images
