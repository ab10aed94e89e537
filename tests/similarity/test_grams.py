"""The sweep over tiles: the same numbers whatever the tiles are, the exact null, the bootstrap."""

import itertools

import numpy as np
import pytest
from reference import alignment

from keras_relu.errors import UserError
from keras_relu.similarity import DegenerateError, gram_statistics


def layers(n=50, seed=0):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(n, 12)) + 1.0
    return [x, x @ generator.normal(size=(12, 7)), np.maximum(x[:, :5], 0.0), generator.normal(size=(n, 9))]


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
@pytest.mark.parametrize(("groups", "memory_bytes"), [(1, 2**28), (1, 3000), (7, 2**28), (7, 3000), (50, 1)])
def test_tiles_and_groups_change_nothing(kernel, groups, memory_bytes):
    rows = layers()
    whole = gram_statistics(rows, kernel=kernel, dtype=np.float64)
    tiled = gram_statistics(rows, kernel=kernel, groups=groups, memory_bytes=memory_bytes, dtype=np.float64)
    for unbiased in (False, True):
        np.testing.assert_allclose(tiled.cka(unbiased=unbiased), whole.cka(unbiased=unbiased), atol=1e-12)
    np.testing.assert_allclose(tiled.null(), whole.null(), atol=1e-12)


def test_all_pairs_equal_the_single_values_and_float32_loses_little():
    rows = layers()
    grams = [alignment.linear_gram(x) for x in rows]
    expected = [[alignment.cka(k, l_) for l_ in grams] for k in grams]
    np.testing.assert_allclose(gram_statistics(rows, dtype=np.float64).cka(), expected, atol=1e-12)
    np.testing.assert_allclose(gram_statistics(rows).cka(), expected, atol=1e-6)


@pytest.mark.parametrize("unbiased", [False, True])
def test_the_null_is_the_mean_and_deviation_over_all_permutations(unbiased):
    generator = np.random.default_rng(1)
    x, y = generator.normal(size=(6, 3)), generator.exponential(size=(6, 4))
    drawn = [
        gram_statistics([x, y[list(order)]], dtype=np.float64).cka(unbiased=unbiased)[0, 1]
        for order in itertools.permutations(range(6))
    ]
    mean, deviation = gram_statistics([x, y], dtype=np.float64).null(unbiased=unbiased)
    assert mean[0, 1] == pytest.approx(np.mean(drawn), abs=1e-12)
    assert deviation[0, 1] == pytest.approx(np.std(drawn), abs=1e-12)


def test_weights_count_a_group_as_often_as_its_images_repeated():
    x = layers(12)[:2]
    weights = np.array([2.0, 0.0, 1.0, 3.0])
    order = np.concatenate([np.repeat(np.arange(3 * g, 3 * g + 3), int(w)) for g, w in enumerate(weights)])
    repeated = gram_statistics([rows[order] for rows in x], dtype=np.float64).cka()
    statistics = gram_statistics(x, groups=4, dtype=np.float64)
    np.testing.assert_allclose(statistics.cka(weights=weights), repeated, atol=1e-12)


def test_the_bootstrap_knows_the_spread_between_samples():
    def value(seed):
        generator = np.random.default_rng(seed)
        x = generator.normal(size=(200, 6))
        y = x @ np.random.default_rng(99).normal(size=(6, 6)) + generator.normal(size=(200, 6))
        return gram_statistics([x, y], groups=100)

    spread = np.std([value(seed).cka()[0, 1] for seed in range(60)])
    estimated = np.mean([value(seed).bootstrap(60, seed=seed)[0, 1] for seed in range(8)])
    assert estimated == pytest.approx(spread, rel=0.35)
    first = value(0)
    assert first.bootstrap(10, seed=1)[0, 1] == first.bootstrap(10, seed=1)[0, 1]
    assert first.bootstrap(10)[0, 0] == pytest.approx(0, abs=1e-6)


def test_dead_layers_are_named_and_the_others_unharmed():
    rows = layers()
    dead = [rows[0], np.full((50, 4), 3.7), rows[1]]
    statistics = gram_statistics(dead)
    assert list(statistics.degenerate()) == [1]
    assert "dead" in statistics.degenerate()[1]
    values = statistics.cka()
    assert np.isfinite(values).all()
    assert values[1].tolist() == [0.0, 0.0, 0.0]
    assert values[0, 2] == pytest.approx(gram_statistics([rows[0], rows[1]]).cka()[0, 1], abs=1e-6)


def test_wrong_input_is_refused():
    rows = layers()
    with pytest.raises(UserError, match="images"):
        gram_statistics([rows[0], rows[1][:-1]])
    with pytest.raises(DegenerateError, match="at least 2"):
        gram_statistics([rows[0][:1]])
    with pytest.raises(UserError, match="kernel"):
        gram_statistics(rows, kernel="cubic")
    with pytest.raises(DegenerateError, match="NaN"):
        gram_statistics([np.array([[np.inf], [1.0]])])
    with pytest.raises(DegenerateError, match="at least 4"):
        gram_statistics([rows[0][:3]]).null()
    with pytest.raises(UserError, match="at least 2 replicates"):
        gram_statistics(rows).bootstrap(1)
