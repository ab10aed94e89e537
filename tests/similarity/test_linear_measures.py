"""CCA family, regression, Procrustes, l2, matching and closed-form maps against slow versions."""

import numpy as np
import pytest
import scipy.linalg
from reference import alignment

from keras_relu import similarity
from keras_relu.errors import UserError
from keras_relu.similarity import DegenerateError, Moments


def pair(n=60, dx=5, dy=4, seed=0):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(n, dx)) * [1, 2, 0.5, 3, 1][:dx] + 2.0
    return x, x @ generator.normal(size=(dx, dy)) + generator.normal(size=(n, dy)) - 1.0


def test_canonical_correlations_equal_those_of_orthonormal_bases():
    x, y = pair()
    found = similarity.canonical_correlations(Moments.of(x, y))
    np.testing.assert_allclose(found, alignment.canonical_correlations(x, y), atol=1e-10)
    assert similarity.cca(x, y) == pytest.approx(np.mean(found**2), abs=1e-12)


@pytest.mark.parametrize("variance", [0.5, 0.9, 0.99, 1.0])
def test_svcca_equals_the_truncated_svd(variance):
    x, y = pair()
    expected = alignment.svcca(x, y, min(variance, 1 - 1e-12))
    assert similarity.svcca(x, y, variance=variance) == pytest.approx(expected, abs=1e-10)


def test_pwcca_and_regression_and_procrustes():
    x, y = pair()
    assert similarity.pwcca(x, y) == pytest.approx(alignment.pwcca(x, y), abs=1e-10)
    assert similarity.linear_regression(x, y) == pytest.approx(alignment.regression_r2(x, y), abs=1e-10)
    a, b = (alignment.centred(side) for side in (x[:, :4], y))
    nuclear = scipy.linalg.orthogonal_procrustes(a, b)[1]
    expected = nuclear / (np.linalg.norm(a) * np.linalg.norm(b))
    assert similarity.procrustes(x[:, :4], y) == pytest.approx(expected, abs=1e-10)


def test_repeated_and_constant_features_change_no_cca():
    x, y = pair()
    padded = np.hstack([x, x[:, :2], np.full((60, 1), 4.2)])
    for measure in (similarity.cca, similarity.svcca, similarity.linear_regression):
        assert measure(padded, y) == pytest.approx(measure(x, y), abs=1e-6 if measure is not similarity.svcca else 0.05)


def test_too_few_images_are_refused_where_the_value_would_mean_nothing():
    x, y = pair()
    with pytest.raises(DegenerateError, match="At least 10 are needed"):
        similarity.cca(x[:9], y[:9])
    assert 0 < similarity.cca(x[:12], y[:12]) <= 1
    with pytest.raises(DegenerateError, match="any Y is explained"):
        similarity.linear_regression(x[:6], y[:6])
    generator = np.random.default_rng(0)
    with pytest.raises(DegenerateError, match="by construction"):
        similarity.cca(generator.normal(size=(20, 50)), generator.normal(size=(20, 50)))


def test_dead_layers_are_refused_by_every_measure():
    x, y = pair()
    for measure in (similarity.cca, similarity.svcca, similarity.pwcca, similarity.linear_regression):
        for samples in ("images", "pixels"):
            with pytest.raises(DegenerateError, match="X is dead"):
                measure(np.full_like(x, 0.1), y, samples=samples)
    with pytest.raises(DegenerateError, match="Y is dead"):
        similarity.procrustes(x, np.zeros_like(y))
    with pytest.raises(DegenerateError, match="dead"):
        similarity.correlation_match(x, np.zeros_like(y))
    with pytest.raises(DegenerateError, match="at least 2"):
        similarity.cca(x[:1], y[:1])


