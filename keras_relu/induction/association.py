"""Which prototype each induced neuron borrows from.

*Hamming* (the original's) takes the prototype whose sign differs on the fewest images, from the packed cache. *Energy* weighs a
wrong bit by what it does, x^2 of the induced neuron on that image, and takes the smallest sum: with signs s in {-1, +1},

    sum_m x_nm^2 [s_nm != s_km] = (E_n - A_nk) / 2,    E_n = sum_m x_nm^2,    A_nk = sum_m (x_nm^2 s_nm) s_km,

so the best prototype has the largest A, which is a matrix product summed over a stream of images: no cache is needed. With
`polarity` the complement of a prototype may be borrowed (-A), with `constants` a gate that always (T_n = sum_m x_nm^2 s_nm) or
never (-T_n) passes. Neither costs a comparison. At ties a constant goes first, since nobody has to compute it, then the
lowest code.

Source: specification `induction` of the design, sections 4.3 and 10.2 to 10.4.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from keras_relu import memory, surgery
from keras_relu.errors import UserError, unknown_key
from keras_relu.induction import bits
from keras_relu.induction.cache import Cache

if TYPE_CHECKING:
    from keras_relu.data import Normalization

__all__ = ["cached_mismatch", "energy_codes", "hamming_codes", "mismatch", "self_first"]

_BATCH = 32
_TILE = 8192
# Relative difference of float32 sums that are equal but for their order.
_ROUNDING = 1e-6


def hamming_codes(
    words: np.ndarray, prototypes: np.ndarray, images: int, *, polarity: bool = False, constants: bool = False
) -> np.ndarray:
    """The code with the smallest Hamming distance for every neuron; at ties a constant, then the lowest code.

    Args:
        words: uint64 [N, W], responses of the induced neurons.
        prototypes: uint64 [K, W].
        images: M.

    Returns:
        int32 [N], see `activations.induced.gate_bits`.
    """
    near, near_at, far, far_at = bits.nearest(words, prototypes)
    count = len(prototypes)
    costs, codes = [near_at], [near]
    if polarity:
        costs, codes = [*costs, images - far_at], [*codes, count + far]
    if constants:
        passing = bits.ones(words).astype(np.int64)
        fixed = np.full(len(near), 2 * count, np.int32)
        costs, codes = [images - passing, passing, *costs], [fixed, fixed + 1, *codes]
    return _choose(np.stack(costs), np.stack(codes))


def _choose(costs: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """codes[c, n] of the smallest costs[c, n], the first at ties: int32 [N]."""
    return codes[costs.argmin(0), np.arange(costs.shape[1])].astype(np.int32)


def self_first(codes: np.ndarray, prototypes: np.ndarray) -> np.ndarray:
    """The codes of an inducer's own neurons with every prototype borrowing from itself.

    No other bit can be nearer than a neuron's own; where another is as near on the images seen, new images may differ.
    """
    codes = codes.copy()
    codes[prototypes] = np.arange(len(prototypes), dtype=np.int32)
    return codes


def mismatch(words: np.ndarray, prototypes: np.ndarray, codes: np.ndarray, images: int) -> float:
    """Fraction of wrong bits, over neurons and images, when the neurons borrow by `codes`.

    Args:
        words, prototypes: uint64 [N, W] and [K, W].
    """
    count = len(prototypes)

    def task(start: int, stop: int) -> int:
        part, own = codes[start:stop], np.ascontiguousarray(words[start:stop])
        passing = bits.ones(own).astype(np.int64)
        wrong = np.where(part == 2 * count, images - passing, passing)
        borrowed = np.flatnonzero(part < 2 * count)
        if len(borrowed):
            different = bits.ones(own[borrowed] ^ prototypes[part[borrowed] % count]).astype(np.int64)
            wrong[borrowed] = np.where(part[borrowed] < count, different, images - different)
        return int(wrong.sum())

    return sum(bits.parallel(task, len(words))) / (len(words) * images)


def energy_codes(
    model: keras.Model,
    inducer: str,
    prototypes: np.ndarray,
    sites: Sequence[str],
    part: Any,
    normalization: Normalization,
    *,
    polarity: bool = False,
    constants: bool = False,
    memory_bytes: int = 2**27,
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """The code that loses the least energy for every neuron of `sites`, from a stream of images.

    Args:
        model: its pre-activations are measured.
        prototypes: int64 [K], places in the flattened inducer.
        part: the split whose images are used, all of them.
        memory_bytes: for the sums A, float32 [N, K] per site; neurons that do not fit take another pass over the images.

    Returns:
        ({site: int32 [N]}, {site: lost fraction of the energy sum x^2}).

    Raises:
        UserError: an unknown site, or a pre-activation that is not finite.
    """
    shapes = {site.name: site.shape for site in surgery.find_sites(model)}
    codes: dict[str, list[np.ndarray]] = {name: [] for name in sites}
    lost: dict[str, np.ndarray] = {name: np.zeros(2) for name in sites}
    for tiles in _passes(sites, shapes, len(prototypes), memory_bytes):
        names = list(dict.fromkeys(tile.site for tile in tiles))
        probe = surgery.preactivations(model, [inducer, *names])
        sums = _Sums(probe, normalization, prototypes, [(names.index(t.site), t.start, t.stop) for t in tiles])
        for images, _ in part.batches(_BATCH):
            sums.add(images)
        for position, tile in enumerate(tiles):
            chosen, energies = sums.choose(position, tile.site, polarity, constants)
            codes[tile.site].append(chosen)
            lost[tile.site] += energies
        # A traced function holds its variables in a cycle: without this the sums of all passes are in memory at the end.
        del sums
        memory.release()
    joined = {name: np.concatenate(parts) for name, parts in codes.items()}
    return joined, {name: float(wrong / max(all_, 1e-30)) for name, (wrong, all_) in lost.items()}


@dataclass(frozen=True)
class _Tile:
    """Neighbouring neurons of a site."""

    site: str
    start: int
    stop: int


def _passes(
    sites: Sequence[str], shapes: Mapping[str, tuple[int, ...]], prototypes: int, memory_bytes: int
) -> Iterator[list[_Tile]]:
    """Neighbouring tiles whose sums fit into the memory together; at least one at a time."""
    tiles: list[_Tile] = []
    taken = 0
    for name in sites:
        if name not in shapes:
            raise unknown_key("ReLU site", name, shapes)
        neurons = math.prod(shapes[name])
        for start in range(0, neurons, _TILE):
            tile = _Tile(name, start, min(start + _TILE, neurons))
            size = 4 * (tile.stop - start) * prototypes
            if tiles and taken + size > memory_bytes:
                yield tiles
                tiles, taken = [], 0
            tiles, taken = [*tiles, tile], taken + size
    if tiles:
        yield tiles


class _Sums:
    """The sums A [n, K], T [n] and E [n] of some tiles of neurons, added up on the device batch by batch.

    Args:
        tiles: (which output of the probe behind the inducer's, first neuron, last + 1).
    """

    def __init__(
        self,
        probe: keras.Model,
        normalization: Normalization,
        prototypes: np.ndarray,
        tiles: Sequence[tuple[int, int, int]],
    ) -> None:
        self.probe, self.normalization, self.tiles = probe, normalization, tiles
        self.indices = tf.constant(prototypes, tf.int32)
        self.products = [tf.Variable(tf.zeros([stop - start, len(prototypes)])) for _, start, stop in tiles]
        self.totals = [tf.Variable(tf.zeros([2, stop - start])) for _, start, stop in tiles]
        spec = tf.TensorSpec([None, *probe.input_shape[1:]], tf.uint8)
        self.add = tf.function(self._add, input_signature=[spec], autograph=False)

    def _add(self, images: tf.Tensor) -> None:
        outputs = self.probe(self.normalization.apply(images), training=False)
        inducer, *induced = [tf.reshape(x, [tf.shape(x)[0], -1]) for x in outputs]
        bit = tf.gather(inducer, self.indices, axis=1) >= 0
        sign = tf.where(bit, 1.0, -1.0)
        for (output, start, stop), product, totals in zip(self.tiles, self.products, self.totals, strict=True):
            x = tf.cast(induced[output][:, start:stop], tf.float32)
            signed = x * tf.abs(x)
            totals.assign_add(tf.stack([tf.reduce_sum(signed, 0), tf.reduce_sum(x * x, 0)]))
            product.assign_add(tf.matmul(signed, sign, transpose_a=True))

    def choose(self, position: int, name: str, polarity: bool, constants: bool) -> tuple[np.ndarray, np.ndarray]:
        """(codes [n], [lost energy, all energy]) of one tile, of the site `name`."""
        signed, energy = self.totals[position].numpy().astype(np.float64)
        if not np.isfinite(energy).all():
            raise UserError(f"The pre-activations of site {name!r} are NaN or infinite on some image.")
        costs, codes = self._best(self.products[position], polarity)
        if constants:
            fixed = np.full((1, len(signed)), 2 * len(self.indices))
            # A prototype that is always on has the same sum up to rounding.
            head_start = _ROUNDING * energy
            costs = np.concatenate([-signed[None] - head_start, signed[None] - head_start, costs])
            codes = np.concatenate([fixed, fixed + 1, codes])
        lost = np.maximum(energy + costs.min(0), 0.0).sum() / 2
        return _choose(costs, codes), np.array([lost, energy.sum()])

    def _best(self, product: tf.Variable, polarity: bool) -> tuple[np.ndarray, np.ndarray]:
        """(costs [1 or 2, n], codes [1 or 2, n]) of the best prototype and, with polarity, the best complement."""
        # NumPy takes the first of equal sums; TensorFlow promises none.
        table = product.numpy()
        places, rows = [table.argmax(1)], np.arange(len(table))
        costs = [-table[rows, places[0]]]
        if polarity:
            places.append(table.argmin(1))
            costs.append(table[rows, places[1]])
        codes = [place + side * table.shape[1] for side, place in enumerate(places)]
        return np.stack(costs).astype(np.float64), np.stack(codes)


def cached_mismatch(cache: Cache, inducer: str, prototypes: np.ndarray, site: str, codes: np.ndarray) -> float:
    """`mismatch` of one site, read from a cache."""
    return mismatch(cache.bits(site), cache.rows(inducer, prototypes), codes, cache.images)
