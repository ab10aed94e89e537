"""Closed-form fits against numerical values and against least squares."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_relu.activations import moments

QUADRATICS = [
    (0.0, 1.0, (0.1994711402, 0.5, 0.1994711402), 0.0112675854),
    (0.0, 2.0, (0.2820947918, 0.5, 0.1410473959), 0.0225351707),
    (0.5, 1.0, (0.2200408292, 0.5154297979, 0.1760326634), 0.0133453719),
    (-0.3, 0.49, (0.1507737847, 0.4900904516, 0.2599548012), 0.0063337503),
    (1.2, 6.25, (0.5468090288, 0.5137306898, 0.0711065057), 0.0826893558),
]
LINES = [
    (0.0, 1.0, (0.3989422804, 0.5), 0.0908450569),
    (0.0, 2.0, (0.5641895835, 0.5), 0.1816901138),
]


def quadrature(mean, variance, points=400):
    """Nodes and weights for E f(x), x ~ N(mean, variance), f smooth but for a kink at 0."""
    sigma = np.sqrt(variance)
    low, high = mean - 12 * sigma, mean + 12 * sigma
    nodes, weights = np.polynomial.legendre.leggauss(points)
    parts = [(low, min(max(0.0, low), high)), (min(max(0.0, low), high), high)]
    x = np.concatenate([(b - a) / 2 * nodes + (a + b) / 2 for a, b in parts])
    w = np.concatenate([(b - a) / 2 * weights for a, b in parts])
    return x, w * np.exp(-0.5 * ((x - mean) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))


def mean_square_error(coefficients, mean, variance):
    x, w = quadrature(mean, variance)
    return np.sum(w * (np.maximum(x, 0) - np.polynomial.polynomial.polyval(x, coefficients)) ** 2)


@pytest.mark.parametrize(("mean", "variance", "expected", "error"), QUADRATICS)
def test_quadratic_values(mean, variance, expected, error):
    fitted = moments.quadratic_fit(tf.constant(mean, tf.float64), variance).numpy()
    np.testing.assert_allclose(fitted, expected, atol=1e-9)
    assert mean_square_error(fitted, mean, variance) == pytest.approx(error, abs=1e-9)


@pytest.mark.parametrize(("mean", "variance", "expected", "error"), LINES)
def test_line_values(mean, variance, expected, error):
    fitted = moments.line_fit(tf.constant(mean, tf.float64), variance).numpy()
    np.testing.assert_allclose(fitted, expected, atol=1e-9)
    assert mean_square_error(fitted, mean, variance) == pytest.approx(error, abs=1e-9)


@pytest.mark.parametrize("fit", [moments.line_fit, moments.quadratic_fit])
def test_float32_channels_agree_with_float64(fit):
    mean, variance = np.array([0.0, 0.5, -0.3, 1.2]), np.array([1.0, 1.0, 0.49, 6.25])
    exact = fit(tf.constant(mean), variance)
    np.testing.assert_allclose(fit(tf.constant(mean, tf.float32), variance), exact, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.floats(-3, 3), st.floats(0.05, 9))
def test_fits_are_least_squares(mean, variance):
    x, w = quadrature(mean, variance)
    for fit, degree in ((moments.line_fit, 1), (moments.quadratic_fit, 2)):
        powers = np.vander(x, degree + 1, increasing=True)
        solved = np.linalg.solve(powers.T @ (w[:, None] * powers), powers.T @ (w * np.maximum(x, 0)))
        np.testing.assert_allclose(fit(tf.constant(mean, tf.float64), variance), solved, atol=1e-6)


def test_far_from_zero_the_fit_is_the_identity_or_zero():
    fitted = moments.quadratic_fit(tf.constant([40.0, -40.0]), [1.0, 1.0])
    np.testing.assert_allclose(fitted, [[0, 0], [1, 0], [0, 0]], atol=1e-6)
