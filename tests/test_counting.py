"""Counts against published numbers, against the operations TensorFlow really runs, and on awkward graphs."""

import json
import math

import pytest
import tensorflow as tf
import tf_keras as keras
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_relu import models, surgery
from keras_relu.counting import CONVENTIONS, count
from keras_relu.errors import UserError

L = keras.layers


def model_of(*layers, shape=(8, 8, 3)):
    return keras.Sequential([keras.Input(shape), *layers])


def traced(model):
    """(elements through Relu and Relu6, comparisons, multiply-accumulates) of what TensorFlow runs for one image."""
    call = tf.function(lambda x: model(x, training=False))
    graph = call.get_concrete_function(tf.TensorSpec((1, *model.input_shape[1:]))).graph
    relus = comparisons = macs = 0
    for op in operations(graph):
        size = math.prod(n or 1 for n in op.outputs[0].shape) if op.outputs else 0  # None is the batch, of one
        relus += size * (op.type in ("Relu", "Relu6"))
        comparisons += size * {"Relu": 1, "Relu6": 2, "LeakyRelu": 1}.get(op.type, 0)
        if op.type == "MaxPool":
            comparisons += size * (math.prod(op.get_attr("ksize")) - 1)
        if op.type in ("Conv2D", "DepthwiseConv2dNative"):
            kernel = op.inputs[1].shape
            macs += size * kernel[0] * kernel[1] * (kernel[2] if op.type == "Conv2D" else 1)
        if op.type == "MatMul":
            macs += size * op.inputs[0].shape[-1]
    return relus, comparisons, macs


def operations(graph):
    for op in graph.get_operations():
        if op.type.endswith("PartitionedCall"):  # Keras compiles grouped convolutions apart
            yield from operations(graph._get_function(op.get_attr("f").name).graph)
        yield op


# --- published numbers ---


@pytest.mark.parametrize(
    ("convention", "relus", "comparisons", "sites"),
    [("relu", 557_056, 557_056, 17), ("snl", 491_520, 491_520, 16), ("comparisons", 557_056, 557_056, 17)],
)
def test_resnet18_under_each_convention(convention, relus, comparisons, sites):
    counts = count(models.build("resnet18", seed=None), convention=convention)
    assert (counts.relu_count, counts.comparison_count, len(counts.sites)) == (relus, comparisons, sites)
    assert counts.convention == convention


def test_resnet18_at_64_pixels_as_published():
    assert count(models.build("resnet18", seed=None, input_shape=(64, 64, 3))).relu_count == 2_228_224


def test_vgg16_at_32_pixels_as_published():
    model = keras.applications.VGG16(weights=None, include_top=False, input_shape=(32, 32, 3))
    counts = count(model)
    assert (counts.relu_count, len(counts.sites), counts.parameters) == (276_480, 13, 14_714_688)
    assert counts.sites[0].name == "block1_conv1_relu"
    pooled = 3 * (16 * 16 * 64 + 8 * 8 * 128 + 4 * 4 * 256 + 2 * 2 * 512 + 512)
    assert count(model, convention="comparisons").comparison_count == 276_480 + pooled
    assert f"Max-pooling adds {pooled:,} comparisons, which the convention 'relu' leaves out." in counts.notes


def test_applications_resnet50():
    counts = count(keras.applications.ResNet50(weights=None))
    assert (counts.parameters, counts.state_parameters) == (25_583_592, 53_120)
    assert (len(counts.sites), counts.macs) == (49, 3_857_973_248)
    assert any("predictions" in note and "softmax" in note for note in counts.notes)


def test_applications_mobilenet_v2():
    counts = count(keras.applications.MobileNetV2(weights=None))
    assert (counts.parameters, counts.macs) == (3_504_872, 300_774_272)
    assert (len(counts.sites), counts.comparison_count) == (35, 2 * counts.relu_count)


# --- against the operations that run ---


@pytest.mark.parametrize("name", ["resnet20", "resnet9_small", "wide_resnet_16_8"])
def test_networks_against_the_trace(name):
    model = models.build(name, seed=None)
    counts = count(model, convention="comparisons")
    assert (counts.relu_count, counts.comparison_count, counts.macs) == traced(model)


