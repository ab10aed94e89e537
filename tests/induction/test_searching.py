"""The search for a mapping: an exact knapsack, trials that equal the networks they stand for, budgets that are met."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from keras_relu import surgery
from keras_relu.errors import UserError
from keras_relu.induction import cluster, induce, make_plan, search
from keras_relu.induction.knapsack import choose
from keras_relu.induction.search import Trials, groups_of

STEM, SECOND, THIRD = "stem_relu", "stage1_block1_relu1", "stage1_block1_relu2"

options = st.lists(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 40).map(lambda n: n / 8)), min_size=1, max_size=3),
    min_size=1,
    max_size=4,
)


@given(options, st.integers(0, 40))
def test_the_knapsack_equals_brute_force(groups, budget):
    choices = itertools.product(*(range(len(group)) for group in groups))
    pairs = {}
    for picks in choices:
        taken = [group[index] for group, index in zip(groups, picks, strict=True)]
        pairs[picks] = (sum(cost for cost, _ in taken), sum(damage for _, damage in taken))
    allowed = {picks: pair for picks, pair in pairs.items() if pair[0] <= budget}
    if not allowed:
        with pytest.raises(UserError, match="cheapest choice"):
            choose(groups, budget)
        return
    found = tuple(choose(groups, budget))
    assert found in allowed
    assert allowed[found][1] == pytest.approx(min(damage for _, damage in allowed.values()))


def test_large_budgets_are_counted_in_larger_units():
    groups = [[(9_000_000, 0.0), (1000, 1.0)], [(9_000_000, 0.0), (500, 3.0)]]
    assert choose(groups, 9_002_000) == [1, 0]
    assert choose(groups, 18_000_000) == [0, 0]
    assert choose(groups, 1_500) == [1, 1]


def test_groups(network):
    sites = surgery.find_sites(network)
    assert [len(group) for group in groups_of(sites, "stages")] == [3, 2]
    assert [len(group) for group in groups_of(sites, "pairs")] == [2, 2, 1]
    assert [len(group) for group in groups_of(sites, "self")] == [1] * 5
    with pytest.raises(UserError, match="Did you mean 'stages'"):
        groups_of(sites, "stage")


def test_a_trial_is_the_loss_of_the_network_it_stands_for(network, digits, cache):
    made = cluster(make_plan(network, {STEM: [STEM, SECOND, THIRD]}, 20), cache, model=network, dataset=digits)
    part = digits.validation.subset(np.arange(100), name="validation")
    trials = Trials(network, made, part, digits.normalization)

    def loss(model):
        logits = model(digits.normalization.apply(part.images), training=True)
        return float(tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(part.labels, logits)))

    assert trials.loss([]) == pytest.approx(loss(surgery.copy_model(network)), rel=1e-5)
    assert trials.loss([STEM, SECOND, THIRD]) == pytest.approx(loss(induce(network, made)), rel=1e-5)
    assert trials.loss([]) != trials.loss([SECOND])


@pytest.mark.parametrize("scheme", ["stages", "pairs"])
def test_knapsack_meets_the_budget(network, digits, cache, scheme):
    result = search(network, digits, cache, 500, prototypes=(10, 40), scheme=scheme, images=100)
    plan = make_plan(network, result["mapping"])
    assert plan.comparison_count() == result["comparisons"] <= 500
    assert result["comparisons_before"] == 960
    assert all(trial["loss"] > 0 for trial in result["trials"])
    whole = search(network, digits, cache, 960, prototypes=(10,), scheme=scheme, images=100)
    assert whole["comparisons"] <= 960


def test_greedy_adds_the_cheapest_site_first(network, digits, cache):
    result = search(network, digits, cache, 600, method="greedy", prototypes=(20,), images=100)
    plan = make_plan(network, result["mapping"])
    assert plan.comparison_count() == result["comparisons"] <= 600
    assert [group.inducer for group in plan.groups] == [STEM]
    for before, step in itertools.pairwise(result["trials"]):
        losses = step["candidates"]
        sizes = {STEM: 256, SECOND: 256, THIRD: 256, "stage2_block1_relu1": 96, "stage2_block1_relu2": 96}
        best = min(losses, key=lambda name: (losses[name] - before["loss"]) / sizes[name])
        assert step["added"] == best


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "greddy"}, "Did you mean 'greedy'"),
        ({"scheme": "pair"}, "Did you mean 'pairs'"),
        ({"method": "greedy"}, "takes one number of prototypes"),
        ({"inducer": STEM}, "greedy search only"),
        ({"budget": 5}, "cheapest choice leaves"),
        ({"budget": 5, "method": "greedy", "prototypes": (10,)}, "leaves 10 comparisons"),
        ({"prototypes": (1000,)}, "No group has more than 1000"),
    ],
)
def test_wrong_requests(network, digits, cache, changes, message):
    values = {"budget": 500, "prototypes": (10, 20), "images": 50, **changes}
    budget = values.pop("budget")
    with pytest.raises(UserError, match=message):
        search(network, digits, cache, budget, **values)


def test_without_validation_images(network, cache):
    from keras_relu import data

    with pytest.raises(UserError, match="chooses on validation images"):
        search(network, data.load("digits", validation_fraction=0), cache, 500)
