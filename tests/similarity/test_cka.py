"""Centred kernel alignment: values against explicit matrices, estimators, refusals."""

import numpy as np
import pytest
from reference import alignment

from keras_relu import similarity
from keras_relu.errors import UserError
from keras_relu.similarity import DegenerateError


def pair(n=14, dx=5, dy=4, seed=0):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(n, dx)) + 3.0
    return x, np.tanh(x @ generator.normal(size=(dx, dy))) + 0.3 * generator.normal(size=(n, dy))


@pytest.mark.parametrize(("n", "dx", "dy"), [(14, 5, 4), (9, 20, 3), (6, 11, 30)])
def test_linear_cka_equals_the_gram_matrices(n, dx, dy):
    x, y = pair(n, dx, dy)
    expected = alignment.cka(alignment.linear_gram(x), alignment.linear_gram(y))
    assert similarity.cka(x, y) == pytest.approx(expected, abs=1e-12)


def test_rbf_cka_equals_the_gram_matrices():
    x, y = pair()
    for bandwidth in (0.5, 1.0):
        expected = alignment.cka(alignment.rbf_gram(x, bandwidth), alignment.rbf_gram(y, bandwidth))
        assert similarity.rbf_cka(x, y, bandwidth=bandwidth) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_unbiased_cka_equals_the_sums_over_different_images(kernel):
    x, y = pair(8)
    gram = alignment.linear_gram if kernel == "linear" else alignment.rbf_gram
    expected = alignment.cka(gram(x), gram(y), alignment.unbiased_hsic)
    assert similarity.unbiased_cka(x, y, kernel=kernel) == pytest.approx(expected, abs=1e-10)


def test_minibatch_cka_sums_unbiased_batches_and_leaves_out_a_rest_below_four():
    x, y = pair(19)
    batches = [slice(0, 8), slice(8, 16)]
    sums = np.array(
        [
            [
                alignment.unbiased_hsic(alignment.linear_gram(a[b]), alignment.linear_gram(c[b]))
                for a, c in ((x, x), (x, y), (y, y))
            ]
            for b in batches
        ]
    ).sum(axis=0)
    expected = sums[1] / np.sqrt(sums[0] * sums[2])
    assert similarity.minibatch_cka(x, y, batch_size=8) == pytest.approx(expected, abs=1e-9)


def test_one_batch_of_all_images_is_the_unbiased_estimate():
    x, y = pair(40)
    assert similarity.minibatch_cka(x, y, batch_size=40) == pytest.approx(similarity.unbiased_cka(x, y), abs=1e-9)


def test_minibatches_estimate_what_all_images_estimate():
    x, y = pair(2000)
    assert similarity.minibatch_cka(x, y, batch_size=100) == pytest.approx(similarity.unbiased_cka(x, y), abs=0.01)


def test_independent_representations_score_zero_only_without_bias():
    biased, unbiased = [], []
    for seed in range(50):
        generator = np.random.default_rng(seed)
        x, y = generator.normal(size=(32, 16)), generator.normal(size=(32, 16))
        biased.append(similarity.cka(x, y))
        unbiased.append(similarity.unbiased_cka(x, y))
    assert abs(np.mean(unbiased)) < 0.03
    assert np.mean(biased) > 0.2


def test_maps_are_flattened_and_float32_is_enough():
    x, y = pair(30, 8, 12)
    maps = x.reshape(30, 2, 2, 2).astype(np.float32), y.reshape(30, 2, 3, 2).astype(np.float32)
    assert similarity.cka(*maps) == pytest.approx(similarity.cka(x, y), abs=1e-6)


@pytest.mark.parametrize("measure", [similarity.cka, similarity.rbf_cka, similarity.unbiased_cka])
def test_a_dead_layer_is_refused_with_the_reason(measure):
    x, y = pair()
    for dead in (np.zeros_like(x), np.full_like(x, 7.3)):
        with pytest.raises(DegenerateError, match=r"X.*dead"):
            measure(dead, y)
        with pytest.raises(DegenerateError, match=r"Y.*dead"):
            measure(y, dead)


def test_too_few_images_are_refused():
    x, y = pair()
    with pytest.raises(DegenerateError, match="at least 2"):
        similarity.cka(x[:1], y[:1])
    for n in (1, 2, 3):
        with pytest.raises(DegenerateError, match="at least 4"):
            similarity.unbiased_cka(x[:n], y[:n])
        with pytest.raises(DegenerateError, match="at least 4"):
            similarity.MiniBatchCKA().update(x[:n], y[:n])
        with pytest.raises(DegenerateError, match="at least 4"):
            similarity.minibatch_cka(x[:n], y[:n])
    with pytest.raises(UserError, match="batch_size is 3"):
        similarity.minibatch_cka(x, y, batch_size=3)
    with pytest.raises(DegenerateError, match="not positive"):
        similarity.MiniBatchCKA().value()


def test_wrong_arrays_are_refused():
    x, y = pair()
    with pytest.raises(UserError, match="images"):
        similarity.cka(x, y[:-1])
    with pytest.raises(UserError, match="shape"):
        similarity.cka(np.zeros(5), y)
    with pytest.raises(UserError, match="shape"):
        similarity.cka(np.zeros((5, 0)), y)
    with pytest.raises(UserError, match="real numbers"):
        similarity.cka(np.array([["a"], ["b"]]), y)
    with pytest.raises(UserError, match="bandwidth"):
        similarity.rbf_cka(x, y, bandwidth=0)
    with pytest.raises(UserError, match="kernel"):
        similarity.unbiased_cka(x, y, kernel="cubic")
    broken = x.copy()
    broken[2, 1] = np.nan
    for measure in (similarity.cka, similarity.unbiased_cka, similarity.rbf_cka):
        with pytest.raises(DegenerateError, match="NaN"):
            measure(broken, y)
