"""Wrap, freeze, strip: the copy computes the same, the budget is met, and nothing of the search is left."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_relu import counting, surgery
from keras_relu.activations import FixedActivation, MaskedReLU
from keras_relu.errors import UserError
from keras_relu.replacement import freeze, gated_layers, kept_count, lifecycle, masks, replace_relus, strip
from keras_relu.replacement.config import REPLACEMENTS

L = keras.layers
SHAPE = (6, 6, 2)
SITES = {"first_relu": (6, 6, 4), "second": (3, 3, 4), "third": (5,)}
TOTAL = sum(math.prod(shape) for shape in SITES.values())


def network(batch_norm=True):
    keras.utils.set_random_seed(1)
    inputs = keras.Input(SHAPE)
    x = L.Conv2D(4, 3, padding="same", activation="relu", name="first")(inputs)
    x = L.Conv2D(4, 3, strides=2, padding="same")(x)
    x = L.ReLU(name="second")(L.BatchNormalization()(x) if batch_norm else x)
    x = L.Activation("relu", name="third")(L.Dense(5)(L.Flatten()(x)))
    return keras.Model(inputs, L.Dense(3)(x), name="net")


def images(count=8, seed=0):
    return np.random.default_rng(seed).normal(size=(count, *SHAPE)).astype(np.float32)


def gate(model, seed=0, kept=0.5, scale=1.0):
    """Random scores, a random mask and random coefficients at every site."""
    rng = np.random.default_rng(seed)
    for layer in gated_layers(model):
        layer.score.assign(scale * rng.uniform(-1, 1, layer.score.shape))
        layer.mask.assign(rng.uniform(size=layer.mask.shape) < kept)
        if layer.coefficients is not None:
            layer.coefficients.assign(rng.normal(0, 0.3, layer.coefficients.shape))
    return model


def difference(first, second):
    return float(np.max(np.abs(first(images(), training=False) - second(images(), training=False))))


@functools.cache
def original():
    """The network, for tests that do not change it."""
    return network()


@functools.cache
def wrapped_by(replacement):
    """A gated network whose scores, masks and coefficients a test may overwrite."""
    return replace_relus(original(), replacement=replacement)


@pytest.fixture(scope="module")
def gated():
    return wrapped_by("quadratic")


class TestWrap:
    @pytest.mark.parametrize(
        ("replacement", "granularity"),
        [*((name, "element") for name in REPLACEMENTS), ("quadratic", "channel"), ("quadratic", "layer")],
    )
    def test_it_computes_what_the_network_computes_until_a_mask_changes(self, replacement, granularity):
        model = original()
        wrapped = replace_relus(model, replacement=replacement, granularity=granularity)
        assert {layer.name: layer.full_mask().shape for layer in gated_layers(wrapped)} == SITES
        assert difference(model, wrapped) == 0
        assert kept_count(wrapped) == TOTAL == counting.count(wrapped).relu_count

    def test_options_reach_every_site(self):
        wrapped = replace_relus(
            network(),
            gate={"name": "hysteresis", "tau": 0.01},
            replacement={"name": "quadratic", "scale_x2": 0.5},
            surrogate="relu",
            mask_dropout=0.1,
            seed=7,
        )
        for layer in gated_layers(wrapped):
            config = layer.get_config()
            assert (config["gate"]["tau"], config["replacement"]["scale_x2"]) == (0.01, 0.5)
            assert (config["surrogate"], config["mask_dropout"], config["seed"]) == ("relu", 0.1, 7)

    def test_relu6_keeps_its_bound(self):
        inputs = keras.Input((40,))
        model = keras.Model(inputs, L.ReLU(6.0, name="act")(inputs))
        wrapped = replace_relus(model)
        x = np.linspace(-10, 10, 80, dtype=np.float32).reshape(2, 40)
        np.testing.assert_array_equal(wrapped(x), np.clip(x, 0, 6))
        for kept in (1.0, 0.5, 0.0):
            gate(wrapped, kept=kept)
            np.testing.assert_allclose(strip(wrapped)(x), wrapped(x), atol=1e-6)

    def test_wrapping_twice_is_refused(self, gated):
        with pytest.raises(UserError, match="has no ReLU to replace"):
            replace_relus(gated)

    def test_a_network_without_relus_is_refused(self):
        inputs = keras.Input((4,))
        with pytest.raises(UserError, match="Model 'plain' has no ReLU to replace"):
            replace_relus(keras.Model(inputs, L.Dense(2)(inputs), name="plain"))

    @pytest.mark.parametrize("act", [gated_layers, masks, kept_count, strip, lambda model: freeze(model, 1)])
    def test_an_ungated_network_is_refused_by_the_other_steps(self, act):
        with pytest.raises(UserError, match="Model 'net' has no gated activation; call replace_relus first"):
            act(original())

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"replacement": "quadratics"}, "Did you mean 'quadratic'"),
            ({"gate": "hysteresys"}, "Did you mean 'hysteresis'"),
            ({"granularity": "channels"}, "Did you mean 'channel'"),
            ({"surrogate": "false"}, "Allowed: relu, true"),
        ],
    )
    def test_unknown_names_are_refused(self, options, message):
        with pytest.raises(UserError, match=message):
            replace_relus(original(), **options)


class TestMasks:
    def test_they_are_whole_images_of_uint8_whatever_the_granularity(self):
        wrapped = gate(replace_relus(original(), granularity="channel"))
        found = masks(wrapped)
        assert {name: (mask.shape, mask.dtype) for name, mask in found.items()} == {
            name: (shape, np.uint8) for name, shape in SITES.items()
        }
        assert sum(int(mask.sum()) for mask in found.values()) == kept_count(wrapped)
        assert all(len(np.unique(mask[..., 0])) == 1 for mask in found.values())

    @pytest.mark.parametrize(
        ("granularity", "expected"), [("element", [1, 1, 1]), ("channel", [36, 9, 1]), ("layer", [144, 36, 5])]
    )
    def test_elements_per_score(self, granularity, expected):
        wrapped = replace_relus(original(), granularity=granularity)
        assert [lifecycle.elements_per_score(layer) for layer in gated_layers(wrapped)] == expected

    @settings(max_examples=15)
    @given(keep=st.integers(0, TOTAL), margin=st.sampled_from([0.0, 0.02, 1.0]), seed=st.integers(0, 99))
    def test_set_masks_keeps_as_many_as_asked(self, gated, keep, margin, seed):
        gate(gated, seed)
        lifecycle.set_masks(gated, keep, margin=margin)
        assert kept_count(gated) == keep


class TestFreeze:
    # Running means of squared gradients are tiny, scores of the straight-through search are of order one.
    @settings(max_examples=25)
    @given(
        budget=st.integers(0, TOTAL),
        kept=st.floats(0, 1),
        scale=st.sampled_from([1.0, 1e-9, 1e4]),
        seed=st.integers(0, 99),
    )
    def test_the_best_of_those_kept_stay_and_the_budget_is_met(self, gated, budget, kept, scale, seed):
        gate(gated, seed, kept, scale)
        scores = np.concatenate([np.ravel(layer.score) for layer in gated_layers(gated)])
        before = np.concatenate([np.ravel(layer.mask) for layer in gated_layers(gated)]) == 1
        count = freeze(gated, budget)
        after = np.concatenate([np.ravel(layer.mask) for layer in gated_layers(gated)]) == 1
        assert count == kept_count(gated) == after.sum() == min(budget, before.sum())
        assert not (after & ~before).any()
        gone = before & ~after
        if gone.any() and after.any():
            assert scores[after].min() >= scores[gone].max()

    @pytest.mark.parametrize("granularity", ["channel", "layer"])
    @pytest.mark.parametrize("budget", [0, 1, 40, 100, TOTAL])
    def test_groups_stay_below_the_budget(self, granularity, budget):
        wrapped = replace_relus(original(), granularity=granularity)
        gate(wrapped, kept=0.9)
        assert freeze(wrapped, budget) == kept_count(wrapped) <= budget

    def test_equal_scores_do_not_break_the_budget(self, gated):
        gate(gated, kept=1.0)
        for layer in gated_layers(gated):
            layer.score.assign(tf.ones_like(layer.score))
        assert freeze(gated, 17) == 17

    @pytest.mark.parametrize("budget", [-1, TOTAL + 1])
    def test_a_budget_out_of_range_is_refused(self, gated, budget):
        with pytest.raises(UserError, match=rf"is out of range: the network has {TOTAL} ReLUs"):
            freeze(gated, budget)

    def test_a_score_that_is_not_finite_is_refused(self, gated):
        gate(gated, kept=1.0)
        gated_layers(gated)[0].score.assign(tf.fill(gated_layers(gated)[0].score.shape, np.nan))
        with pytest.raises(UserError, match="score is NaN or infinite"):
            freeze(gated, 3)


class TestStrip:
    @pytest.mark.parametrize("kept", [0.0, 0.5, 1.0])
    @pytest.mark.parametrize("replacement", REPLACEMENTS)
    def test_it_computes_the_same_from_plain_layers(self, replacement, kept):
        wrapped = gate(wrapped_by(replacement), kept=kept)
        plain = strip(wrapped)
        assert difference(wrapped, plain) <= 1e-6
        assert counting.count(plain).relu_count == kept_count(wrapped)
        assert not any(isinstance(layer, MaskedReLU) for layer in surgery.iter_layers(plain))
        assert [weight.shape for weight in plain.weights] == [weight.shape for weight in original().weights]

    @pytest.mark.parametrize(
        ("replacement", "kept"), [("quadratic", 0.5), ("line", 0.0), ("identity", 0.5), ("identity", 1.0)]
    )
    def test_it_survives_the_file(self, tmp_path, replacement, kept):
        plain = strip(gate(wrapped_by(replacement), kept=kept))
        plain.save(tmp_path / "plain.keras")
        loaded = keras.models.load_model(tmp_path / "plain.keras")
        assert difference(plain, loaded) == 0
        assert counting.count(loaded).to_dict() == counting.count(plain).to_dict()

    @pytest.mark.parametrize("granularity", ["channel", "layer"])
    def test_coarse_gates(self, granularity):
        wrapped = gate(replace_relus(original(), granularity=granularity))
        assert difference(wrapped, strip(wrapped)) <= 1e-6

    @pytest.mark.parametrize(
        ("replacement", "kept", "kind"),
        [
            ("quadratic", 1.0, L.ReLU),
            ("identity", 0.0, L.Activation),
            ("identity", 0.5, FixedActivation),
            ("line", 0.0, FixedActivation),
        ],
    )
    def test_every_site_becomes_the_plainest_layer_that_will_do(self, replacement, kept, kind):
        plain = strip(gate(wrapped_by(replacement), kept=kept))
        assert {type(plain.get_layer(name)) for name in SITES} == {kind}

    def test_the_gated_network_is_left_as_it_is_and_everything_can_be_trained_again(self):
        wrapped = gate(replace_relus(original()))
        wrapped.layers[1].trainable = False
        before = [weight.numpy() for weight in wrapped.weights]
        plain = strip(wrapped)
        assert len(plain.trainable_weights) == len(original().trainable_weights)
        assert all(np.array_equal(a, b) for a, b in zip(before, wrapped.weights, strict=True))


@pytest.mark.parametrize("replacement", REPLACEMENTS)
def test_inference_changes_nothing(replacement):
    wrapped = gate(replace_relus(network(), replacement=replacement, mask_dropout=0.5))
    before = [weight.numpy() for weight in wrapped.weights]
    first = wrapped(images(), training=False)
    np.testing.assert_array_equal(wrapped(images(), training=False), first)
    wrapped.predict(images(), verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(before, wrapped.weights, strict=True))


@pytest.mark.parametrize("replacement", ["identity", "line"])
def test_without_relus_and_with_lines_the_network_is_exactly_linear(replacement):
    """Small whole numbers everywhere, so that float32 rounds nothing: f(x) + f(y) - f(0) = f(x + y) to the last bit."""
    rng = np.random.default_rng(0)
    wrapped = gate(replace_relus(network(batch_norm=False), replacement=replacement), kept=0.0)
    for weight in wrapped.trainable_weights:
        weight.assign(rng.integers(-1, 2, weight.shape))
    plain = strip(wrapped)
    x, y = (rng.integers(-3, 4, (4, *SHAPE)).astype(np.float32) for _ in range(2))
    for model in (wrapped, plain):
        f = [model(z, training=False).numpy() for z in (x, y, np.zeros_like(x), x + y)]
        np.testing.assert_array_equal(f[0] + f[1] - f[2], f[3])
        assert np.abs(f[0] - f[2]).max() > 0
