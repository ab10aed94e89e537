"""Cutting a model: which layers are valid, what goes around the others, and halves that compute what the whole does."""

import numpy as np
import pytest
import tf_keras as keras
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.small_networks import skip_net, small_net

from keras_relu import models, splitting
from keras_relu.errors import UserError


def images(model, count=3):
    return np.random.default_rng(0).normal(size=(count, *model.input_shape[1:])).astype("float32")


def valid(model):
    return [cut.name for cut in splitting.cuts(model) if cut.valid]


def assert_halves(model, layer):
    front, back = splitting.split(model, layer)
    x = images(model)
    np.testing.assert_array_equal(back(front(x)), model(x))
    return front, back


def test_every_layer_of_a_chain_but_the_input_is_a_cut():
    model = small_net(0)
    assert valid(model) == ["conv1", "bn1", "relu1", "conv2", "bn2", "relu2", "pool", "fc"]
    for layer in valid(model):
        assert_halves(model, layer)


def test_the_front_of_a_normalisation_is_before_the_relu():
    model = small_net(0)
    front, back = splitting.split(model, "bn1")
    assert front(images(model)).numpy().min() < 0
    assert [layer.name for layer in back.layers][1] == "relu1"


def test_layers_beside_a_connection_are_refused_with_its_name_and_the_nearest_cuts():
    model = skip_net()
    assert valid(model) == ["stem", "add", "pool", "fc"]
    cut = {cut.name: cut for cut in splitting.cuts(model)}["branch1"]
    assert cut.bypass == ("stem", "add")
    with pytest.raises(UserError, match=r"'skip' cannot be cut at 'branch1'.*'stem' to 'add'.*'stem' and 'add'"):
        splitting.split(model, "branch1")


def test_a_layer_that_is_applied_twice_is_no_place():
    with pytest.raises(UserError, match="applied 2 times"):
        splitting.split(skip_net(), "shared")


def test_the_input_and_unknown_layers_are_refused():
    with pytest.raises(UserError, match="the input itself"):
        splitting.split(small_net(0), "image")
    with pytest.raises(UserError, match="Did you mean 'conv1'"):
        splitting.split(small_net(0), "conv11")


def test_the_given_model_stays_as_it_was():
    model = small_net(0)
    before, nodes = model.get_weights(), [len(layer.inbound_nodes) for layer in model.layers]
    front, _ = splitting.split(model, "bn1")
    front.layers[1].kernel.assign_add(np.ones_like(front.layers[1].kernel))
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert nodes == [len(layer.inbound_nodes) for layer in model.layers]


def test_halves_survive_saving(tmp_path):
    model = models.build("resnet20_w1", input_shape=(8, 8, 3))
    front, back = assert_halves(model, "layer2.0.add")
    back.save(tmp_path / "back.keras")
    x = images(model)
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "back.keras")(front(x)), model(x))


@pytest.mark.parametrize(
    ("original", "ours"),
    [
        ("conv1", "stem_conv"),
        ("bn1", "stem_bn"),
        ("relu", "stem_relu"),
        ("layer1.0.add", "stage1_block1_add"),
        ("layer2.1.bn2", "stage2_block2_bn2"),
        ("layer2.0.downsample.0", "stage2_block1_shortcut_conv"),
        ("layer2.0.downsample", "stage2_block1_shortcut_bn"),
        ("layer3.2", "stage3_block3_relu2"),
        ("layer3", "stage3_block3_relu2"),
        ("avgpool", "pool"),
        ("fc", "classifier"),
    ],
)
def test_original_names_are_understood(original, ours):
    model = models.build("resnet20_w1", input_shape=(8, 8, 3), seed=None)
    assert splitting.resolve_layer(model, original) == ours
    assert splitting.resolve_layer(model, ours) == ours
    if original not in ("layer3", "layer2.0.downsample"):
        assert splitting.original_name(ours) == original


def test_a_relu_that_the_original_applies_twice_is_ambiguous():
    model = models.build("resnet20_w1", input_shape=(8, 8, 3), seed=None)
    with pytest.raises(UserError, match="stage1_block1_relu1 or stage1_block1_relu2"):
        splitting.resolve_layer(model, "layer1.0.relu")
    assert splitting.original_name("stage1_block1_relu1") is None


def test_nested_models_are_unpacked_and_can_be_cut_inside():
    inner = small_net(2, classes=6)
    inputs = keras.Input((8, 8, 1), name="outside")
    model = keras.Model(inputs, keras.layers.Dense(3, name="head")(inner(inputs * 2.0)), name="outer")
    flat = splitting.unpack(model)
    np.testing.assert_array_equal(flat(images(model)), model(images(model)))
    assert "small2_bn1" in valid(model)
    # Keras numbers the layers of operators through the process.
    (product,) = (layer.name for layer in model.layers if layer.name.startswith("tf.math.multiply"))
    for layer in (product, "small2_relu1", "small2_fc", "head"):
        assert_halves(model, layer)


def test_other_models_are_refused():
    a, b = keras.Input((4,)), keras.Input((4,))
    two = keras.Model([a, b], keras.layers.Dense(2, name="d")(keras.layers.Add(name="sum")([a, b])), name="two")
    with pytest.raises(UserError, match="2 inputs and 1 outputs"):
        splitting.split(two, "sum")
    with pytest.raises(UserError, match="tf_keras model"):
        splitting.cuts("model")
    sequence = keras.Sequential([keras.layers.Embedding(5, 3, input_length=4, name="e"), keras.layers.Flatten()])
    with pytest.raises(UserError, match=r"shape \[4, 3\]"):
        splitting.split(sequence, "e")


def reaches_output_without(edges, count, node):
    seen, stack = {0}, [0]
    while stack:
        for child in edges[stack.pop()]:
            if child != node and child not in seen:
                seen.add(child)
                stack.append(child)
    return count - 1 in seen


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_valid_cuts_are_those_without_which_nothing_reaches_the_output(data):
    count = data.draw(st.integers(3, 8))
    parents = {i: data.draw(st.sets(st.integers(0, i - 1), min_size=1, max_size=3)) for i in range(1, count)}
    # Every node must lead on, or Keras leaves it out: the last one takes all loose ends.
    used = set().union(*parents.values())
    parents[count - 1] |= {i for i in range(count - 1) if i not in used}
    tensors = [keras.Input((4,), name="n0")]
    for i in range(1, count):
        chosen = [tensors[p] for p in sorted(parents[i])]
        tensors.append(keras.layers.Average(name=f"n{i}")(chosen) if len(chosen) > 1
                       else keras.layers.Activation("tanh", name=f"n{i}")(chosen[0]))  # fmt: skip
    model = keras.Model(tensors[0], tensors[-1])
    edges = {i: [j for j in range(1, count) if i in parents[j]] for i in range(count)}
    expected = {f"n{i}" for i in range(1, count - 1) if not reaches_output_without(edges, count, i)} | {f"n{count - 1}"}
    places = splitting.cuts(model)
    assert {cut.name for cut in places if cut.valid} == expected
    for cut in places:
        if cut.bypass:
            source, target = (int(name[1:]) for name in cut.bypass)
            assert source < target