LAYERS = {
    "conv": lambda: L.Conv2D(4, 3, padding="same"),
    "strided": lambda: L.Conv2D(6, 3, 2, activation="relu"),
    "grouped": lambda: L.Conv2D(4, 1, groups=2, activation=tf.nn.relu6),
    "depthwise": lambda: L.DepthwiseConv2D(3, depth_multiplier=2, padding="same", activation="relu"),
    "separable": lambda: L.SeparableConv2D(4, 3, padding="same", activation="relu"),
    "relu": L.ReLU,
    "relu6": lambda: L.ReLU(6.0),
    "activation": lambda: L.Activation("relu"),
    "leaky": L.LeakyReLU,
    "pool": lambda: L.MaxPooling2D(3, 1, padding="same"),
    "norm": L.BatchNormalization,
    "dense": lambda: L.Dense(4, activation="relu"),
}


@settings(deadline=None, max_examples=12)
@given(st.lists(st.sampled_from(sorted(LAYERS)), min_size=1, max_size=6), st.booleans(), st.booleans())
def test_random_graphs_against_the_trace(names, twice, nested):
    body = [layer for name in names for layer in (L.Conv2D(4, 1), LAYERS[name](), L.ZeroPadding2D(1))]
    shared = L.Conv2D(4, 1, activation="relu")
    inputs = keras.Input((9, 9, 4))
    x = shared(shared(inputs)) if twice else inputs
    x = model_of(*body, shape=(9, 9, 4))(x) if nested else keras.Sequential(body)(x)
    model = keras.Model(inputs, L.Dense(3)(L.Flatten()(x)))
    counts = count(model, convention="comparisons")
    assert (counts.relu_count, counts.comparison_count, counts.macs) == traced(model)
    sites = count(model).sites
    assert [site.name for site in sites if site.relu_count] == [site.name for site in surgery.find_sites(model)]
    assert len({site.name for site in counts.sites}) == len(counts.sites)
    assert counts.parameters + counts.state_parameters == model.count_params()


# --- awkward graphs ---


def test_a_shared_layer_counts_at_each_call_and_its_parameters_once():
    relu, conv = L.ReLU(name="act"), L.Conv2D(3, 1, name="conv")
    inputs = keras.Input((4, 4, 3))
    counts = count(keras.Model(inputs, relu(conv(relu(conv(inputs))))))
    assert [site.name for site in counts.sites] == ["act", "act_call2"]
    assert (counts.relu_count, counts.macs, counts.parameters) == (96, 2 * 16 * 9, 12)


def test_a_nested_model_counts_at_each_call():
    inner = keras.Sequential([keras.Input((4, 4, 3)), L.Conv2D(3, 1, activation="relu", name="conv")], name="inner")
    inputs = keras.Input((4, 4, 3))
    counts = count(keras.Model(inputs, inner(inner(inputs))))
    assert [site.name for site in counts.sites] == ["inner_conv_relu", "inner_call2_conv_relu"]
    assert (counts.relu_count, counts.macs) == (96, 2 * 16 * 9)


def test_operations_on_keras_tensors():
    inputs = keras.Input((4, 4, 3))
    x = tf.nn.relu6(tf.nn.relu(inputs) + 1.0)
    x = tf.maximum(x[:, ::2], 0.5)
    counts = count(keras.Model(inputs, tf.math.erf(x)))
    assert [(site.relu_count, site.comparison_count) for site in counts.sites] == [(48, 48), (48, 96), (0, 24)]
    assert len(counts.notes) == 2
    assert "erf" in counts.notes[1]


