"""Predictors in a graph: what is computed, what learns, what is saved."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from reference.compact import network, pair, randomise

from keras_relu import counting, models, surgery
from keras_relu.activations import PredictedReLU
from keras_relu.compression.blocks import find_blocks, find_conv_sites
from keras_relu.compression.counts import count_fusion
from keras_relu.compression.fusion_check import check_fusion
from keras_relu.compression.predictors import Predictors, insert_predictors, predicted_sites
from keras_relu.errors import UserError
from keras_relu.layers.ternary import TernaryConv2D, TernaryDepthwiseConv2D, ternarise
from keras_relu.runs import load_model

EXACT = (("expand", ""), ("depthwise", "depthwise_"), ("project", ""))
TernaryKernels = (TernaryConv2D, TernaryDepthwiseConv2D)
IMAGES = np.random.default_rng(0).standard_normal((4, 8, 8, 1)).astype("float32")


@pytest.fixture(scope="module")
def parent():
    return randomise(network(), zeros=0.3)


@pytest.fixture(scope="module")
def predicted(parent):
    return insert_predictors(parent)


def fake_quant(x):
    return np.clip(np.floor(x / 0.8 + 0.5), -8, 7) * 0.8


def test_a_block_computes_the_formulas(parent, predicted):
    def layer(name, model=parent):
        return lambda x: np.asarray(model.get_layer(name)(x))

    def conv(name, x):
        exact = parent.get_layer(name)
        twin = type(exact).from_config(exact.get_config())
        twin.build(x.shape)
        twin.set_weights([ternarise(exact.get_weights()[0], exact.get_config().get("groups", 1)).numpy()])
        return np.asarray(twin(x))

    x = layer("stem_relu")(layer("stem_bn")(layer("stem_conv")(IMAGES)))
    z1 = layer("block1_expand_bn")(conv("block1_expand_conv", fake_quant(x)))
    e1 = layer("block1_expand_bn")(layer("block1_expand_conv")(x))
    h1 = np.where(z1 > 0, e1, 0)
    z2 = layer("block1_depthwise_bn")(conv("block1_depthwise_conv", fake_quant(np.maximum(z1, 0))))
    e2 = layer("block1_depthwise_bn")(layer("block1_depthwise_conv")(h1))
    h2 = np.where(z2 > 0, e2, 0)
    y = layer("block1_project_bn")(layer("block1_project_conv")(h2))
    got = keras.Model(predicted.input, predicted.get_layer("block1_project_bn").output)(IMAGES)
    np.testing.assert_allclose(got, y, atol=1e-4)
    # False positives pass negative values; the plain network has none there.
    assert (h1 < 0).any()


def test_structure_names_and_counts(parent, predicted):
    assert [site.name for site in predicted_sites(predicted)] == [
        "block1_expand_relu",
        "block1_depthwise_relu",
        "block2_expand_relu",
        "block2_depthwise_relu",
    ]
    before, after = counting.count(parent), counting.count(predicted)
    assert (after.macs, after.relu_count) == (before.macs, before.relu_count)
    assert [site.name for site in after.sites] == [site.name for site in before.sites]
    assert after.ternary_additions == 64 * (8 * 24 + 9 * 24) + 64 * 8 * 24 // 2 + 16 * 9 * 24
    assert count_fusion(predicted).to_dict() == count_fusion(parent).to_dict()
    # The parent is as it was.
    assert not any(isinstance(layer, PredictedReLU) for layer in parent.layers)
    assert all(layer.trainable for layer in parent.layers)


def test_perfect_predictors_are_the_relu(parent):
    """Eight wide values need more than four bits, so the predictors here get many, and exact kernels."""
    model = insert_predictors(parent, Predictors(mode="ste", bits=16, minimum=-500, maximum=500, hidden_minimum=-500))
    for site in predicted_sites(model):
        # A ternary kernel cannot be exact: the predictor's output is replaced by the exact value instead.
        assert site.gate is not model.get_layer(site.norm.name).output
    exact = surgery.rewire(
        model,
        lambda layer, inputs, lookup: (
            layer.__class__(cascade=layer.cascade, name=layer.name)([inputs[1], inputs[1]])
            if isinstance(layer, PredictedReLU)
            else None
        ),
    )
    np.testing.assert_allclose(exact(IMAGES), parent(IMAGES), atol=1e-4)


@pytest.mark.parametrize("mode", ["static", "ste", "projected"])
def test_freeze_table_gradients_and_statistics(parent, mode):
    model = insert_predictors(parent, Predictors(mode=mode))
    names = {variable.name for variable in model.trainable_variables}
    exact = {"expand_conv", "expand_bn", "depthwise_conv", "depthwise_bn", "project_conv"}
    for block in ("block1", "block2"):
        assert not names & {v.name for part in exact for v in model.get_layer(f"{block}_{part}").weights}
        assert {v.name for v in model.get_layer(f"{block}_project_bn").trainable_weights} <= names
        assert {v.name for v in model.get_layer(f"{block}_expand_bn_predictor").trainable_weights} <= names
    ternary = {"block1_expand_conv_predictor/kernel:0", "block2_depthwise_conv_predictor/depthwise_kernel:0"}
    assert (ternary <= names) is (mode != "static")
    assert {"stem_conv/kernel:0", "classifier/kernel:0"} <= names
    before = {layer.name: layer.get_weights() for layer in model.layers}
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(IMAGES, training=True) ** 2)
    gradients = tape.gradient(loss, model.trainable_variables)
    assert all(np.abs(g).max() > 0 for g in gradients)
    changed = {
        name
        for name, weights in before.items()
        if any((a != b).any() for a, b in zip(weights, model.get_layer(name).get_weights(), strict=True))
    }
    statistics = {"stem_bn"} | {f"block{n}_project_bn" for n in (1, 2)}
    statistics |= {f"block{n}_{part}_bn_predictor" for n in (1, 2) for part in ("expand", "depthwise")}
    assert changed == statistics


def test_gradient_into_the_block_input_goes_through_the_predictor(parent):
    """With the predictor's normalisation at zero nothing of the exact path is left to carry a gradient."""
    model = insert_predictors(parent, Predictors(include=["block2"]))
    assert [site.name for site in predicted_sites(model)] == ["block2_expand_relu", "block2_depthwise_relu"]
    norm = model.get_layer("block2_expand_bn_predictor")
    block_input = model.get_layer("block1_add").output
    tail = keras.Model(model.input, [block_input, model.output])
    for scale, expected in ((1.0, True), (0.0, False)):
        gamma, *rest = norm.get_weights()
        norm.set_weights([np.abs(gamma) * scale, *rest])
        with tf.GradientTape() as tape:
            x, y = tail(IMAGES)
            loss = tf.reduce_sum(y)
        assert bool(np.abs(tape.gradient(loss, x)).max() > 0) is expected


