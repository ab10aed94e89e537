"""What every measure promises, for any representations: identity, ranges, invariances, never NaN."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_relu import similarity
from keras_relu.errors import UserError
from keras_relu.similarity import MEASURES, DegenerateError, get_measure

SEEDS = st.integers(0, 10_000)
SIMILARITIES = [name for name in MEASURES if name not in ("l2", "r2_original")]
ROTATION_INVARIANT = ("cka", "cka_rbf", "cka_unbiased", "cca", "svcca", "lr", "procrustes_images", "mnn")
LINEARLY_INVARIANT = ("cca", "lr")
SYMMETRIC = ("cka", "cka_rbf", "cka_unbiased", "cca", "svcca", "procrustes_images", "mnn", "rsa", "corr_optimal")


def representations(seed, n=40, dx=4, dy=4):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(n, dx)) * generator.uniform(0.5, 2, dx) + generator.normal(size=dx)
    return x, x @ generator.normal(size=(dx, dy)) + 0.5 * generator.normal(size=(n, dy))


def rotation(seed, size):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]


@pytest.mark.parametrize("name", SIMILARITIES)
@settings(max_examples=10, deadline=None)
@given(seed=SEEDS)
def test_a_representation_equals_itself(name, seed):
    x, _ = representations(seed)
    assert MEASURES[name](x, x) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("name", MEASURES)
@settings(max_examples=10, deadline=None)
@given(seed=SEEDS, dy=st.integers(1, 4))
def test_values_are_finite_numbers_in_range_or_refused(name, seed, dy):
    x, y = representations(seed, dy=dy)
    try:
        value = MEASURES[name](x, y)
    except (DegenerateError, UserError):
        return
    assert isinstance(value, float)
    assert math.isfinite(value)
    if name not in ("l2", "r2_original"):
        assert -1.0 - 1e-9 <= value <= 1.0 + 1e-9 or name in ("cka_unbiased", "cka_minibatch")


@pytest.mark.parametrize("name", ROTATION_INVARIANT)
@settings(max_examples=10, deadline=None)
@given(seed=SEEDS, scale=st.floats(0.01, 100))
def test_rotation_scale_and_shift_change_nothing(name, seed, scale):
    x, y = representations(seed)
    moved = scale * (y @ rotation(seed + 1, 4)) + 5.0
    assert MEASURES[name](x, moved) == pytest.approx(MEASURES[name](x, y), abs=1e-6)


@pytest.mark.parametrize("name", LINEARLY_INVARIANT)
@settings(max_examples=10, deadline=None)
@given(seed=SEEDS)
def test_invertible_maps_change_nothing_where_promised(name, seed):
    x, y = representations(seed)
    mixed = x @ (rotation(seed + 1, 4) * [0.2, 1, 3, 5] @ rotation(seed + 2, 4))
    assert MEASURES[name](mixed, y) == pytest.approx(MEASURES[name](x, y), abs=1e-6)


def test_cka_does_notice_invertible_maps():
    x, y = representations(0)
    assert abs(similarity.cka(x * [1, 1, 1, 30], y) - similarity.cka(x, y)) > 0.01


@pytest.mark.parametrize("name", SYMMETRIC)
@settings(max_examples=10, deadline=None)
@given(seed=SEEDS)
def test_both_directions_agree(name, seed):
    x, y = representations(seed)
    assert MEASURES[name](x, y) == pytest.approx(MEASURES[name](y, x), abs=1e-9)


@pytest.mark.parametrize("name", MEASURES)
@settings(max_examples=5, deadline=None)
@given(seed=SEEDS)
def test_the_order_of_images_does_not_matter(name, seed):
    x, y = representations(seed)
    order = np.random.default_rng(seed).permutation(len(x))
    # Mini-batches are other batches in another order.
    tolerance = 0.5 if name == "cka_minibatch" else 1e-6
    assert MEASURES[name](x[order], y[order]) == pytest.approx(MEASURES[name](x, y), abs=tolerance)


@pytest.mark.parametrize("name", MEASURES)
def test_independent_representations_are_far_below_equal_ones(name):
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(400, 4)), generator.normal(size=(400, 4))
    value = MEASURES[name](x, y)
    assert value > 1 if name == "l2" else value < 0.2


def test_moments_give_what_the_arrays_give():
    x, y = representations(1)
    for measure in MEASURES.values():
        if measure.from_moments:
            assert measure.from_moments(similarity.Moments.of(x, y)) == pytest.approx(measure(x, y), abs=1e-12)


def test_an_unknown_measure_suggests_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'svcca'"):
        get_measure("svca")


def test_nothing_here_needs_tensorflow():
    import subprocess
    import sys

    code = "import sys, keras_relu.similarity; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
