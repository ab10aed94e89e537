import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_relu.data.stratified import stratified_choice, stratified_cut

LABELS = st.lists(st.integers(0, 6), min_size=1, max_size=200).map(np.array)


@settings(max_examples=200, deadline=None)
@given(labels=LABELS, share=st.floats(0, 1), seed=st.integers(0, 2**31))
def test_cut_is_exact_disjoint_stratified_and_deterministic(labels, share, seed):
    count = round(share * len(labels))
    rest, chosen = stratified_cut(labels, count, seed=(seed,))
    assert len(chosen) == count
    np.testing.assert_array_equal(np.sort(np.concatenate([rest, chosen])), np.arange(len(labels)))
    for label in np.unique(labels):
        exact = count * (labels == label).sum() / len(labels)
        assert abs((labels[chosen] == label).sum() - exact) < 1
    np.testing.assert_array_equal(chosen, stratified_choice(labels, count, seed=(seed,)))


@pytest.mark.parametrize(("labels", "count"), [([], 0), ([0, 1], 0), ([0, 1], 2)])
def test_edges(labels, count):
    assert len(stratified_choice(np.array(labels, int), count, seed=(0,))) == count


def test_another_seed_chooses_others():
    labels = np.repeat(np.arange(10), 50)
    assert (stratified_choice(labels, 50, seed=(0,)) != stratified_choice(labels, 50, seed=(1,))).any()
