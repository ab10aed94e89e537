"""Where the coefficients of a replacement come from, and the sets they are kept in."""

import numpy as np
import pytest
import tensorflow as tf

from keras_relu.activations import moments, replacements
from keras_relu.errors import UserError

ALL = ["identity", "line", "moment_line", "moment_quadratic", "quadratic", "scaled_quadratic"]


@pytest.mark.parametrize("name", ["identity", "line", "quadratic"])
def test_trained_replacements_start_as_the_identity(name):
    replacement = replacements.get(name)
    start = replacement.effective(tf.constant(replacement.initial(3))).numpy()
    np.testing.assert_array_equal(start[:2], [[0] * 3, [1] * 3])
    assert not start[2:].any()


def test_quadratic_scales_and_starts_its_square():
    replacement = replacements.Quadratic(scale_x2=0.5, initial_x2=0.01)
    effective = replacement.effective(tf.constant(replacement.initial(2)))
    np.testing.assert_allclose(effective, [[0, 0], [1, 1], [0.01, 0.01]])
    np.testing.assert_allclose(replacement.effective(tf.ones([3, 1])), [[1], [1], [0.5]])


def test_scaled_quadratic_is_fixed_numbers():
    np.testing.assert_allclose(replacements.ScaledQuadratic().initial(2), [[0, 0], [0.5, 0.5], [0.1, 0.1]])


def test_quadratic_slope_stays_within_its_bound():
    replacement = replacements.Quadratic(scale_x2=0.1, slope_bound=2.0)
    reach = tf.constant([4.0, 1.0, 0.25, 10.0])
    stored = tf.constant([[5.0] * 4, [0.5, -1.5, 0.0, 7.0], [100.0, -100.0, 0.1, 1.0]])
    constant, slope, curvature = replacement.project(stored, reach).numpy()
    np.testing.assert_allclose(constant, stored[0])
    np.testing.assert_allclose(slope, [0.5, -1.5, 0.0, 2.0])
    np.testing.assert_allclose(2 * 0.1 * np.abs(curvature) * reach, [1.5, 0.5, 0.005, 0.0], rtol=1e-6)
    np.testing.assert_array_equal(np.sign(curvature), [1, -1, 1, 0])


def test_quadratic_projection_without_reach_or_bounds():
    stored = tf.constant([[0.0], [1.0], [9.0]])
    still = replacements.Quadratic().project(stored, tf.zeros([1]))
    np.testing.assert_array_equal(still, stored)
    free = replacements.Quadratic(slope_bound=None).project(stored, tf.ones([1]))
    np.testing.assert_array_equal(free, stored)
    clipped = replacements.Quadratic(scale_x2=0.5, slope_bound=None, clip=0.2).project(stored, tf.ones([1]))
    np.testing.assert_allclose(clipped, [[0.0], [1.0], [0.4]])


def test_projection_leaves_the_others_alone():
    stored = tf.constant([[3.0], [4.0]])
    assert replacements.Line().project(stored, None) is stored


def test_moment_fits_use_the_standard_deviation_unshrunk():
    mean, variance = tf.constant([0.0, 0.5]), tf.constant([2.0, 1.0])
    for name, fit in (("moment_line", moments.line_fit), ("moment_quadratic", moments.quadratic_fit)):
        fitted = replacements.get(name).fit(mean, variance)
        np.testing.assert_allclose(fitted, fit(mean, variance))
        np.testing.assert_allclose(replacements.get(name).initial(2), fit([0.0, 0.0], [1.0, 1.0]))


def test_moment_options_are_explicit():
    mean, variance = tf.constant([0.0]), tf.constant([1e-8])
    replacement = replacements.MomentQuadratic(variance_floor=0.5, shrink=0.1, clip=0.02)
    floored = replacement.project(replacement.fit(mean, variance), None).numpy()
    exact = moments.quadratic_fit([0.0], [0.5]).numpy()
    np.testing.assert_allclose(floored, [0.1 * exact[0], exact[1], [0.02]])


def test_only_moment_replacements_have_a_fit():
    with pytest.raises(NotImplementedError):
        replacements.Line().fit(tf.zeros([1]), tf.ones([1]))


def test_refresh_period():
    replacement = replacements.MomentLine(refresh_period=3)
    assert [step for step in range(8) if replacement.refresh_due(step)] == [0, 3, 6]


@pytest.mark.parametrize("name", ALL)
def test_get_takes_names_configurations_and_instances(name):
    replacement = replacements.get(name)
    assert replacement.name == name
    assert replacements.get(replacement.get_config()) == replacement
    assert replacements.get(replacement) is replacement


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("quadratc", "Did you mean 'quadratic'"),
        ({"name": "line", "clip": 1}, "Unknown option"),
        (None, "received None"),
    ],
)
def test_get_refuses(wrong, message):
    with pytest.raises(UserError, match=message):
        replacements.get(wrong)


@pytest.mark.parametrize(
    "config",
    [
        {"name": "quadratic", "scale_x2": 0},
        {"name": "quadratic", "slope_bound": -1},
        {"name": "moment_quadratic", "clip": 0},
        {"name": "moment_line", "variance_floor": 0},
        {"name": "moment_line", "refresh_period": 0},
    ],
)
def test_options_must_be_positive(config):
    with pytest.raises(UserError, match="must be positive"):
        replacements.get(config)