def test_exact_paths_can_be_trained_around_their_predictors(parent, predicted):
    """The same function; every layer learns, and a block's input gets its gradient from the exact path alone."""
    model = insert_predictors(parent, Predictors(train_exact=True))
    np.testing.assert_array_equal(model(IMAGES), predicted(IMAGES))
    static = {v.name for layer in model.layers if isinstance(layer, TernaryKernels) for v in layer.weights}
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(IMAGES, training=True) ** 2)
    variables = model.trainable_variables
    assert {v.name for v in variables}.isdisjoint(static)
    assert {f"block1_{part}_conv/{kernel}kernel:0" for part, kernel in EXACT} <= {v.name for v in variables}
    assert all(np.abs(gradient).max() > 0 for gradient in tape.gradient(loss, variables))

    model = insert_predictors(parent, Predictors(train_exact=True, include=["block2"]))
    tail = keras.Model(model.input, [model.get_layer("block1_add").output, model.output])

    def gradient():
        with tf.GradientTape() as tape:
            x, y = tail(IMAGES)
            loss = tf.reduce_sum(y)
        return tape.gradient(loss, x).numpy()

    norm = model.get_layer("block2_expand_bn")
    gamma, *rest = norm.get_weights()
    assert np.abs(gradient()).max() > 0
    norm.set_weights([np.zeros_like(gamma), *rest])
    np.testing.assert_array_equal(gradient(), 0.0)


@pytest.mark.parametrize("mode", ["static", "ste", "projected"])
def test_saved_and_loaded_it_answers_the_same(parent, mode, tmp_path):
    model = insert_predictors(parent, Predictors(mode=mode))
    model.save(tmp_path / "m.keras")
    loaded = load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded(IMAGES), model(IMAGES))
    frozen = {layer.name for layer in model.layers if layer.weights and not layer.trainable_weights}
    assert {layer.name for layer in loaded.layers if layer.weights and not layer.trainable_weights} == frozen
    assert len(predicted_sites(loaded)) == 4


