"""The layers: values, gradients, files, exported graphs, counts."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from reference import borrowed as reference

from keras_relu import counting
from keras_relu.activations import InducedReLU, InducerReLU, PrototypeBits
from keras_relu.activations.induced import gate_bits, induced_relu, prototype_bits
from keras_relu.errors import UserError

SHAPE = (4, 3, 2)
PLACES = np.array([5, 0, 23])
CODES = np.random.default_rng(1).integers(0, 8, 24)


def images(batch=5, seed=0):
    x = np.random.default_rng(seed).normal(size=(batch, *SHAPE)).astype(np.float32)
    x[0, 0, 0, 0] = 0.0
    return x


def make_model(max_value=None, *, own=True):
    """x -> its prototypes' bits -> y gated by them; with `own` False the inducer keeps its whole ReLU."""
    inputs = keras.Input(SHAPE)
    if own:
        x, bits = inputs, PrototypeBits(3, name="bits")(inputs)
    else:
        x, bits = InducerReLU(3, max_value, name="bits")(inputs)
    outputs = InducedReLU(max_value, name="borrowed")([x, bits])
    model = keras.Model(inputs, outputs)
    model.get_layer("bits").set_indices(PLACES)
    model.get_layer("borrowed").set_codes(CODES)
    return model


def expected(x, max_value=None):
    flat = x.reshape(len(x), -1)
    gate = reference.gate((flat[:, PLACES] >= 0).astype(int), CODES).reshape(x.shape)
    y = np.where(gate, x, 0)
    return (y if max_value is None else np.minimum(y, max_value)), gate


@pytest.mark.parametrize("max_value", [None, 0.5])
def test_values_and_gradient(max_value):
    x = tf.constant(images())
    y, gate = expected(x.numpy(), max_value)
    with tf.GradientTape() as tape:
        tape.watch(x)
        found = make_model(max_value)(x)
    np.testing.assert_array_equal(found, y)
    # dy/dx is the gate; nothing flows through the bits, also where they are this very input's.
    inside = gate if max_value is None else gate * (np.where(gate, x, 0) <= max_value)
    np.testing.assert_array_equal(tape.gradient(found, x), inside)


def test_zero_counts_as_positive_and_bits_have_no_gradient():
    x = tf.constant(images())
    with tf.GradientTape() as tape:
        tape.watch(x)
        bits = tf.cast(prototype_bits(x, tf.constant([0, 3])), tf.float32)
    assert bits[0, 0] == 1
    assert tape.gradient(bits, x) is None
    bits = tf.constant([[True, False]])
    assert gate_bits(bits, tf.range(6)).numpy().tolist() == [[True, False, False, True, True, False]]


def test_infinite_inputs_of_closed_gates_give_zero():
    x = tf.constant([[np.inf, -np.inf, 1.0]], tf.float32)
    y = induced_relu(x, tf.constant([[False]]), tf.constant([0, 0, 1]))
    assert y.numpy().tolist() == [[0.0, 0.0, 1.0]]


@pytest.mark.parametrize("max_value", [None, 0.5])
def test_an_inducer_keeps_its_relu_and_hands_out_bits(max_value):
    layer = InducerReLU(3, max_value)
    x = tf.constant(images())
    layer(x)
    layer.set_indices(PLACES)
    y, bits = layer(x)
    np.testing.assert_array_equal(y, tf.minimum(tf.nn.relu(x), max_value or np.inf))
    np.testing.assert_array_equal(bits, x.numpy().reshape(5, -1)[:, PLACES] >= 0)


@pytest.mark.parametrize("own", [True, False])
def test_files_hold_the_same_function(own, tmp_path):
    model, x = make_model(0.5, own=own), images()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(x), model(x))
    assert loaded.get_layer("borrowed").get_config()["max_value"] == 0.5


def test_the_exported_graph_compares_the_prototypes_alone(tmp_path):
    from keras_relu.export import export

    model = make_model()
    record = export(keras.Sequential([model, keras.layers.Flatten()]), tmp_path / "saved")
    assert record["max_difference"] == 0.0
    assert record["ops"]["GreaterEqual"] == 1
    graph = tf.function(model).get_concrete_function(tf.TensorSpec([7, *SHAPE])).graph
    compared = [op for op in graph.get_operations() if op.type == "GreaterEqual"]
    assert [op.outputs[0].shape.as_list() for op in compared] == [[7, 3]]
    assert not any(op.type in ("Relu", "Greater", "Maximum") for op in graph.get_operations())


def test_counts():
    sites = {site.name: site for site in counting.count(make_model()).sites}
    assert (sites["bits"].comparison_count, sites["bits"].relu_count) == (3, 0)
    assert sites["borrowed"].comparison_count == 0
    assert sites["borrowed"].multiplications == int((CODES < 6).sum())
    capped = {site.name: site for site in counting.count(make_model(0.5, own=False)).sites}
    assert (capped["bits"].relu_count, capped["bits"].comparison_count) == (24, 48)
    assert capped["borrowed"].comparison_count == 24
    executed = [layer.runtime_facts() for layer in make_model().layers if hasattr(layer, "runtime_facts")]
    assert [(facts["comparison_count"], facts["products"]) for facts in executed] == [(3, 0), (0, 24)]
    capped = make_model(0.5, own=False)
    executed = [layer.runtime_facts() for layer in capped.layers if hasattr(layer, "runtime_facts")]
    assert [(facts["comparison_count"], facts["comparison_levels"]) for facts in executed] == [(48, 2), (24, 1)]


def test_wrong_arguments():
    model = make_model()
    for places in ([0, 1], [0, 1, 24], [0, 1, -1]):
        with pytest.raises(UserError, match="3 indices from 0 to 23"):
            model.get_layer("bits").set_indices(np.array(places))
    for codes in (CODES[:5], CODES + 1):
        with pytest.raises(UserError, match="24 codes from 0 to 7"):
            model.get_layer("borrowed").set_codes(codes)
    with pytest.raises(UserError, match="whole number of at least 0"):
        PrototypeBits(-1)
    with pytest.raises(UserError, match="above 0"):
        InducedReLU(0.0)
    with pytest.raises(UserError, match=r"\[x, bits\]"):
        InducedReLU()(tf.zeros([1, 4]))
    with pytest.raises(UserError, match="all known"):
        PrototypeBits(1)(keras.Input((None, 3, 2)))
