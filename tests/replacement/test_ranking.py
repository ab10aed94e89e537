"""The ranking: the budget is met exactly, ties included, and the best scores win."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_relu.errors import UserError
from keras_relu.replacement import ranking

SHAPES = ((3, 2, 2), (5,), (2, 1, 4))
SIZES = [int(np.prod(shape)) for shape in SHAPES]
TOTAL = sum(SIZES)

# Few different values, so that ties are common.
tied = st.lists(st.sampled_from([-1.0, 0.0, 0.5, 1.0]), min_size=TOTAL, max_size=TOTAL)
any_scores = st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=TOTAL, max_size=TOTAL)
scores_of_sites = (tied | any_scores).map(lambda values: per_site(np.array(values, np.float32)))
masks_of_sites = st.lists(st.booleans(), min_size=TOTAL, max_size=TOTAL).map(
    lambda values: per_site(np.array(values, np.float32))
)
budgets = st.integers(0, TOTAL)


def per_site(flat):
    return [part.reshape(shape) for part, shape in zip(np.split(flat, np.cumsum(SIZES)[:-1]), SHAPES, strict=True)]


def flat(sites):
    return np.concatenate([np.ravel(site) for site in sites])


class TestElements:
    @given(scores_of_sites, budgets)
    def test_exactly_the_budget_is_kept_and_nothing_better_goes(self, scores, budget):
        masks = ranking.top_masks(scores, budget)
        assert [mask.shape for mask in masks] == list(SHAPES)
        assert all(mask.dtype == np.float32 for mask in masks)
        kept, values = flat(masks) == 1, flat(scores)
        assert set(flat(masks)) <= {0.0, 1.0}
        assert kept.sum() == budget
        if 0 < budget < TOTAL:
            assert values[kept].min() >= values[~kept].max()

    @given(budgets)
    def test_equal_scores_are_taken_in_the_order_of_the_graph(self, budget):
        masks = ranking.top_masks([np.zeros(shape) for shape in SHAPES], budget)
        np.testing.assert_array_equal(flat(masks), np.arange(TOTAL) < budget)

    @given(scores_of_sites, budgets, st.sampled_from([1e-12, 1e-6, 1e6]))
    def test_the_scale_of_the_scores_does_not_matter(self, scores, budget, factor):
        scaled = [score.astype(np.float64) * factor for score in scores]
        np.testing.assert_array_equal(flat(ranking.top_masks(scaled, budget)), flat(ranking.top_masks(scores, budget)))

    @given(scores_of_sites, st.integers(0, TOTAL - 1))
    def test_a_larger_budget_adds_and_takes_nothing_away(self, scores, budget):
        less, more = (flat(ranking.top_masks(scores, count)) for count in (budget, budget + 1))
        assert (more >= less).all()

    def test_the_scores_given_are_not_changed(self):
        scores = [np.arange(4.0), np.arange(3.0)]
        ranking.top_masks(scores, 2, previous=[np.ones(4), np.ones(3)], margin=0.5)
        np.testing.assert_array_equal(scores[0], np.arange(4.0))


class TestMargin:
    @given(scores_of_sites, masks_of_sites, budgets, st.floats(0, 1))
    def test_the_budget_holds_with_any_margin(self, scores, previous, budget, margin):
        assert flat(ranking.top_masks(scores, budget, previous=previous, margin=margin)).sum() == budget

    @given(scores_of_sites, masks_of_sites, budgets)
    def test_without_a_margin_the_past_does_not_count(self, scores, previous, budget):
        plain = ranking.top_masks(scores, budget)
        np.testing.assert_array_equal(flat(ranking.top_masks(scores, budget, previous=previous)), flat(plain))

    @given(scores_of_sites, masks_of_sites, budgets)
    def test_with_the_whole_margin_nothing_returns_while_kept_ones_are_left(self, scores, previous, budget):
        masks = flat(ranking.top_masks(scores, budget, previous=previous, margin=1.0))
        returned = ((masks == 1) & (flat(previous) == 0)).sum()
        assert returned == max(0, budget - flat(previous).sum())

    @pytest.mark.parametrize(("margin", "expected"), [(0.0, [0, 1]), (0.05, [0, 1]), (0.15, [1, 0])])
    def test_one_returns_only_when_it_has_passed_by_more_than_the_margin(self, margin, expected):
        # Ten places: the last but one was kept, the last has passed it by one place of ten.
        scores, previous = [np.arange(10.0)], [np.array([0] * 8 + [1, 0], np.float32)]
        masks = ranking.top_masks(scores, 1, previous=previous, margin=margin)
        np.testing.assert_array_equal(masks[0][8:], expected)


class TestGroups:
    costs = st.lists(st.integers(1, 40), min_size=len(SHAPES), max_size=len(SHAPES))

    @settings(max_examples=60)
    @given(scores_of_sites, costs, st.data())
    def test_the_cost_never_passes_the_budget_and_no_group_that_fits_is_left_out(self, scores, costs, data):
        cost = np.repeat(costs, SIZES)
        budget = data.draw(st.integers(0, int(cost.sum())))
        kept = flat(ranking.top_masks(scores, budget, elements_per_score=costs)) == 1
        left = budget - cost[kept].sum()
        assert left >= 0
        if not kept.all():
            assert cost[~kept].min() > left

    def test_the_best_group_comes_first(self):
        masks = ranking.top_masks([np.array([1.0, 3.0]), np.array([2.0])], 30, elements_per_score=[16, 64])
        assert [mask.tolist() for mask in masks] == [[0.0, 1.0], [0.0]]

    def test_groups_of_one_size_are_kept_up_to_the_budget(self):
        masks = ranking.top_masks([np.arange(5.0)], 35, elements_per_score=[10])
        assert masks[0].tolist() == [0, 0, 1, 1, 1]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_refused(bad):
    with pytest.raises(UserError, match="score is NaN or infinite: the search diverged"):
        ranking.top_masks([np.array([1.0, bad])], 1)


@pytest.mark.parametrize("budget", [-1, 11])
def test_a_budget_out_of_range_is_refused(budget):
    with pytest.raises(UserError, match=rf"budget {budget} is out of range: the network has 10 ReLUs, .* 0 to 10"):
        ranking.top_masks([np.zeros(10)], budget)


class TestKeptAt:
    @given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 1000), st.floats(0.1, 5))
    def test_it_falls_from_all_to_the_budget(self, first, second, steps, power):
        budget, total = sorted((first, second))
        curve = [ranking.kept_at(s, total=total, budget=budget, steps=steps, power=power) for s in range(steps + 1)]
        assert (curve[0], curve[-1]) == (total, budget)
        assert all(a >= b for a, b in itertools.pairwise(curve))
        assert ranking.kept_at(steps + 7, total=total, budget=budget, steps=steps, power=power) == budget

    def test_the_values_of_the_cubic_curve(self):
        assert [ranking.kept_at(s, total=1000, budget=200, steps=4) for s in range(5)] == [1000, 538, 300, 212, 200]

    def test_no_steps_means_the_budget_at_once(self):
        assert ranking.kept_at(0, total=100, budget=10, steps=0) == 10


class TestParseBudget:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (18841, 18841),
            ("18841", 18841),
            ("18,841", 18841),
            ("18_841", 18841),
            (" 94k ", 94000),
            ("94.5K", 94500),
            ("0.1", 18841),
            (0.1, 18841),
            (".25", 47104),
            ("1.0", 188416),
            (1.0, 188416),
            ("1", 1),
            (1, 1),
            ("0", 0),
            (0.0, 0),
            ("188416", 188416),
            ("500.0", 500),
        ],
    )
    def test_numbers_and_fractions(self, value, expected):
        assert ranking.parse_budget(value, 188416) == expected

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ("many", r"budget 'many' is not a number; give ReLUs kept \(18841, 94k\) or a fraction \(0\.1\)"),
            ("", "is not a number"),
            ("10%", "is not a number"),
            (None, "is not a number"),
            (True, "is not a number"),
            ("nan", "is not finite"),
            (float("nan"), "is not finite"),
            ("inf", "is not finite"),
            ("1e999", "is not finite"),
            (-1, r"budget -1 is out of range: the network has 100 ReLUs, so allowed is 0 to 100"),
            ("-0.1", "neither a whole number of ReLUs nor a fraction"),
            (101, r"budget 101 is out of range"),
            ("1k", r"budget 1,000 is out of range"),
            (2.5, r"neither a whole number of ReLUs nor a fraction in \(0, 1\]"),
            ("1.01", "neither a whole number"),
        ],
    )
    def test_what_is_refused(self, value, message):
        with pytest.raises(UserError, match=message):
            ranking.parse_budget(value, 100)

    @given(st.floats(1e-6, 1.0, exclude_max=True), st.integers(1, 10**7))
    def test_a_fraction_never_gives_more_than_its_part(self, fraction, total):
        assert 0 <= ranking.parse_budget(f"{fraction:.8f}", total) <= float(f"{fraction:.8f}") * total
