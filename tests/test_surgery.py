"""Graph surgery: sites are found under stable names, and an edited copy computes what the original computes."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from keras_relu import models, surgery
from keras_relu.errors import UserError

L = keras.layers
SHAPE = (6, 6, 3)


@pytest.fixture(autouse=True)
def _same_names_in_every_test():
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)


def functional(body, shape=SHAPE, name="net"):
    """The model with `body` between its input and its output."""
    inputs = keras.Input(shape, name="image")
    return keras.Model(inputs, body(inputs), name=name)


def batch(model, seed=0):
    """Random inputs of the structure `model` takes."""
    rng = np.random.default_rng(seed)
    return tf.nest.map_structure(lambda t: tf.constant(rng.normal(size=(5, *t.shape[1:])), t.dtype), model.input)


def difference(first, second, training=False):
    """Largest absolute difference of the outputs of two models on the same inputs."""
    x = batch(first)
    tf.nest.assert_same_structure(first(x), second(x))
    pairs = zip(
        tf.nest.flatten(first(x, training=training)), tf.nest.flatten(second(x, training=training)), strict=True
    )
    return max(float(tf.reduce_max(tf.abs(tf.cast(a, tf.float32) - tf.cast(b, tf.float32)))) for a, b in pairs)


def facts(model):
    return [(site.name, site.shape, site.max_value) for site in surgery.find_sites(model)]


def rectified(site):
    return L.ReLU(site.max_value, name=site.name)


def nested_part(name="inner", activation=True):
    inputs = keras.Input(SHAPE)
    x = L.Conv2D(4, 3, padding="same", name=f"{name}_conv")(inputs)
    return keras.Model(inputs, L.ReLU(name="act")(x) if activation else x, name=name)


# One line per way to write a ReLU: the body and the sites it makes.
MAPS = (6, 6, 4)
PLACES = {
    "layer": (lambda x: L.ReLU(name="act")(x), [("act", SHAPE, None)]),
    "activation_layer": (lambda x: L.Activation("relu", name="act")(x), [("act", SHAPE, None)]),
    "activation_function": (lambda x: L.Activation(tf.nn.relu, name="act")(x), [("act", SHAPE, None)]),
    "call": (lambda x: tf.nn.relu(x), [("tf_nn_relu", SHAPE, None)]),
    "two_calls": (
        lambda x: tf.nn.relu(tf.nn.relu(x) - 0.5),
        [("tf_nn_relu", SHAPE, None), ("tf_nn_relu_1", SHAPE, None)],
    ),
    "relu6_call": (lambda x: tf.nn.relu6(4.0 * x), [("tf_nn_relu6", SHAPE, 6.0)]),
    "relu6_layer": (lambda x: L.ReLU(6.0, name="act")(4.0 * x), [("act", SHAPE, 6.0)]),
    "relu6_activation": (lambda x: L.Activation(tf.nn.relu6, name="act")(4.0 * x), [("act", SHAPE, 6.0)]),
    "capped_layer": (lambda x: L.ReLU(1, name="act")(x), [("act", SHAPE, 1.0)]),
    "in_conv": (lambda x: L.Conv2D(4, 3, padding="same", activation="relu", name="c")(x), [("c_relu", MAPS, None)]),
    "relu6_in_conv": (
        lambda x: L.Conv2D(4, 3, padding="same", activation=tf.nn.relu6, name="c")(8.0 * x),
        [("c_relu", MAPS, 6.0)],
    ),
    "in_separable": (lambda x: L.SeparableConv2D(4, 3, activation="relu", name="s")(x), [("s_relu", (4, 4, 4), None)]),
    "in_depthwise": (lambda x: L.DepthwiseConv2D(3, activation="relu", name="d")(x), [("d_relu", (4, 4, 3), None)]),
    "in_transposed": (
        lambda x: L.Conv2DTranspose(4, 2, 2, activation="relu", name="t")(x),
        [("t_relu", (12, 12, 4), None)],
    ),
    "in_dense": (lambda x: L.Dense(7, activation="relu", name="d")(L.Flatten()(x)), [("d_relu", (7,), None)]),
    "shared_layer": (
        lambda x: (lambda act: act(act(x) - 0.5))(L.ReLU(name="act")),
        [("act", SHAPE, None), ("act_call2", SHAPE, None)],
    ),
    "shared_conv": (
        lambda x: (lambda conv: conv(conv(x)))(L.Conv2D(3, 3, padding="same", activation="relu", name="c")),
        [("c_relu", SHAPE, None), ("c_relu_call2", SHAPE, None)],
    ),
    "taken_name": (
        lambda x: L.ReLU(name="c_relu")(L.Conv2D(4, 3, padding="same", activation="relu", name="c")(x) - 0.5),
        [("c_relu_site", MAPS, None), ("c_relu", MAPS, None)],
    ),
    "nested": (lambda x: L.ReLU(name="act")(nested_part()(x) - 0.5), [("inner_act", MAPS, None), ("act", MAPS, None)]),
    "nested_twice_over": (
        lambda x: functional(lambda y: nested_part()(y), name="outer")(x),
        [("outer_inner_act", MAPS, None)],
    ),
    "nested_sequential": (
        lambda x: keras.Sequential([keras.Input(SHAPE), L.Conv2D(4, 3, activation="relu", name="c")], name="seq")(x),
        [("seq_c_relu", (4, 4, 4), None)],
    ),
    "slashes_and_dots": (lambda x: L.ReLU(name="a/b")(x), [("a_b", SHAPE, None)]),
}
each_place = pytest.mark.parametrize(("body", "sites"), PLACES.values(), ids=PLACES)


class TestSites:
    @each_place
    def test_name_shape_and_bound(self, body, sites):
        assert facts(functional(body)) == sites

    @each_place
    def test_the_copy_computes_the_same_and_finds_the_same_sites_again(self, body, sites):
        model = functional(body)
        for make in (rectified, lambda site: None):
            edited = surgery.replace_sites(model, make)
            assert difference(model, edited) == 0
            assert facts(edited) == sites
            again = surgery.replace_sites(edited, make)
            assert facts(again) == sites
            assert difference(model, again) == 0

    @each_place
    def test_every_site_is_really_exchanged(self, body, sites):
        edited = surgery.replace_sites(functional(body), lambda site: L.Activation("linear", name=site.name))
        assert facts(edited) == []
        names = [layer.name for layer in surgery.iter_layers(edited)]
        assert [name for name in names if name in {site[0] for site in sites}] == [name for name, _, _ in sites]

    @pytest.mark.parametrize(
        "layer",
        [
            L.LeakyReLU(),
            L.ReLU(negative_slope=0.1),
            L.ReLU(threshold=0.5),
            L.PReLU(),
            L.ELU(),
            L.Activation("tanh"),
            L.Softmax(),
            L.Conv2D(2, 1, activation="sigmoid"),
            L.Activation("linear"),
        ],
        ids=lambda layer: layer.name,
    )
    def test_what_is_no_relu_stays(self, layer):
        model = functional(lambda x: type(layer).from_config(layer.get_config())(x))
        assert facts(model) == []
        edited = surgery.replace_sites(model, rectified)
        assert [type(each) for each in edited.layers] == [type(each) for each in model.layers]
        assert difference(model, edited) == 0

    def test_some_sites_may_stay(self):
        model = functional(lambda x: L.ReLU(name="b")(L.Dense(4, activation="relu", name="a")(x)))
        edited = surgery.replace_sites(model, lambda site: L.Activation("tanh", name="b") if site.name == "b" else None)
        assert [name for name, _, _ in facts(edited)] == ["a_relu"]

    def test_our_own_models_have_one_layer_per_site(self):
        model = models.build("resnet20", input_shape=(8, 8, 1))
        sites = surgery.find_sites(model)
        assert [site.name for site in sites][:3] == ["stem_relu", "stage1_block1_relu1", "stage1_block1_relu2"]
        assert len(sites) == 19
        assert all(isinstance(model.get_layer(site.name), L.ReLU) for site in sites)
        edited = surgery.replace_sites(model, rectified)
        assert [layer.name for layer in edited.layers] == [layer.name for layer in model.layers]
        assert difference(model, edited) == 0


class TestTheOriginal:
    def model(self):
        def body(x):
            x = L.Conv2D(4, 3, activation="relu", name="conv")(x)
            x = L.BatchNormalization(name="bn")(x)
            return L.Dense(3, name="dense")(L.Flatten()(L.ReLU(name="act")(nested(x))))

        inner = keras.Input((4, 4, 4))
        nested = keras.Model(inner, L.Conv2D(2, 1, name="inner_conv")(inner), name="nested")
        return functional(body)

    def test_is_left_as_it_is(self):
        model = self.model()
        names, config, before = [layer.name for layer in model.layers], model.get_config(), model(batch(model)).numpy()
        edited = surgery.replace_sites(model, lambda site: L.Activation("linear", name=site.name))
        for weight in edited.weights:
            weight.assign(weight + 1.0)
        assert [layer.name for layer in model.layers] == names
        assert model.get_config() == config
        np.testing.assert_array_equal(model(batch(model)), before)
        assert keras.activations.serialize(model.get_layer("conv").activation) == "relu"

    def test_its_weights_are_copied_even_the_running_statistics_and_those_of_nested_models(self):
        model = self.model()
        model(batch(model), training=True)
        edited = surgery.copy_model(model)
        assert [weight.name for weight in edited.weights] == [weight.name for weight in model.weights]
        for old, new in zip(model.weights, edited.weights, strict=True):
            assert old is not new
            np.testing.assert_array_equal(old, new)
        assert difference(model, edited, training=True) == 0

    def test_what_is_frozen_stays_frozen(self):
        model = self.model()
        model.get_layer("conv").trainable = False
        model.get_layer("nested").trainable = False
        edited = surgery.replace_sites(model, rectified)
        assert [weight.name for weight in edited.trainable_weights] == [w.name for w in model.trainable_weights]

    def test_its_name_and_those_of_its_inputs_stay(self):
        edited = surgery.replace_sites(self.model(), rectified)
        assert (edited.name, edited.input_names) == ("net", ["image"])

    def test_a_layer_fixed_to_inference_stays_so(self):
        model = functional(lambda x: L.ReLU()(L.BatchNormalization()(x, training=False)))
        model.layers[1].set_weights([np.full(3, v, np.float32) for v in (2.0, 0.5, 1.0, 3.0)])
        assert difference(model, surgery.replace_sites(model, rectified), training=True) == 0

    def test_lower_precision_stays(self):
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
        try:
            model = functional(lambda x: tf.nn.relu(L.Conv2D(4, 3, activation="relu", name="c")(x) - 0.5))
        finally:
            keras.mixed_precision.set_global_policy("float32")
        edited = surgery.replace_sites(model, lambda site: None)
        assert edited.output.dtype == model.output.dtype == tf.bfloat16
        assert edited.get_layer("c_relu").compute_dtype == "bfloat16"
        assert difference(model, edited) == 0


class TestStructures:
    def test_many_inputs_and_outputs(self):
        first, second = keras.Input((4,), name="a"), keras.Input((4,), name="b")
        x = L.ReLU(name="act")(L.Add()([first, second]))
        model = keras.Model([first, second], [L.Dense(2)(x), x])
        edited = surgery.replace_sites(model, rectified)
        assert facts(edited) == [("act", (4,), None)]
        assert difference(model, edited) == 0

    def test_dictionaries_of_inputs_and_outputs(self):
        inputs = {"left": keras.Input((4,), name="left"), "right": keras.Input((3,), name="right")}
        x = L.Dense(5, activation="relu", name="d")(L.Concatenate()([inputs["left"], inputs["right"]]))
        model = keras.Model(inputs, {"logits": L.Dense(2)(x), "features": x})
        edited = surgery.replace_sites(model, rectified)
        assert set(edited(batch(edited))) == {"logits", "features"}
        assert difference(model, edited) == 0

    def test_an_output_that_is_an_input_and_a_tensor_used_often(self):
        def body(x):
            y = L.ReLU(name="act")(x)
            return [x, y, y + x, tf.concat([y, 2.0 * x, y], axis=-1)]

        model = functional(body)
        assert difference(model, surgery.replace_sites(model, rectified)) == 0

    def test_calls_with_keyword_tensors_and_constants(self):
        def body(x):
            flat = L.Reshape((36, 3))(x)
            attended = L.MultiHeadAttention(2, 4, name="attention")(
                query=flat, value=L.ReLU(name="act")(flat), key=flat
            )
            return tf.where(attended > 0.1, attended, tf.nn.relu(1.0 - attended))

        model = functional(body)
        edited = surgery.replace_sites(model, rectified)
        assert [name for name, _, _ in facts(edited)] == ["act", "tf_nn_relu"]
        assert difference(model, edited) == 0

    def test_a_built_sequential_model(self):
        model = keras.Sequential([keras.Input(SHAPE), L.Conv2D(4, 3, activation="relu", name="c"), L.ReLU(name="r")])
        edited = surgery.replace_sites(model, rectified)
        assert facts(edited) == [("c_relu", (4, 4, 4), None), ("r", (4, 4, 4), None)]
        assert difference(model, edited) == 0

    def test_a_nested_model_that_another_model_uses_too(self):
        part = nested_part()
        model, _other = functional(lambda x: part(x)), functional(lambda x: part(x), name="other")
        edited = surgery.replace_sites(model, rectified)
        assert facts(edited) == [("inner_act", MAPS, None)]
        assert difference(model, edited) == 0

    def test_layers_that_another_model_uses_too(self):
        model = functional(lambda x: L.ReLU(name="act")(L.Conv2D(4, 3, name="c")(x)))
        part = keras.Model(model.input, model.get_layer("c").output)
        assert facts(part) == []
        assert difference(part, surgery.copy_model(part)) == 0


class TestReplaceLayers:
    def test_a_layer_is_exchanged_and_the_rest_kept(self):
        model = functional(lambda x: L.Dense(2, name="head")(L.Flatten()(L.ReLU(name="act")(x))))
        edited = surgery.replace_layers(model, lambda layer: L.Dense(9, name="new") if layer.name == "head" else None)
        assert edited.output_shape == (None, 9)
        assert [layer.name for layer in edited.layers][-1] == "new"

    def test_a_layer_of_a_nested_model_is_exchanged(self):
        model = functional(lambda x: nested_part()(x))
        edited = surgery.replace_layers(model, lambda layer: L.Activation("tanh") if layer.name == "act" else None)
        assert facts(edited) == []
        assert edited.output_shape == model.output_shape

    def test_a_copy_is_made_under_the_strategy(self):
        model = functional(lambda x: L.Dense(2)(L.ReLU()(x)))
        strategy = tf.distribute.MirroredStrategy(["CPU:0"])
        with strategy.scope():
            copied = surgery.copy_model(model)
        assert all(hasattr(weight, "values") for weight in copied.weights)
        np.testing.assert_array_equal(copied.weights[0].numpy(), model.weights[0].numpy())


class Subclassed(keras.Model):
    def call(self, inputs):
        return tf.nn.relu(inputs)


class WithoutConfig(L.Layer):
    def __init__(self, function):
        super().__init__(name="applier")
        self.function = function

    def call(self, inputs):
        return self.function(inputs)


class TestRefusals:
    @pytest.mark.parametrize(
        "act", [surgery.find_sites, surgery.copy_model, lambda m: surgery.replace_sites(m, rectified)]
    )
    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (
                lambda: Subclassed(name="mine"),
                r"Model 'mine' is a subclassed model \(Subclassed\); a functional or built",
            ),
            (
                lambda: keras.Sequential([L.ReLU()], name="open"),
                r"Model 'open' is a Sequential model that is not built",
            ),
            (lambda: "model.keras", r"Expected a tf_keras model, received str\."),
            (lambda: L.ReLU(), r"Expected a tf_keras model, received ReLU\."),
            (lambda: None, r"Expected a tf_keras model, received NoneType\."),
        ],
    )
    def test_what_has_no_graph(self, act, make, message):
        with pytest.raises(UserError, match=message):
            act(make())

    def test_a_keras_3_model(self):
        keras3 = pytest.importorskip("keras", minversion="3")
        for model in (
            keras3.Sequential([keras3.Input((4,)), keras3.layers.ReLU()]),
            type("Own", (keras3.Model,), {})(),
        ):
            with pytest.raises(UserError, match="This is a Keras 3 model; keras_relu works on tf_keras"):
                surgery.find_sites(model)

    @pytest.mark.parametrize("kind", ["functional", "sequential"])
    def test_a_nested_model_that_is_called_twice(self, kind):
        def body(x):
            part = keras.Sequential([keras.Input(SHAPE), L.ReLU()], name="part")
            if kind == "functional":
                inputs = keras.Input(SHAPE)
                part = keras.Model(inputs, L.ReLU()(inputs), name="part")
            return part(part(x) - 0.5)

        with pytest.raises(UserError, match="nested model 'part' is called more than once; flatten the model first"):
            surgery.replace_sites(functional(body), rectified)

    def test_a_nested_subclassed_model(self):
        with pytest.raises(UserError, match="'mine' is a subclassed model"):
            surgery.find_sites(functional(lambda x: Subclassed(name="mine")(x)))

    def test_a_layer_that_cannot_be_copied_is_named(self):
        model = functional(lambda x: L.ReLU()(WithoutConfig(lambda y: 2.0 * y)(x)))
        with pytest.raises(UserError, match="'applier'"):
            surgery.replace_sites(model, rectified)
