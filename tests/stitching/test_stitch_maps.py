"""Starts, masks, direct maps and the loss of a stitch."""

import numpy as np
import pytest
import tensorflow as tf
from reference import alignment

from keras_relu import similarity
from keras_relu.errors import UserError
from keras_relu.similarity import Moments
from keras_relu.stitching import maps, step


def moments(dx=4, dy=4, seed=0):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(80, dx))
    y = x @ generator.normal(size=(dx, dy)) + generator.normal(size=(80, dy))
    return x, y, Moments.of(x, y)


def test_starts():
    x, y, both = moments()
    eye = maps.init_map("eye", (4, 4))
    assert np.array_equal(eye.weight, np.eye(4))
    assert not eye.bias.any()
    ones = maps.init_map("ones-zeros", (3, 4))
    assert ones.weight.shape == (4, 3)
    assert ones.weight.min() == ones.weight.max() == 1
    perm = maps.init_map("perm", (30, 30), seed=1).weight
    assert (perm.sum(0) == 1).all()
    assert (perm.sum(1) == 1).all()
    assert not np.array_equal(perm, maps.init_map("perm", (30, 30), seed=2).weight)
    random = maps.init_map("random", (100, 50), seed=1)
    assert np.abs(random.weight).max() <= 0.1
    assert np.abs(random.weight).max() > 0.09
    weight, bias = alignment.least_squares(x, y)
    fitted = maps.init_map("ps_inv", (4, 4), moments=both)
    np.testing.assert_allclose(fitted.weight, weight, atol=1e-9)
    np.testing.assert_allclose(fitted.bias, bias, atol=1e-9)


def test_low_rank_starts():
    _, _, both = moments()
    for init in ("random", "ps_inv"):
        low = maps.init_map(init, (4, 4), moments=both, rank=2)
        assert np.linalg.matrix_rank(low.weight, tol=1e-9) == 2
    singular = np.linalg.svd(maps.init_map("random", (6, 5), rank=2).weight, compute_uv=False)
    np.testing.assert_allclose(singular[:2], 1)


@pytest.mark.parametrize(("init", "match"), [("eye", "equally many"), ("perm", "equally many"), ("pinv", "init")])
def test_starts_that_cannot_be(init, match):
    with pytest.raises(UserError, match=match):
        maps.init_map(init, (3, 4))


def test_least_squares_needs_data():
    with pytest.raises(UserError, match="pass moments"):
        maps.init_map("ps_inv", (4, 4))
    with pytest.raises(UserError, match="pass moments"):
        maps.mask_matrix("semi-match", (4, 4))
    assert maps.needs_moments("random", "semi-match")
    assert not maps.needs_moments("eye", "random-permutation")


def test_masks():
    x, y, both = moments()
    table = alignment.correlation_table(x, y)
    assert maps.mask_matrix("identity", (4, 4)) is None
    semi = maps.mask_matrix("semi-match", (4, 4), moments=both)
    assert semi.argmax(1).tolist() == table.argmax(1).tolist()
    assert (semi.sum(1) == 1).all()
    absolute = maps.mask_matrix("abs-semi-match", (4, 4), moments=both)
    assert absolute.argmax(1).tolist() == np.abs(table).argmax(1).tolist()
    optimal = maps.mask_matrix("optimal-match", (4, 4), moments=both)
    assert optimal.argmax(1).tolist() == list(alignment.best_permutation(table))
    both_ways = maps.mask_matrix("abs-optimal-match", (4, 4), moments=both)
    assert (both_ways.sum(0) == 1).all()


def test_the_random_permutation_is_one():
    for seed in range(20):
        mask = maps.mask_matrix("random-permutation", (9, 9), seed=seed)
        assert (mask.sum(0) == 1).all()
        assert (mask.sum(1) == 1).all()
    wide = maps.mask_matrix("random-permutation", (9, 5))
    assert wide.shape == (5, 9)
    assert wide.sum(0).max() == 1


def test_masks_that_cannot_be():
    _, _, both = moments(3, 4)
    for mask in ("random-permutation", "optimal-match"):
        with pytest.raises(UserError, match="fewer than 4"):
            maps.mask_matrix(mask, (3, 4), moments=both)
    with pytest.raises(UserError, match="mask"):
        maps.mask_matrix("half", (4, 4))


def test_direct_maps():
    x, y, both = moments()
    found = maps.direct_maps(both, ranks=(2,))
    assert set(found) == {*maps.DIRECT_MAPS, "rank_2"}
    assert np.array_equal(found["identity"].weight, np.eye(4))
    np.testing.assert_allclose(found["rank_2"].weight, alignment.reduced_rank(x, y, 2), atol=1e-9)
    assert set(maps.direct_maps(moments(4, 3)[2])) == set(maps.DIRECT_MAPS) - {"identity"}
    assert set(maps.direct_maps(moments(3, 4)[2])) == set(maps.DIRECT_MAPS) - {"identity", "optimal_match"}
    with pytest.raises(UserError, match="direct map from 4 to 4"):
        maps.direct_maps(both, names=["inverse"])


def softmax(z):
    exponential = np.exp(z - z.max(axis=1, keepdims=True))
    return exponential / exponential.sum(axis=1, keepdims=True)


def test_targets_are_those_of_the_original():
    generator = np.random.default_rng(0)
    z, z1, z2 = (generator.normal(size=(6, 5)).astype("float32") for _ in range(3))
    labels = np.arange(6) % 5
    t = 2.0

    def soft(target):
        return -np.sum(softmax(target / t) * np.log(softmax(z / t)), axis=1)

    expected = {
        "hard": -np.log(softmax(z)[np.arange(6), labels]),
        "soft_1": soft(z1),
        "soft_2": soft(z2),
        "soft_12": (soft(z1) + soft(z2)) / 2,
        "soft_1_plus_2": soft((z1 + z2) / 2),
    }
    for target, values in expected.items():
        found = step.target_loss(target, z, labels, z1, z2, 1.0 if target == "hard" else t)
        np.testing.assert_allclose(found, values, rtol=1e-5)
    with pytest.raises(UserError, match="target"):
        step.target_loss("soft_3", z, labels, z1, z2)


def test_no_gradient_flows_to_the_target():
    z, target = tf.Variable(np.eye(3, dtype="float32")), tf.Variable(np.ones((3, 3), "float32"))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(step.soft_cross_entropy(z, target))
    gradients = tape.gradient(loss, [z, target])
    assert gradients[0] is not None
    assert gradients[1] is None


def test_the_cka_of_a_batch_is_the_measure_and_never_nan():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(12, 3, 3, 2)), generator.normal(size=(12, 4))
    found = step.batch_cka(tf.constant(x, tf.float32), tf.constant(y, tf.float32))
    assert float(found) == pytest.approx(similarity.cka(x, y), abs=1e-5)
    constant = tf.Variable(tf.ones([4, 3]))
    with tf.GradientTape() as tape:
        nothing = step.batch_cka(tf.zeros([4, 2]), constant)
    assert float(nothing) == 0.0
    assert np.all(tape.gradient(nothing, constant).numpy() == 0.0)
