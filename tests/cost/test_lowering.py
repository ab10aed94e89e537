"""Lowered models compute what they computed, with no more comparisons than ReLUs."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from keras_relu import counting, lowering
from keras_relu.activations import FixedActivation, LoweredActivation, fixed
from keras_relu.cost.link import Link
from keras_relu.cost.lowered import lower_run, pays_under
from keras_relu.cost.presets import get_preset
from keras_relu.cost.work import work_of
from keras_relu.errors import KerasReLUError, UserError
from keras_relu.folding import fold_affine
from keras_relu.replacement import lifecycle


@pytest.mark.parametrize("max_value", [None, 0.5])
@pytest.mark.parametrize("coefficients", [None, [[0.1, 0.2], [1.5, -1.0]], [[0.1, 0.2], [1.5, -1.0], [0.3, 0.4]]])
def test_the_layer_equals_the_selection(coefficients, max_value):
    random = np.random.default_rng(0)
    x = random.normal(size=(3, 4, 5, 2)).astype(np.float32)
    for kept in (0.0, 0.4, 1.0):
        mask = fixed.pack_mask(random.random((4, 5, 2)) < kept)
        plain = FixedActivation(mask, coefficients, max_value=max_value)
        lowered = LoweredActivation(mask, coefficients, max_value=max_value)
        np.testing.assert_allclose(lowered(x), plain(x), rtol=1e-6, atol=1e-6)
        assert lowered.site_facts() == plain.site_facts()
        levels = 1 if max_value is None else 2
        assert lowered.runtime_facts()["comparison_count"] == levels * plain.relu_count()
        assert plain.runtime_facts()["comparison_count"] == levels * 40


def test_the_gradient_is_the_derivative():
    mask = fixed.pack_mask(np.array([True, False, True, False]))
    x = tf.constant([[1.0, 2.0, -3.0, -4.0]])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = LoweredActivation(mask, [[0.0] * 4, [1.0] * 4, [0.5] * 4])(x)
    np.testing.assert_allclose(tape.gradient(y, x), [[1.0, 3.0, 0.0, -3.0]])


@pytest.mark.parametrize("replacement", ["identity", "line", "quadratic"])
def test_logits_stay_and_comparisons_go(reduced, images, replacement):
    model = reduced[replacement]
    made = lowering.lower_masks(model)
    np.testing.assert_allclose(made.model(images), model(images), rtol=1e-5, atol=1e-5)
    counts = counting.count(model)
    assert counting.count(made.model).relu_count == counts.relu_count
    works, _ = work_of(made.model)
    assert sum(w.comparisons - w.pool_comparisons for w in works) == counts.relu_count
    before, _ = work_of(model)
    assert sum(w.comparisons - w.pool_comparisons for w in before) == 2 * 512
    actions = {site.name: site.action for site in made.sites}
    assert actions == {
        "relu1": "lowered",
        "relu2": "replaced" if replacement == "quadratic" else "folded",
        "relu3": "lowered",
    }
    names = [layer.name for layer in made.model.layers]
    assert "bn1" not in names
    assert "bn2" not in names
    assert type(made.model.get_layer("bn3")).__name__ == "ChannelAffine"
    assert not any(isinstance(layer, keras.layers.Dropout) for layer in made.model.layers)


def test_gated_models_are_fixed_on_the_way(network, images):
    gated = lifecycle.replace_relus(network, replacement="line")
    layer = gated.get_layer("relu1")
    layer.mask.assign(np.zeros(layer.mask.shape, np.float32))
    made = lowering.lower_masks(gated)
    np.testing.assert_allclose(made.model(images), gated(images), rtol=1e-5, atol=1e-5)
    assert [site.action for site in made.sites] == ["folded"]


def test_a_site_is_left_with_its_reason(reduced, images):
    made = lowering.lower_masks(reduced["identity"], keep=lambda layer: "no" if layer.name == "relu1" else None)
    first = made.sites[0]
    assert (first.name, first.action, first.reason) == ("relu1", "left", "no")
    np.testing.assert_allclose(made.model(images), reduced["identity"](images), rtol=1e-5, atol=1e-5)


def test_what_pays_depends_on_link_and_preset(reduced):
    layer = reduced["identity"].get_layer("relu1")
    preset = get_preset("spu-semi2k-64")
    assert pays_under(preset, Link.parse("384Mbps", "40ms"))(layer) is None
    dear = preset.constants["comparison_seconds"].model_copy(update={"value": 1.0})
    slow = preset.model_copy(update={"constants": {**preset.constants, "gather_seconds": dear}})
    assert "moving its elements" in pays_under(slow, Link.parse("384Mbps", "40ms"))(layer)


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.Conv2D(4, 3, strides=2, padding="same"),
        keras.layers.Conv2DTranspose(4, 3, use_bias=False),
        keras.layers.SeparableConv2D(4, 3, depth_multiplier=2),
        keras.layers.DepthwiseConv2D(3, depth_multiplier=2),
        keras.layers.Dense(4),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_normalisation_folds_into_every_linear_layer(layer):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 3))
    x = keras.layers.BatchNormalization(name="bn")(type(layer).from_config(layer.get_config())(inputs))
    model = keras.Model(inputs, x)
    random = np.random.default_rng(0)
    model.set_weights([random.uniform(0.5, 1.5, weight.shape) for weight in model.get_weights()])
    folded = fold_affine(model)
    images = random.normal(size=(2, 6, 6, 3)).astype(np.float32)
    np.testing.assert_allclose(folded(images), model(images), rtol=1e-5, atol=1e-5)
    assert len(folded.layers) == 2


def test_what_others_read_is_not_folded():
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.Conv2D(3, 1, name="conv")(inputs)
    model = keras.Model(inputs, keras.layers.Add()([keras.layers.BatchNormalization(name="bn")(x), x]))
    images = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32)
    folded = fold_affine(model)
    np.testing.assert_allclose(folded(images), model(images), rtol=1e-5, atol=1e-5)
    assert type(folded.get_layer("bn")).__name__ == "ChannelAffine"


def test_a_lowered_model_that_computes_something_else_is_not_left_behind(reduced, tmp_path, monkeypatch):
    monkeypatch.setattr("keras_relu.cost.lowered.TOLERANCE", -1.0)
    with pytest.raises(KerasReLUError, match="please report"):
        lower_run(reduced["line"], tmp_path / "run", parent="parent", facts={})
    assert not (tmp_path / "run").exists()


def test_a_lowered_run_is_checked_and_survives_loading(reduced, images, tmp_path):
    from keras_relu.runs import load_model

    facts = {"accuracy": 0.5, "dataset": "digits", "irrelevant": 1}
    result = lower_run(reduced["quadratic"], tmp_path / "run", parent="parent", facts=facts)
    assert result["stage"] == "lower"
    assert result["accuracy"] == 0.5
    assert "irrelevant" not in result
    assert result["max_difference"] <= 1e-5 * max(result["logit_scale"], 1.0)
    assert result["comparisons_before"] > result["comparisons_after"]
    np.testing.assert_allclose(load_model(tmp_path / "run")(images), reduced["quadratic"](images), rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match="finished"):
        lower_run(reduced["quadratic"], tmp_path / "run", parent="parent", facts={})