def test_shuffled_units_read_the_predictor_shuffled():
    inputs = keras.Input((8, 8, 6))
    y = pair(inputs, "unit", 30, 9)
    model = randomise(keras.Model(inputs, keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(y))), zeros=0.5)
    predicted = insert_predictors(model)
    shuffled = predicted.get_layer("unit_shuffle_predictor")
    assert shuffled.groups == 3
    # Depthwise and its normalisation stay trainable: their output has no ReLU.
    trainable = {layer.name for layer in predicted.layers if layer.trainable_weights}
    assert {"unit_depthwise_conv", "unit_depthwise_bn"} <= trainable
    assert not {"unit_expand_conv", "unit_project_conv", "unit_project_bn"} & trainable
    images = np.random.default_rng(1).standard_normal((2, 8, 8, 6)).astype("float32")
    assert check_fusion(predicted, images)["max_error"] < 1e-5


def test_the_masks_of_predictors_fuse(predicted):
    checked = check_fusion(predicted, IMAGES)
    assert checked["max_error"] < 1e-5


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("mobilenet_v2_modified_cifar10", 1_271_210),
        ("shufflenet_modified_cifar10", 1_192_702),
        ("fusionet_cifar10", 3_098_506),
    ],
)
def test_parameters_of_the_published_networks(built, name, total):
    model = insert_predictors(built(name))
    kernels = sum(int(tf.size(v)) for layer in model.layers if "Ternary" in type(layer).__name__ for v in layer.weights)
    assert model.count_params() - kernels == total
    # Of the first block of MobileNet, no wider inside than outside, nothing is predicted.
    assert len(predicted_sites(model)) == 2 * sum(block.name != "block0" for block in find_blocks(model))
    frozen = {layer.name for layer in model.layers if layer.weights and not layer.trainable}
    assert ({"stem_pointwise_conv", "tail_conv"} <= frozen) is name.startswith("shufflenet")
    assert "stem_conv" not in frozen


def test_trained_predictors_of_fusionet_count_as_published():
    model = insert_predictors(
        models.build("fusionet_cifar100", seed=None), Predictors(mode="projected", regularizer=1e-4)
    )
    assert model.count_params() == 4_694_884
    assert model.get_layer("block3_expand_conv_predictor").kernel_regularizer is not None


def test_plain_networks_take_predictors_by_name():
    model = models.build("resnet20", input_shape=(8, 8, 3))
    names = [site.name for site in find_conv_sites(model)]
    predicted = insert_predictors(model, Predictors(include=["stage[12]_*"], exclude=["stage2_block3_*"]))
    chosen = [site.name for site in predicted_sites(predicted)]
    assert chosen == [n for n in names if n[:6] in ("stage1", "stage2") and not n.startswith("stage2_block3")]
    assert chosen
    assert predicted(np.zeros((1, 8, 8, 3), "float32")).shape == (1, 10)


def test_relus_called_as_functions():
    inputs = keras.Input((4, 4, 2))
    x = keras.layers.BatchNormalization(name="norm")(keras.layers.Conv2D(3, 1, name="conv")(inputs))
    model = keras.Model(inputs, keras.layers.Flatten()(tf.nn.relu(x)))
    predicted = insert_predictors(model, Predictors(include=["conv"], bits=8, minimum=0))
    (site,) = predicted_sites(predicted)
    assert site.name == site.activation.name == find_conv_sites(model)[0].name
    assert predicted.get_layer("conv_predictor_quant").levels()[0] == 0
    assert predicted(np.ones((1, 4, 4, 2), "float32")).shape == (1, 48)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"include": ["block7"]}, "include: 'block7' matches no block"),
        ({"exclude": ["blok*"]}, "exclude: 'blok"),
        ({"exclude": ["*"]}, "exclude leaves no site"),
        ({"freeze": ["tail"]}, "freeze: 'tail' matches no layer"),
        ({"regularizer": 1e-4}, "no effect on static predictors"),
    ],
)
def test_bad_settings(parent, settings, words):
    with pytest.raises(UserError, match=words):
        insert_predictors(parent, Predictors(**settings))


def test_models_without_anything_to_predict(parent, predicted):
    with pytest.raises(UserError, match="has predictors already"):
        insert_predictors(predicted)
    with pytest.raises(UserError, match="name the sites"):
        insert_predictors(models.build("resnet20", seed=None))
    inputs = keras.Input((8, 8, 1))
    with pytest.raises(UserError, match="outside the models nested in it"):
        insert_predictors(keras.Model(inputs, parent(inputs)))
    with pytest.raises(UserError, match="there is nothing to predict"):
        insert_predictors(keras.Model(inputs, keras.layers.Dense(2)(inputs)))
