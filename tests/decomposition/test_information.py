"""Mutual information against scikit-learn and the published number; class selectivity by its definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mutual_info_score

from keras_relu.decomposition import information, selectivity
from keras_relu.decomposition.tables import read_table
from keras_relu.errors import UserError


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), filters=st.integers(1, 12))
def test_every_pair_is_that_of_scikit_learn(seed, filters):
    member = np.random.default_rng(seed).integers(0, 2, (4, filters))
    expected = [[mutual_info_score(a, b) for b in member] for a in member]
    np.testing.assert_allclose(information.mutual_information(member), expected, atol=1e-12)


def test_published_table(published_file):
    summary = information.summarize(read_table(published_file).membership(64))
    assert summary["mutual_information"] == pytest.approx(0.03453775959861226, abs=1e-12)
    assert summary["mutual_information_off_diagonal"] == pytest.approx(0.007912408959550057, abs=1e-12)
    assert summary["entropy"] == pytest.approx(0.274166, abs=1e-6)
    assert np.diag(summary["overlap"]).tolist() == [5] * 10


def test_overlap_counts_shared_filters():
    member = np.array([[1, 1, 0, 0], [0, 1, 1, 1]])
    assert information.overlap(member).tolist() == [[2, 1], [1, 3]]
    assert information.summarize(member)["shared_filters"] == 1


def test_one_class_has_no_pairs():
    summary = information.summarize(np.array([[1, 0, 0]]))
    assert summary["mutual_information_off_diagonal"] is None
    assert summary["shared_filters"] is None


@pytest.mark.parametrize("member", [np.array([[0, 2]]), np.array([0, 1]), np.zeros((0, 3))])
def test_only_indicators(member):
    with pytest.raises(UserError, match="indicators of 0 and 1"):
        information.mutual_information(member)


def test_selectivity_by_its_definition():
    means = np.array([[4.0, 1.0, 0.0, 2.0], [0.0, 1.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0]])
    values, preferred = selectivity.class_selectivity(means)
    np.testing.assert_allclose(values, [1, 0, 0, (2 - 0.5) / (2 + 0.5)], atol=1e-6)
    assert preferred.tolist() == [0, 0, 0, 0]
    summary = selectivity.summarize(means)
    assert summary["per_class_filters"] == [4, 0, 0]
    assert summary["mean"] == pytest.approx(0.4, abs=1e-6)
    assert summary["median"] == pytest.approx(0.3, abs=1e-6)


def test_selectivity_refusals():
    with pytest.raises(UserError, match="at least two classes"):
        selectivity.class_selectivity(np.ones((1, 4)))
    with pytest.raises(UserError, match="behind a ReLU"):
        selectivity.class_selectivity(np.array([[1.0], [-1.0]]))
