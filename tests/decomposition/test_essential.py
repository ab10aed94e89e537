"""Noise at filters: against an oracle that goes image by image, and what must hold whatever the numbers are."""

import numpy as np
import pytest

from keras_relu.decomposition.noise import essential, replaced, survivors
from keras_relu.errors import UserError

CLASSES, FILTERS = 3, 8
ROWS = [[0, 1], [2, 3], [4, 5]]


@pytest.fixture(scope="module")
def sample():
    """Images whose class shows in two filters of its own; the other filters only add noise."""
    generator = np.random.default_rng(0)
    labels = np.arange(300) % CLASSES
    features = generator.random((300, FILTERS)).astype(np.float32)
    kernel = np.zeros((FILTERS, CLASSES), np.float32)
    for number, row in enumerate(ROWS):
        features[np.ix_(labels == number, row)] += 3
        kernel[row, number] = 1
    return features, labels, kernel, np.zeros(CLASSES, np.float32)


def oracle(features, labels, kernel, bias, draws, group):
    counts = np.zeros(CLASSES, int)
    for image, label, noise in zip(features, labels, draws, strict=True):
        image = image.copy()
        for i in range(FILTERS):
            if (i in ROWS[label]) == (group == "influential"):
                image[i] = noise[i]
        counts[label] += int(np.argmax(image @ kernel + bias) == label)
    return counts


@pytest.mark.parametrize("group", ["influential", "other"])
def test_standard_noise_against_the_oracle(sample, group):
    features, labels, kernel, bias = sample
    result = essential(*sample, ROWS, repetitions=3, seed=5)
    counts = []
    for repetition in range(3):
        draws = np.random.default_rng((5, repetition)).standard_normal(features.shape, np.float32)
        counts.append(oracle(features, labels, kernel, bias, draws, group))
    found = result["groups"][group]
    np.testing.assert_allclose(found["per_class_mean"], np.mean(counts, axis=0))
    np.testing.assert_allclose(found["per_class_std"], np.std(counts, axis=0, ddof=1))
    assert found["correct_mean"] == pytest.approx(np.sum(counts, axis=1).mean())
    assert found["correct_std"] == pytest.approx(np.sum(counts, axis=1).std(ddof=1))


def test_filters_that_carry_the_class_are_essential(sample):
    for noise, most in (("standard", 0.5), ("matched", 0.95)):
        result = essential(*sample, ROWS, noise=noise, repetitions=4)
        groups = result["groups"]
        assert groups["none"]["correct"] == 300 == sum(groups["none"]["per_class_correct"])
        assert groups["influential"]["correct_mean"] < most * groups["other"]["correct_mean"]
        assert (result["noise"], result["repetitions"], result["total"]) == (noise, 4, 300)
        assert result["per_class_total"] == [100, 100, 100]


def test_matched_noise_keeps_the_moments(sample):
    features = sample[0]
    everywhere = np.ones(features.shape, bool)
    draws = np.random.default_rng(0).standard_normal(features.shape)
    matched = replaced(features, everywhere, draws, "matched")
    np.testing.assert_allclose(matched.mean(axis=0), features.mean(axis=0), atol=0.3)
    np.testing.assert_allclose(matched.std(axis=0), features.std(axis=0), rtol=0.15)
    np.testing.assert_array_equal(replaced(features, ~everywhere, draws), features)


def test_seeds(sample):
    first = essential(*sample, ROWS, repetitions=2, seed=1)
    assert first == essential(*sample, ROWS, repetitions=2, seed=1)
    assert first["groups"] != essential(*sample, ROWS, repetitions=2, seed=2)["groups"]


def test_survivors(sample):
    features, labels, kernel, bias = sample
    assert survivors(features, labels, kernel, bias).tolist() == [100, 100, 100]
    assert survivors(features, labels, -kernel, bias).sum() == 0


def test_refusals(sample):
    with pytest.raises(UserError, match="at least 2"):
        essential(*sample, ROWS, repetitions=1)
    with pytest.raises(UserError, match="Did you mean 'matched'"):
        essential(*sample, ROWS, noise="match")
    with pytest.raises(UserError, match="filter 8"):
        essential(*sample, [[0], [1], [8]])
