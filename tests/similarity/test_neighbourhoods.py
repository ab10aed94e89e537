"""Representational similarity analysis and mutual nearest neighbours."""

import numpy as np
import pytest
from reference import alignment

from keras_relu import similarity
from keras_relu.errors import UserError
from keras_relu.similarity import DegenerateError


def pair(n=15, seed=0):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(n, 6))
    return x, x @ generator.normal(size=(6, 8)) + 0.5 * generator.normal(size=(n, 8))


@pytest.mark.parametrize("comparison", ["spearman", "pearson"])
def test_rsa_equals_the_explicit_distances(comparison):
    x, y = pair()
    expected = alignment.rsa(x, y, rank=comparison == "spearman")
    assert similarity.rsa(x, y, comparison=comparison) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("distance", ["correlation", "cosine", "euclidean"])
def test_rsa_of_equal_representations_is_one(distance):
    x, _ = pair()
    assert similarity.rsa(x, 3 * x, distance=distance) == pytest.approx(1.0)


def test_neighbours_equal_sorting_all_distances():
    x, y = pair(40)
    for k in (1, 3, 10):
        expected = alignment.mutual_neighbours(x, y, k)
        assert similarity.mutual_nearest_neighbours(x, y, neighbours=k) == pytest.approx(expected)


def test_neighbours_over_several_blocks():
    x, _ = pair(1100)
    assert similarity.mutual_nearest_neighbours(x, -x) == 1.0
    other = np.random.default_rng(9).normal(size=(1100, 6))
    assert similarity.mutual_nearest_neighbours(x, other) == pytest.approx(10 / 1099, abs=0.01)


def test_refusals():
    x, y = pair()
    with pytest.raises(UserError, match="distance"):
        similarity.rsa(x, y, distance="hamming")
    with pytest.raises(UserError, match="comparison"):
        similarity.rsa(x, y, comparison="kendall")
    with pytest.raises(UserError, match="at most 5000"):
        similarity.rsa(np.zeros((5001, 1)), np.zeros((5001, 1)))
    with pytest.raises(DegenerateError, match="equally far apart"):
        similarity.rsa(np.zeros_like(x), y, distance="euclidean")
    with pytest.raises(DegenerateError, match="features are all equal"):
        similarity.rsa(np.ones_like(x), y)
    with pytest.raises(DegenerateError, match="at least 3"):
        similarity.rsa(x[:2], y[:2])
    with pytest.raises(UserError, match="neighbours is 0"):
        similarity.mutual_nearest_neighbours(x, y, neighbours=0)
    with pytest.raises(DegenerateError, match="at least 17"):
        similarity.mutual_nearest_neighbours(x, y, neighbours=15)
    with pytest.raises(DegenerateError, match="X is dead"):
        similarity.mutual_nearest_neighbours(np.ones_like(x), y)
