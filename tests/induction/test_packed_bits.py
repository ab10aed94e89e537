"""Packed sign vectors: packing, distances, nearest prototypes, selection, against oracles on any number of images."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import borrowed as reference

from keras_relu.errors import UserError
from keras_relu.induction import bits
from keras_relu.induction.association import hamming_codes, mismatch, self_first
from keras_relu.induction.selection import farthest_points, modes, random_points, select

OPTIONS = [(False, False), (True, False), (False, True), (True, True)]


def draw(images, neurons, seed=0, p=0.5):
    return (np.random.default_rng(seed).random((images, neurons)) < p).astype(int)


cases = st.tuples(st.integers(1, 150), st.integers(2, 12), st.integers(0, 10_000))


@given(cases)
def test_packing_round_trip_and_padding(case):
    images, neurons, seed = case
    table = draw(images, neurons, seed)
    words = bits.pack(table)
    assert words.shape == (neurons, -(-images // 64))
    np.testing.assert_array_equal(bits.unpack(words, images), table.T)
    np.testing.assert_array_equal(bits.ones(words), table.sum(0))
    # Bits beyond the last image are zero.
    assert bits.unpack(words, 64 * words.shape[1])[:, images:].sum() == 0
    np.testing.assert_array_equal(bits.signs(words, images), 2 * table.T - 1)


@given(cases)
def test_packed_and_unpacked_hamming_agree(case):
    images, neurons, seed = case
    table = draw(images, neurons, seed)
    words = bits.pack(table)
    expected = [[reference.hamming(table, n, k) for n in range(neurons)] for k in range(neurons)]
    for k in range(neurons):
        np.testing.assert_array_equal(bits.distances(words, words[k]), expected[k])
    signs = bits.signs(words, images)
    np.testing.assert_array_equal((images - signs @ signs.T) / 2, expected)


def test_the_table_for_old_numpy_counts_alike(monkeypatch):
    words = bits.pack(draw(1000, 50))
    expected = bits.ones(words)
    monkeypatch.setattr(bits, "_count_bits", bits._lookup_count)
    np.testing.assert_array_equal(bits.ones(words), expected)


@given(cases, st.sampled_from(OPTIONS))
def test_hamming_codes_equal_the_oracle(case, options):
    images, neurons, seed = case
    polarity, constants = options
    own, prototypes = draw(images, neurons, seed), draw(images, 1 + neurons // 2, seed + 1)
    expected = reference.best_codes(own, np.ones(own.shape), prototypes, polarity=polarity, constants=constants)
    words, rows = bits.pack(own), bits.pack(prototypes)
    codes = hamming_codes(words, rows, images, polarity=polarity, constants=constants)
    np.testing.assert_array_equal(codes, expected)
    wrong = np.mean(reference.gate(prototypes, codes) != own)
    assert mismatch(words, rows, codes, images) == pytest.approx(wrong, abs=1e-12)


@given(cases)
def test_many_rows_in_blocks_equal_few(case):
    images, neurons, seed = case
    own = np.tile(draw(images, neurons, seed), (1, 400))
    words, rows = bits.pack(own), bits.pack(draw(images, 3, seed))
    near, near_at, far, far_at = bits.nearest(words, rows)
    table = np.stack([bits.distances(words, row) for row in rows])
    np.testing.assert_array_equal(near, table.argmin(0))
    np.testing.assert_array_equal(near_at, table.min(0))
    np.testing.assert_array_equal(far, table.argmax(0))
    np.testing.assert_array_equal(far_at, table.max(0))


@given(cases)
def test_farthest_points_equal_the_oracle(case):
    images, neurons, seed = case
    table = draw(images, neurons, seed)
    words = bits.pack(table)
    found = farthest_points(words, neurons - 1, seed)
    first = int(np.random.default_rng(seed).integers(neurons))
    assert found.tolist() == reference.farthest_points(table, neurons - 1, first)
    np.testing.assert_array_equal(found, farthest_points(words, neurons - 1, seed))
    # The choice for fewer prototypes is the beginning of that for more.
    assert farthest_points(words, max(1, neurons // 2), seed).tolist() == found[: max(1, neurons // 2)].tolist()


def test_farthest_points_stop_when_all_neurons_equal_a_prototype():
    table = np.repeat(draw(100, 3), 5, axis=1)
    found = farthest_points(bits.pack(table), 10, 0)
    assert len(found) == len({tuple(table[:, n]) for n in found}) == 3


@pytest.mark.parametrize("method", ["fps", "random", "kmodes"])
def test_selection(method):
    words = bits.pack(draw(130, 40))
    assert select(method, words, 40, images=130).tolist() == list(range(40))
    found = select(method, words, 12, images=130, seed=3)
    assert len(set(found.tolist())) == 12
    np.testing.assert_array_equal(found, select(method, words, 12, images=130, seed=3))
    assert found.tolist() != select(method, words, 12, images=130, seed=4).tolist()
    for count in (0, 41):
        with pytest.raises(UserError, match="1 to 40"):
            select(method, words, count, images=130)


def test_an_unknown_selection_names_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'fps'"):
        select("fp", bits.pack(draw(10, 5)), 2, images=10)


def test_modes_find_the_clusters():
    """Noisy copies of three patterns: one mode comes from each, wherever the random start was."""
    generator = np.random.default_rng(0)
    patterns = draw(500, 3)
    labels = np.repeat(np.arange(3), 30)
    table = patterns[:, labels] ^ (generator.random((500, 90)) < 0.05)
    hits = [set(labels[modes(bits.pack(table), 3, images=500, seed=seed)]) for seed in range(5)]
    covered = [set(labels[random_points(90, 3, seed)]) for seed in range(5)]
    assert sum(map(len, hits)) >= sum(map(len, covered))
    union = bits.pack(patterns)
    assert len(modes(bits.pack(table), 3, images=500, union=[union])) == 3


def test_self_first_gives_prototypes_their_own_bit():
    table = draw(64, 6)
    table[:, 4] = table[:, 1]
    prototypes = np.array([1, 4])
    words = bits.pack(table)
    codes = hamming_codes(words, words[prototypes], 64)
    assert codes[4] == 0
    fixed = self_first(codes, prototypes)
    assert fixed[prototypes].tolist() == [0, 1]
    assert mismatch(words, words[prototypes], fixed, 64) == mismatch(words, words[prototypes], codes, 64)