def test_pixels_are_samples_when_asked():
    generator = np.random.default_rng(3)
    x, y = generator.normal(size=(10, 3, 3, 4)), generator.normal(size=(10, 3, 3, 2))
    rows = x.reshape(90, 4), y.reshape(90, 2)
    assert similarity.cca(x, y, samples="pixels") == pytest.approx(similarity.cca(*rows), abs=1e-12)
    with pytest.raises(UserError, match="pixel by pixel"):
        similarity.cca(x, y[:, :2], samples="pixels")
    with pytest.raises(UserError, match="'images' and 'pixels'"):
        similarity.cca(x, y, samples="channels")


def test_l2_is_a_mean_of_squares():
    x, y = pair(dy=5)
    assert similarity.l2(x, y) == pytest.approx(np.mean((x - y) ** 2))
    assert Moments.of(x, y).mean_square_difference() == pytest.approx(np.mean((x - y) ** 2), abs=1e-12)
    assert similarity.l2(x, x) == 0
    with pytest.raises(UserError, match="equal shapes"):
        similarity.l2(x, y[:, :2])
    with pytest.raises(UserError, match="equally many"):
        Moments.of(x, y[:, :2]).mean_square_difference()


def test_options_are_checked():
    x, y = pair()
    with pytest.raises(UserError, match="variance"):
        similarity.svcca(x, y, variance=0)
    with pytest.raises(UserError, match="rank is 5; allowed is 1 to 4"):
        similarity.reduced_rank_map(Moments.of(x, y), 5)
    with pytest.raises(UserError, match="ridge"):
        similarity.least_squares(Moments.of(x, y), ridge=-1)
    with pytest.raises(UserError, match="matching"):
        similarity.correlation_match(x, y, matching="stable")
    with pytest.raises(UserError, match="two axes"):
        similarity.match(np.zeros(3), "semi")


def test_moments_of_batches_in_any_order_are_those_of_all_rows():
    x, y = pair(101)
    x, y = x + 1e4, y
    parts = Moments(5, 4)
    for start in (40, 0, 90, 91):
        stop = {40: 90, 0: 40, 90: 91, 91: 101}[start]
        parts.update(x[start:stop], y[start:stop])
    whole = Moments.of(x, y)
    for name in ("mean_x", "mean_y", "xx", "xy", "yy"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-9, atol=1e-7)
    np.testing.assert_allclose(whole.xx, alignment.centred(x).T @ alignment.centred(x), atol=1e-7)
    part = whole.select(slice(1, 3), slice(0, 2))
    np.testing.assert_array_equal(part.xy, whole.xy[1:3, 0:2])
    twice = Moments.merged([whole, whole])
    np.testing.assert_allclose(twice.xx, 2 * whole.xx)
    with pytest.raises(UserError, match="do not fit"):
        whole.update(x[:3], y[:2])
    with pytest.raises(DegenerateError, match="NaN"):
        whole.update(np.full((2, 5), np.nan), y[:2])


def test_correlations_and_matchings():
    x, y = pair()
    table = similarity.correlation_matrix(x, y)
    np.testing.assert_allclose(table, alignment.correlation_table(x, y), atol=1e-12)
    assert similarity.correlation_match(x, y) == pytest.approx(table.max(axis=1).mean())
    assert similarity.correlation_match(x, y, absolute=True) == pytest.approx(np.abs(table).max(axis=1).mean())
    best = alignment.best_permutation(table)
    assert similarity.match(table, "optimal").tolist() == list(best)
    expected = np.mean([table[i, j] for i, j in enumerate(best)])
    assert similarity.correlation_match(x, y, matching="optimal") == pytest.approx(expected)
    assert similarity.match(table.T, "optimal").tolist().count(-1) == 1


def test_a_dead_channel_correlates_with_nothing():
    x, y = pair()
    x[:, 2] = 5.1
    table = similarity.correlation_matrix(x, y)
    assert np.isfinite(table).all()
    assert not table[:, 2].any()


