"""The layer: state, explicit steps, serialisation, precision and replicas."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from reference import gated as reference

from keras_relu.activations import FixedActivation, MaskedReLU, masked_relu, moments
from keras_relu.activations.gates import Hysteresis, Threshold
from keras_relu.activations.replacements import MomentQuadratic, Quadratic
from keras_relu.errors import UserError

REPLACEMENTS = ["identity", "line", "moment_line", "moment_quadratic", "quadratic", "scaled_quadratic"]
SHAPE = (4, 3, 2)


def images(batch=8, shape=SHAPE, seed=0):
    return np.random.default_rng(seed).normal(size=(batch, *shape)).astype(np.float32)


def built(shape=SHAPE, **options):
    layer = MaskedReLU(name="act", **options)
    layer.build((None, *shape))
    return layer


def halved(shape=SHAPE, **options):
    """A layer that keeps about half of its ReLUs and whose coefficients are no longer the starting ones."""
    layer = built(shape, **options)
    rng = np.random.default_rng(3)
    layer.score.assign(rng.uniform(-1, 1, layer.score.shape))
    layer.update_mask()
    if layer.coefficients is not None:
        layer.coefficients.assign(rng.normal(size=layer.coefficients.shape))
    return layer


def values(layer):
    return [weight.numpy() for weight in layer.weights]


def same(before, after):
    return all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("granularity", "shape", "expected"),
    [
        ("element", SHAPE, SHAPE),
        ("channel", SHAPE, (1, 1, 2)),
        ("layer", SHAPE, (1, 1, 1)),
        ("element", (5,), (5,)),
        ("channel", (5,), (5,)),
        ("layer", (5,), (1,)),
    ],
)
@pytest.mark.parametrize("replacement", REPLACEMENTS)
def test_shapes_of_the_weights(granularity, shape, expected, replacement):
    layer = built(shape, granularity=granularity, replacement=replacement)
    assert layer.score.shape == layer.mask.shape == expected
    assert layer.score.trainable
    assert not layer.mask.trainable
    if layer.coefficients is not None:
        assert layer.coefficients.shape == (layer.replacement.degree + 1, shape[-1])
        assert layer.coefficients.trainable == (replacement in ("line", "quadratic"))
    assert (layer.moving_mean is not None) == (replacement in ("moment_line", "moment_quadratic"))
    assert (layer.reach is not None) == (replacement in ("quadratic", "moment_quadratic"))
    assert layer(images(2, shape)).shape == (2, *shape)


@pytest.mark.parametrize("replacement", REPLACEMENTS)
def test_a_new_layer_is_relu(replacement):
    x = images()
    np.testing.assert_array_equal(built(replacement=replacement)(x), np.maximum(x, 0))


@pytest.mark.parametrize("replacement", REPLACEMENTS)
@pytest.mark.parametrize("granularity", ["element", "channel", "layer"])
def test_outputs_equal_the_oracle(replacement, granularity):
    layer = halved(replacement=replacement, granularity=granularity)
    stored = layer.replacement.initial(2) if layer.coefficients is None else layer.coefficients
    weights = layer.replacement.effective(tf.constant(stored)).numpy()
    x = images(3)
    expected = reference.gated(x, np.zeros(SHAPE), layer.full_mask(), weights, np.zeros_like(x))
    np.testing.assert_allclose(layer(x), expected.y, rtol=1e-5, atol=1e-6)


def test_scores_are_uniform_seeded_and_differ_between_sites():
    def scores(name, seed):
        layer = MaskedReLU(name=name, seed=seed)
        layer.build((None, 40, 40))
        return layer.score.numpy()

    first = scores("a", 1)
    assert 0 <= first.min() < 0.01 < 0.99 < first.max() < 1
    np.testing.assert_array_equal(first, scores("a", 1))
    assert not np.array_equal(first, scores("b", 1))
    assert not np.array_equal(first, scores("a", 2))
    np.testing.assert_array_equal(built(score_initializer=0.25).score, np.full(SHAPE, 0.25))


def test_update_mask_applies_the_gate():
    for gate in (Threshold(), Hysteresis(tau=0.5)):
        layer = built(gate=gate)
        layer.score.assign(np.linspace(-1, 1, 24).reshape(SHAPE))
        layer.update_mask()
        expected = gate.update(layer.score, tf.ones(SHAPE))
        np.testing.assert_array_equal(layer.mask, expected)
        assert layer.relu_count() == int(np.sum(expected))


@pytest.mark.parametrize("replacement", REPLACEMENTS)
def test_inference_changes_nothing(replacement):
    model = keras.Sequential([keras.Input(SHAPE), MaskedReLU(replacement=replacement, mask_dropout=0.5)])
    before = values(model)
    model.compile(loss="mse")
    model.predict(images(), verbose=0)
    model.evaluate(images(), images(), verbose=0)
    model(images())
    model(images(), training=False)
    assert same(before, values(model))


def test_only_training_calls_move_the_moments_and_only_those():
    layer = halved(replacement="moment_quadratic", statistics_images=4)
    mask, coefficients = layer.mask.numpy(), layer.coefficients.numpy()
    x = images()
    layer(x, training=True)
    np.testing.assert_allclose(layer.moving_mean, 0.1 * x[:4].mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, 0.9 + 0.1 * x[:4].var((0, 1, 2)), rtol=1e-5)
    np.testing.assert_array_equal(layer.mask, mask)
    np.testing.assert_array_equal(layer.coefficients, coefficients)


def test_reach_is_a_running_maximum_that_forgets_slowly():
    layer = built(replacement="quadratic", statistics_images=4)
    x = images()
    layer(x, training=True)
    largest = np.abs(x[:4]).max((0, 1, 2))
    np.testing.assert_allclose(layer.reach, largest, rtol=1e-6)
    layer(0.5 * x, training=True)
    np.testing.assert_allclose(layer.reach, (0.998 + 0.002 * 0.5) * largest, rtol=1e-6)
    layer(x)
    np.testing.assert_allclose(layer.reach, (0.998 + 0.002 * 0.5) * largest, rtol=1e-6)


def test_a_symbolic_training_flag_switches_the_moments():
    layer = built(replacement="moment_quadratic")
    call = tf.function(lambda x, training: layer(x, training=training))
    call(images(), tf.constant(False))
    assert not layer.moving_mean.numpy().any()
    call(images(), tf.constant(True))
    assert layer.moving_mean.numpy().all()


def test_moments_of_dense_inputs():
    layer = built((3,), replacement="moment_line")
    x = images(16, (3,))
    layer(x, training=True)
    np.testing.assert_allclose(layer.moving_mean, 0.1 * x.mean(0), rtol=1e-5)


def test_refresh_coefficients_fits_the_moments():
    layer = built(replacement=MomentQuadratic(variance_floor=0.1))
    layer.moving_mean.assign([0.5, -0.3])
    layer.moving_variance.assign([1.0, 0.01])
    layer.refresh_coefficients()
    np.testing.assert_allclose(layer.coefficients, moments.quadratic_fit([0.5, -0.3], [1.0, 0.1]))


def test_refresh_coefficients_bounds_the_slope():
    layer = built(replacement=MomentQuadratic(slope_bound=1.0))
    layer.moving_mean.assign([0.0, 0.0])
    layer.moving_variance.assign([1.0, 1.0])
    layer.reach.assign([10.0, 0.1])
    layer.refresh_coefficients()
    exact = moments.quadratic_fit([0.0, 0.0], [1.0, 1.0]).numpy()
    np.testing.assert_allclose(layer.coefficients[:2], exact[:2])
    np.testing.assert_allclose(layer.coefficients[2], [0.5 / (2 * 10.0), exact[2, 1]], rtol=1e-6)


def test_project_coefficients_bounds_the_slope():
    layer = built(replacement=Quadratic(scale_x2=1.0, slope_bound=1.0))
    layer.coefficients.assign([[0, 0], [0.5, 0.5], [5, 0.01]])
    layer.reach.assign([4.0, 1.0])
    layer.project_coefficients()
    np.testing.assert_allclose(layer.coefficients, [[0, 0], [0.5, 0.5], [0.0625, 0.01]])


@pytest.mark.parametrize("replacement", ["identity", "line", "scaled_quadratic"])
def test_steps_without_effect_change_nothing(replacement):
    layer = halved(replacement=replacement)
    before = values(layer)
    layer.refresh_coefficients()
    layer.project_coefficients()
    assert same(before, values(layer))


@pytest.mark.parametrize("replacement", ["line", "quadratic"])
def test_gradients_reach_scores_and_coefficients(replacement):
    layer = halved(replacement=replacement, gradient_fraction=0.5, surrogate="relu")
    x = tf.constant(images())
    with tf.GradientTape() as tape:
        y = layer(x)
    gradients = tape.gradient(y, layer.trainable_weights)
    with tf.GradientTape() as tape:
        score, stored = tf.constant(layer.score), tf.constant(layer.coefficients)
        tape.watch([score, stored])
        effective = layer.replacement.effective(stored)
        y = masked_relu(x, score, tf.constant(layer.mask), effective, surrogate="relu", gradient_fraction=0.5)
    for result, expected in zip(gradients, tape.gradient(y, [score, stored]), strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_mask_dropout_uses_relu_at_the_whole_site_some_of_the_time():
    layer = halved(mask_dropout=0.5)
    x = tf.constant(images(2))
    gated, dropped, gradients = layer(x).numpy(), [], []
    for _ in range(20):
        with tf.GradientTape() as tape:
            y = layer(x, training=True)
        dropped.append(np.array_equal(y, np.maximum(x, 0)))
        assert dropped[-1] or np.array_equal(y, gated)
        gradients.append(np.any(tape.gradient(y, layer.score)))
    assert 4 <= sum(dropped) <= 16
    assert [not g for g in gradients] == dropped
    layer.calls.assign(0)
    again = [np.array_equal(layer(x, training=True), np.maximum(x, 0)) for _ in range(20)]
    assert again == dropped


def configured():
    return MaskedReLU(
        Hysteresis(tau=0.5), Quadratic(scale_x2=0.3, clip=2.0), "relu", "channel",
        mask_dropout=0.1, score_initializer=0.5, gradient_fraction=0.25, statistics_images=3, max_value=6.0, seed=7,
        name="site",
    )  # fmt: skip


def test_config_round_trip():
    layer = configured()
    again = MaskedReLU.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert (again.gate, again.replacement) == (layer.gate, layer.replacement)
    arguments = ["surrogate", "granularity", "mask_dropout", "score_initializer", "gradient_fraction"]
    for name in [*arguments, "statistics_images", "max_value", "seed", "name"]:
        assert getattr(again, name) == getattr(layer, name)


@pytest.mark.parametrize("replacement", REPLACEMENTS)
@pytest.mark.parametrize("granularity", ["element", "channel", "layer"])
def test_keras_file_round_trip(replacement, granularity, tmp_path):
    layer = MaskedReLU(replacement=replacement, granularity=granularity, gate={"name": "hysteresis", "tau": 0.1})
    model = keras.Sequential([keras.Input(SHAPE), layer])
    rng = np.random.default_rng(1)
    layer.set_weights([abs(rng.normal(size=w.shape)).astype(w.dtype.as_numpy_dtype) for w in layer.weights])
    layer.mask.assign(np.round(rng.uniform(size=layer.mask.shape)))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert same(values(model), values(loaded))
    np.testing.assert_array_equal(model(images()), loaded(images()))


def test_saved_model_round_trip(tmp_path):
    layer = halved(replacement="quadratic")
    x = keras.Input(SHAPE)
    keras.Model(x, layer(x)).export(tmp_path / "saved")
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    np.testing.assert_allclose(loaded.serve(images()), layer(images()), rtol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("replacement", REPLACEMENTS)
def test_mixed_precision(policy, replacement):
    layer = halved(replacement=replacement, dtype=policy)
    assert {w.dtype for w in layer.weights} == {tf.float32}
    with tf.GradientTape() as tape:
        y = layer(images(), training=True)
    assert y.dtype == layer.compute_dtype
    exact = layer.__class__.from_config({**layer.get_config(), "dtype": "float32"})
    exact.build((None, *SHAPE))
    exact.set_weights(layer.get_weights())
    np.testing.assert_allclose(tf.cast(y, tf.float32), exact(images()), rtol=0.03, atol=0.05)
    assert all(gradient.dtype == tf.float32 for gradient in tape.gradient(y, layer.trainable_weights))


def test_training_with_keras_fit_moves_scores_and_coefficients():
    layer = MaskedReLU(replacement="quadratic", score_initializer=0.5)
    model = keras.Sequential([keras.Input(SHAPE), layer, keras.layers.Flatten(), keras.layers.Dense(1)])
    layer.mask.assign(np.arange(24).reshape(SHAPE) % 2)
    before = values(layer)
    model.compile("sgd", "mse")
    model.fit(images(), np.ones(8), verbose=0)
    changed = [not np.array_equal(a, b) for a, b in zip(before, values(layer), strict=True)]
    assert dict(zip([w.name.split("/")[-1] for w in layer.weights], changed, strict=True)) == {
        "score:0": True, "coefficients:0": True, "mask:0": False, "reach:0": True,
    }  # fmt: skip


@pytest.mark.parametrize("replacement", REPLACEMENTS)
@pytest.mark.parametrize("shape", [SHAPE, (5,)])
def test_to_fixed_is_the_same_function(replacement, shape):
    layer = halved(shape, replacement=replacement)
    fixed = layer.to_fixed()
    assert isinstance(fixed, FixedActivation)
    assert (fixed.name, fixed.dtype_policy.name) == (layer.name, layer.dtype_policy.name)
    np.testing.assert_allclose(fixed(images(8, shape)), layer(images(8, shape)), rtol=1e-5, atol=1e-6)
    assert fixed.site_facts() == layer.site_facts()
    assert fixed.weights == []


def test_relu6_keeps_its_limit_and_compares_twice():
    layer = halved(replacement="line", max_value=0.5)
    x = images()
    kept = layer.full_mask()
    np.testing.assert_array_equal(layer(x).numpy()[:, kept], np.clip(x, 0, 0.5)[:, kept])
    np.testing.assert_allclose(layer.to_fixed()(x), layer(x), rtol=1e-5, atol=1e-6)
    assert layer.site_facts()["comparison_count"] == 2 * layer.relu_count()
    assert layer.to_fixed().get_config()["max_value"] == 0.5
    assert built(max_value=6.0).to_fixed().max_value == 6.0


@pytest.mark.parametrize("replacement", REPLACEMENTS)
def test_to_fixed_at_the_ends(replacement):
    layer = built(replacement=replacement)
    assert type(layer.to_fixed()) is keras.layers.ReLU
    layer.mask.assign(tf.zeros(SHAPE))
    fixed = layer.to_fixed()
    if replacement == "identity":
        assert fixed.activation is keras.activations.linear
    else:
        assert fixed.mask is None
    np.testing.assert_allclose(fixed(images()), layer(images()), rtol=1e-5, atol=1e-6)


def test_facts_count_elements_whatever_the_granularity():
    layer = built(replacement="quadratic", granularity="channel")
    layer.mask.assign([[[1, 0]]])
    assert layer.relu_count() == 12
    assert list(layer.site_facts().items()) == [
        ("relu_count", 12),
        ("comparison_count", 12),
        ("polynomial_count", 12),
        ("multiplications", 12),
        ("multiplicative_depth", 1),
    ]
    line = built(replacement="line")
    assert list(line.site_facts().values()) == [24, 24, 0, 0, 0]
    line.mask.assign(tf.zeros(SHAPE))
    assert list(line.site_facts().values()) == [0, 0, 24, 0, 0]


@pytest.mark.slow
def test_two_replicas_share_mask_and_coefficients():
    job = [sys.executable, str(Path(__file__).with_name("replicas_job.py"))]
    done = subprocess.run(job, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["largest_difference"] == 0
    for name in ("mask", "coefficients"):
        first, second = result[name]
        assert first == second
    assert result["mask"][0] == result["single_mask"]
    assert 0 < result["coefficients"][0][2][0] < 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gate": "relay"}, "gate"),
        ({"replacement": "cubic"}, "replacement"),
        ({"surrogate": "softplus"}, "surrogate"),
        ({"granularity": "pixel"}, "granularity"),
        ({"mask_dropout": 1.0}, "mask_dropout must be"),
        ({"gradient_fraction": 0.0}, "gradient_fraction must be"),
        ({"max_value": 0.0}, "max_value must be"),
        ({"statistics_images": 0}, "statistics_images must be"),
        ({"score_initializer": "normal"}, "score_initializer must be"),
        ({"score_initializer": float("nan")}, "score_initializer must be"),
    ],
)
def test_refused_arguments(options, message):
    with pytest.raises(UserError, match=message):
        MaskedReLU(**options)


def test_refuses_inputs_of_unknown_size():
    with pytest.raises(UserError, match="sizes are all known"):
        MaskedReLU()(keras.Input((None, None, 3)))