@pytest.mark.parametrize(
    ("layer", "relus", "comparisons"),
    [
        (L.ReLU(), 1, 1),
        (L.ReLU(6.0), 1, 2),
        (L.Activation("relu6" if hasattr(keras.activations, "relu6") else tf.nn.relu6), 1, 2),
        (L.Activation(L.ReLU()), 1, 1),
        (L.ReLU(negative_slope=0.1), 0, 1),
        (L.ReLU(6.0, threshold=0.5), 0, 2),
        (L.LeakyReLU(), 0, 1),
        (L.PReLU(), 0, 1),
        (L.ThresholdedReLU(0.5), 0, 1),
        (L.Activation("hard_sigmoid"), 0, 2),
        (L.Activation("linear"), 0, 0),
        (L.Activation("tanh"), 0, 0),
        (L.ELU(), 0, 0),
        (L.Softmax(), 0, 0),
        (L.Lambda(tf.sin), 0, 0),
        (L.Dense(3, activation=tf.square), 0, 0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_kind_of_activation(layer, relus, comparisons):
    counts = count(model_of(layer, shape=(4, 4, 3)))
    assert (counts.relu_count, counts.comparison_count) == (48 * relus, 48 * comparisons)
    understood = relus or layer.get_config().get("activation") == "linear"
    assert bool(counts.notes) != bool(understood)


def test_pooling_over_everything_and_maxima_of_branches():
    inputs = keras.Input((4, 4, 3))
    x = L.Maximum()([inputs, L.Conv2D(3, 1)(inputs), inputs])
    counts = count(keras.Model(inputs, L.GlobalMaxPooling2D()(x)), convention="comparisons")
    assert [site.comparison_count for site in counts.sites] == [2 * 48, 15 * 3]


def test_products_of_other_layers():
    counts = count(model_of(L.Conv2DTranspose(5, 2, strides=2), L.Dense(7), shape=(4, 4, 3)))
    assert counts.macs == 16 * 4 * 3 * 5 + 64 * 5 * 7
    first = count(model_of(L.Conv2D(5, 3, data_format="channels_first"), shape=(3, 8, 8)))
    assert first.macs == 36 * 9 * 3 * 5


def test_layers_whose_products_are_unknown_are_noted():
    counts = count(model_of(L.LSTM(4), shape=(5, 3)))
    assert any("multiply-accumulates are not counted" in note for note in counts.notes)


class Foreign(keras.layers.Layer):
    pass


def test_a_layer_of_somebody_else_is_noted():
    assert "not recognised" in count(model_of(Foreign())).notes[0]


class Gated(keras.layers.Layer):
    def site_facts(self):
        return {
            "relu_count": 10, "comparison_count": 10, "polynomial_count": 182, "multiplications": 182,
            "multiplicative_depth": 1,
        }  # fmt: skip


def test_layers_state_their_own_facts():
    counts = count(model_of(L.ReLU(), Gated(name="gate")))
    assert counts.relu_count == 192 + 10
    assert (counts.sites[1].name, counts.sites[1].polynomial_count, counts.sites[1].shape) == ("gate", 182, (8, 8, 3))
    assert not counts.notes


def test_frozen_layers_stay_parameters_but_are_not_trainable():
    model = model_of(L.Conv2D(4, 1, name="conv"), L.BatchNormalization())
    model.get_layer("conv").trainable = False
    counts = count(model)
    assert (counts.parameters, counts.state_parameters, counts.trainable_parameters) == (16 + 8, 8, 8)


def test_snl_says_when_there_is_no_stem():
    counts = count(model_of(L.ReLU(name="first")), convention="snl")
    assert counts.relu_count == 192
    assert "leaves out nothing" in counts.notes[0]


def test_to_dict_is_plain_and_has_stable_keys():
    counts = count(model_of(L.ReLU(name="act"))).to_dict()
    assert json.loads(json.dumps(counts)) == counts
    keys = {
        "relu_count",
        "comparison_count",
        "sites",
        "macs",
        "parameters",
        "trainable_parameters",
        "convention",
        "notes",
    }
    assert keys <= set(counts)
    assert counts["sites"][0]["shape"] == [8, 8, 3]
    assert counts["convention_description"] == CONVENTIONS["relu"]


# --- refusals ---


def test_unknown_convention():
    with pytest.raises(UserError, match="Did you mean 'relu'"):
        count(model_of(L.ReLU()), convention="relus")


def test_sizes_only_known_at_run_time():
    for layer in (L.ReLU(name="act"), L.Conv2D(3, 3, name="act"), L.MaxPooling2D(name="act")):
        with pytest.raises(UserError, match=r"'act' has the size \[None, None, 3\].*input_shape"):
            count(model_of(layer, shape=(None, None, 3)))


def test_unknown_sizes_do_not_matter_behind_a_global_pool():
    model = model_of(L.GlobalAveragePooling2D(), L.Dense(5, activation="relu"), shape=(None, None, 3))
    assert (count(model).relu_count, count(model).macs) == (5, 15)


class Subclassed(keras.Model):
    def call(self, x):
        return x


def test_models_without_a_graph():
    with pytest.raises(UserError, match="subclassed"):
        count(Subclassed())
    with pytest.raises(UserError, match="not built"):
        count(keras.Sequential([L.ReLU()]))
    with pytest.raises(UserError, match="Expected a tf_keras model"):
        count("model.keras")


def test_keras_3_models():
    keras3 = pytest.importorskip("keras", minversion="3")
    with pytest.raises(UserError, match="Keras 3"):
        count(keras3.Sequential([keras3.Input((4,)), keras3.layers.ReLU()]))