def test_least_squares_is_the_pseudo_inverse_of_the_original():
    x, y = pair()
    fitted = similarity.least_squares(Moments.of(x, y))
    weight, bias = alignment.least_squares(x, y)
    np.testing.assert_allclose(fitted.weight, weight, atol=1e-10)
    np.testing.assert_allclose(fitted.bias, bias, atol=1e-10)
    np.testing.assert_allclose(fitted(x), x @ weight.T + bias, atol=1e-9)


def test_least_squares_from_a_layer_to_itself_is_the_identity():
    x, _ = pair(500)
    fitted = similarity.least_squares(Moments.of(x, x))
    np.testing.assert_allclose(fitted.weight, np.eye(5), atol=1e-12)
    np.testing.assert_allclose(fitted.bias, 0, atol=1e-12)


def test_collinear_and_dead_channels_leave_a_usable_map():
    x, y = pair(300)
    doubled = np.hstack([x, x[:, :1] + 1e-9 * np.random.default_rng(0).normal(size=(300, 1)), np.full((300, 1), 2.0)])
    fitted = similarity.least_squares(Moments.of(doubled, y))
    assert np.isfinite(fitted.weight).all()
    assert (
        np.mean((fitted(doubled) - y) ** 2) <= np.mean((similarity.least_squares(Moments.of(x, y))(x) - y) ** 2) + 1e-6
    )


def test_ridge_shrinks():
    x, y = pair()
    norms = [np.linalg.norm(similarity.least_squares(Moments.of(x, y), ridge=r).weight) for r in (0, 0.1, 10)]
    assert norms[0] > norms[1] > norms[2] > 0


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_reduced_rank_is_that_of_the_original(rank):
    x, y = pair()
    fitted = similarity.reduced_rank_map(Moments.of(x, y), rank, bias=False)
    np.testing.assert_allclose(fitted.weight, alignment.reduced_rank(x, y, rank), atol=1e-9)
    assert np.linalg.matrix_rank(fitted.weight, tol=1e-8) == rank
    centred = similarity.reduced_rank_map(Moments.of(x, y), rank)
    assert np.mean((centred(x) - y) ** 2) <= np.mean((fitted(x) - y) ** 2) + 1e-12


def test_a_rotation_is_found_again():
    x, _ = pair(200)
    rotation = np.linalg.qr(np.random.default_rng(5).normal(size=(5, 5)))[0]
    fitted = similarity.orthogonal_map(Moments.of(x, x @ rotation.T + 3.0))
    np.testing.assert_allclose(fitted.weight, rotation, atol=1e-9)
    np.testing.assert_allclose(fitted.bias, 3.0, atol=1e-9)
    plain = similarity.orthogonal_map(Moments.of(x, x @ rotation.T), centred=False)
    np.testing.assert_allclose(plain.weight, rotation, atol=1e-9)
    assert not plain.bias.any()


def test_the_originals_variants_are_not_centred():
    x, y = pair()
    qx, qy = np.linalg.qr(x)[0], np.linalg.qr(y)[0]
    assert similarity.cca_original(x, y) == pytest.approx(np.sum((qy.T @ qx) ** 2) / 5)
    assert similarity.lr_original(x, y) == pytest.approx(np.sum((qy.T @ x) ** 2) / np.sum(x**2))
    small = np.random.default_rng(0).normal(size=(20, 50))
    assert similarity.cca_original(small, small[::-1]) == pytest.approx(1.0)
    a, b = x[:, :4], y
    expected = np.mean(1 - np.sum((a - b) ** 2, 0) / np.sum((a - a.mean(0)) ** 2, 0))
    assert similarity.r2_original(a, b) == pytest.approx(expected)
    assert similarity.sq_sum_original(a, b) == pytest.approx(np.sum((a - b) ** 2))
    with pytest.raises(UserError, match="equal shapes"):
        similarity.r2_original(x, y)
    with pytest.raises(DegenerateError, match="constant"):
        similarity.r2_original(np.ones_like(b), b)
    with pytest.raises(DegenerateError, match="zero everywhere"):
        similarity.lr_original(np.zeros_like(b), b)
