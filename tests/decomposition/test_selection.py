"""The rules against an oracle that goes image by image, filter by filter."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_relu.decomposition import selection
from keras_relu.decomposition.selection import ResponseStatistics, select
from keras_relu.errors import UserError

CLASSES, FILTERS = 3, 6


def oracle_counts(responses, labels, k):
    """How often each filter is among the k strongest of an image of the class; ties to the smaller number."""
    counts = np.zeros((CLASSES, FILTERS), int)
    for image, label in zip(responses, labels, strict=True):
        ranked = sorted(range(FILTERS), key=lambda i: (-image[i], i))
        for i in ranked[:k]:
            counts[label, i] += 1
    return counts


def oracle_rows(scores, k):
    return [sorted(range(FILTERS), key=lambda i: (-row[i], i))[:k] for row in scores]


def gathered(responses, labels, sizes, batch=7):
    statistics = ResponseStatistics(CLASSES, FILTERS, sizes)
    for start in range(0, len(labels), batch):
        statistics.update(responses[start : start + batch], labels[start : start + batch])
    return statistics


def sample(seed=0, count=60):
    generator = np.random.default_rng(seed)
    # Small whole numbers make many ties.
    return generator.integers(0, 4, (count, FILTERS)).astype(np.float32), np.arange(count) % CLASSES


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), k=st.integers(1, FILTERS))
def test_frequency(seed, k):
    responses, labels = sample(seed, 30)
    rows, scores = select("frequency", k, gathered(responses, labels, [k]))
    expected = oracle_counts(responses, labels, k)
    np.testing.assert_array_equal(scores, expected)
    assert rows == oracle_rows(expected, k)


def test_all_k_in_one_pass_are_those_of_single_passes():
    responses, labels = sample()
    together = gathered(responses, labels, [1, 3, 5, 0.5])
    for k in (1, 3, 5, 0.5):
        alone = gathered(responses, labels, [k], batch=60)
        assert select("frequency", k, together)[0] == select("frequency", k, alone)[0]


def test_fraction_is_a_share_of_mass():
    responses, labels = sample()
    statistics = gathered(responses, labels, [0.3, 0.6])
    for fraction in (0.3, 0.6):
        rows, _ = select("frequency", fraction, statistics)
        for number, row in enumerate(rows):
            leading = []
            for image in responses[labels == number]:
                mass = np.cumsum(np.sort(image)[::-1] / max(image.sum(), 1e-9))
                leading.append(int((mass < fraction - 1e-7).sum()) if image.sum() else FILTERS)
            size = max(int(np.mean(leading)), 1)
            assert row == oracle_rows(oracle_counts(responses, labels, size), size)[number]
    assert statistics.sizes_for(0.3).sum() <= statistics.sizes_for(0.6).sum()


def test_published_reading_of_a_fraction():
    counts = np.array([0, 5, 1, 4, 0, 10])
    # Ascending: 0 0 1 4 5 10 of 20, cumulative 0, 0, .05, .25, .5, 1.
    assert selection.frequency_tail(counts, 0.25) == [5, 1]
    assert selection.frequency_tail(counts, 0.2) == [5, 1, 3]
    assert selection.frequency_tail(counts, 0.9) == [5]
    statistics = gathered(*sample(), [0.4])
    rows, scores = select("frequency-tail", 0.4, statistics)
    assert rows == [selection.frequency_tail(row, 0.4) for row in scores]


def test_weight_and_response_weight():
    responses, labels = sample()
    kernel = np.random.default_rng(1).normal(size=(FILTERS, CLASSES))
    assert select("weight", 2, kernel=kernel)[0] == oracle_rows(kernel.T, 2)
    means = np.stack([responses[labels == number].mean(axis=0) for number in range(CLASSES)])
    statistics = gathered(responses, labels, [])
    assert select("response-weight", 2, statistics, kernel)[0] == oracle_rows(means * kernel.T, 2)


def test_share_of_positive_weights():
    kernel = np.array([[4.0, 3.0, 2.0, 1.0, -5.0, 0.0]]).T
    for fraction, expected in ((0.4, [0]), (0.41, [0, 1]), (0.7, [0, 1]), (0.95, [0, 1, 2, 3]), (0.999, [0, 1, 2, 3])):
        assert select("weight", fraction, kernel=kernel)[0] == [expected]
    assert selection.share_count(-np.ones((1, 4)), 0.5).tolist() == [1]


def test_mass_of_images_without_response_is_zero_not_nan():
    responses = np.zeros((3, FILTERS), np.float32)
    responses[0] = 1
    statistics = gathered(responses, np.zeros(3, int), [3])
    assert statistics.mean_mass(3) == pytest.approx(0.5 / 3)
    np.testing.assert_array_equal(selection.l1_mass(responses)[1:], 0)


def test_means_of_a_class_without_images_are_zero():
    responses, _ = sample()
    statistics = gathered(responses, np.zeros(60, int), [2])
    assert statistics.means[1:].tolist() == [[0.0] * FILTERS] * 2


class TestRefusals:
    @pytest.mark.parametrize("sizes", [[0], [-1], [1.5], [FILTERS + 1], [float("nan")]])
    def test_sizes(self, sizes):
        with pytest.raises(UserError, match="top_k is"):
            selection.checked_sizes(sizes, FILTERS)

    def test_no_sizes(self):
        with pytest.raises(UserError, match="At least one top_k"):
            selection.checked_sizes([])

    def test_too_many_ranks(self):
        with pytest.raises(UserError, match="whole numbers as top_k"):
            ResponseStatistics(1000, 2048, [0.5])

    @pytest.mark.parametrize(
        ("responses", "labels", "message"),
        [
            (np.zeros((2, FILTERS + 1)), np.zeros(2, int), "allowed is"),
            (np.zeros((2, FILTERS)), np.zeros(3, int), "one label each"),
            (np.zeros((2, FILTERS)), np.array([0, CLASSES]), "Labels go from 0 to 3"),
            (np.full((2, FILTERS), np.nan), np.zeros(2, int), "NaN or infinite"),
        ],
    )
    def test_batches(self, responses, labels, message):
        with pytest.raises(UserError, match=message):
            ResponseStatistics(CLASSES, FILTERS, [2]).update(responses, labels)

    def test_rules(self):
        statistics = gathered(*sample(), [2])
        with pytest.raises(UserError, match="Did you mean 'frequency'"):
            select("frequencies", 2, statistics)
        with pytest.raises(UserError, match="needs images"):
            select("frequency", 2)
        with pytest.raises(UserError, match="weights of the last layer"):
            select("response-weight", 2, statistics)
        with pytest.raises(UserError, match="for fractions"):
            select("frequency-tail", 2, statistics)
