"""The estimator against arithmetic by hand."""

import math

import pytest
import tf_keras as keras

from keras_relu import lowering, models
from keras_relu.cost.estimate import estimate, replacement_prices
from keras_relu.cost.link import Link
from keras_relu.cost.presets import get_preset
from keras_relu.cost.work import work_of
from keras_relu.errors import UserError
from keras_relu.layers.fake_quant import FakeQuant
from keras_relu.layers.ternary import TernaryConv2D, TernaryDepthwiseConv2D


def by_name(model):
    return {work.name: work for work in work_of(model)[0]}


def test_work_of_each_kind_of_layer(network):
    works = by_name(network)
    assert works["conv1"].macs == 64 * 27 * 8
    assert works["conv1"].linear_inputs == 64 * 27
    assert works["conv1"].linear_weights == 27 * 8
    assert works["conv1"].linear_outputs == works["conv1"].relu_outputs == 512
    assert works["conv2"].linear_inputs == 64 * 9 * 8
    assert works["relu1"].comparisons == works["relu1"].relu_count == 512
    assert (works["bn1"].inverse_roots, works["bn1"].weight_products) == (8, 512)
    assert works["pool"].comparisons == works["pool"].pool_comparisons == 3 * 16 * 8
    assert works["pool"].comparison_levels == 2
    assert (works["mean"].constant_products, works["mean"].known_signs) == (8, 8)
    assert (works["dense"].linear_inputs, works["dense"].linear_outputs) == (8, 5)
    assert works["dense"].relu_outputs == 0
    assert "add" not in works


def test_a_selection_executes_both_sides(reduced):
    works = by_name(reduced["quadratic"])
    relu1 = works["relu1"]
    assert relu1.comparisons == relu1.products == relu1.constant_products == 512
    assert relu1.relu_count < 200
    lowered = by_name(lowering.lower_masks(reduced["quadratic"]).model)["relu1"]
    assert lowered.comparisons == lowered.relu_count == relu1.relu_count
    assert lowered.products == 512 - relu1.relu_count


def test_relu6_compares_twice_in_a_row():
    inputs = keras.Input((4, 4, 2))
    work = by_name(keras.Model(inputs, keras.layers.ReLU(6.0, name="relu6")(inputs)))["relu6"]
    assert (work.comparisons, work.comparison_levels, work.relu_count) == (64, 2, 32)


def test_resnet20_under_semi2k_by_hand():
    model = lowering.lower_masks(models.build("resnet20", seed=None)).model
    made = estimate(model, "spu-semi2k-64", weights="public", link=Link.parse("384Mbps", "40ms"))
    relus = 188_416
    assert made.relu_count == made.executed_comparisons == relus
    assert made.comparison_bytes == 112 * relus
    assert made.part_bytes()["selection"] == 32 * relus
    assert made.relu_layers == 19
    # 21 linear layers and one mean, each truncated once; 19 ReLUs of 7 + 1 rounds.
    assert made.rounds == 19 * 8 + 20 + 1
    truncated = relus + 10 + 64
    assert made.part_bytes()["truncation"] == 8 * truncated
    assert made.transfer_s == pytest.approx(made.bytes * 8 / 384e6)
    assert made.latency_s == pytest.approx(made.rounds * 0.02)
    secret = estimate(model, "spu-semi2k-64", weights="secret")
    windows = 1024 * 27 + 6 * 1024 * 144 + 256 * 144 + 5 * 256 * 288 + 64 * 288 + 5 * 64 * 576 + 64
    assert secret.part_bytes()["linear"] == 16 * (windows + 267_696 + 640)
    assert secret.rounds == made.rounds + 20


def test_garbled_circuits_store():
    made = estimate(models.build("resnet20", seed=None), "delphi-gc-epyc", threads=4)
    assert made.evaluator_storage_bytes == 188_416 * 18_248
    assert made.garbler_storage_bytes == 188_416 * 3_590
    assert made.bytes == 188_416 * 1_176
    assert made.compute_s == pytest.approx(188_416 * 54.6e-6 / 4)
    assert made.offline_s == pytest.approx(188_416 * 103.7e-6 / 4)
    assert any("left out of the totals" in note for note in made.notes)


def test_conventions_of_papers_are_printed_beside():
    resnet18 = models.build("resnet18", seed=None)
    counts = {name: estimate(resnet18, "delphi-gc-epyc", convention=name).relu_count for name in ("relu", "snl")}
    assert counts == {"relu": 557_056, "snl": 491_520}


def test_reported_seconds_are_a_line():
    made = estimate(models.build("resnet20", seed=None), "delphi-reported")
    assert made.seconds == pytest.approx(188_416 * 20.9e-6 + 0.09)
    assert made.bytes is None
    assert "comparison_bytes" in made.missing


def test_truncation_after_a_relu_knows_the_sign(network, reduced):
    """A ReLU that is replaced takes the cheap truncation of the layer before with it."""
    full = estimate(lowering.lower_masks(network).model, "cheetah-64-documented")
    part = estimate(lowering.lower_masks(reduced["identity"]).model, "cheetah-64-documented")
    known, unknown = 36.252 / 8, 723.754 / 8
    first = {layer.work.name: layer for layer in full.layers}["conv1"]
    assert first.part_bytes["truncation"] == pytest.approx(512 * known)
    lost = {layer.work.name: layer for layer in part.layers}["conv1"]
    assert lost.part_bytes["truncation"] == pytest.approx(512 * unknown)


def test_which_replacement_pays_depends_on_the_protocol():
    prices = {name: replacement_prices(get_preset(name)) for name in ("spu-semi2k-64", "spu-cheetah-64")}
    for price in prices.values():
        assert price["identity"]["bytes"] == price["identity"]["rounds"] == 0
    assert prices["spu-semi2k-64"]["quadratic"]["bytes"] < prices["spu-semi2k-64"]["relu"]["bytes"] / 2
    assert prices["spu-cheetah-64"]["quadratic"]["bytes"] > 2 * prices["spu-cheetah-64"]["relu"]["bytes"]
    assert prices["spu-cheetah-64"]["quadratic"]["rounds"] < prices["spu-cheetah-64"]["relu"]["rounds"]


def test_warnings_name_the_layer(reduced):
    made = estimate(reduced["identity"], "spu-semi2k-64")
    assert any("relu1 evaluates 512 comparisons" in warning for warning in made.warnings)
    lowered = estimate(lowering.lower_masks(reduced["identity"]).model, "spu-semi2k-64")
    assert any(warning.startswith("relu1 keeps") and "of rounds" in warning for warning in lowered.warnings)
    assert any("public architecture" in note for note in lowered.notes)


def test_unfolded_normalisation_is_not_free(network):
    made = estimate(network, "spu-semi2k-64")
    assert "inverse_root_bytes" in made.missing or made.part_bytes()["normalisation"] > 0
    assert estimate(network, "spu-semi2k-64", weights="public").part_bytes()["normalisation"] == 0


def test_plain_values_for_json(network):
    values = estimate(network, "spu-aby3-64").to_dict()
    assert values["convention"] == "relu"
    assert len(values["layers"]) == len(work_of(network)[0])
    assert not any(isinstance(value, float) and not math.isfinite(value) for value in values.values())


def test_what_is_unknown_is_refused(network):
    with pytest.raises(UserError, match="cost preset"):
        estimate(network, "nothing")
    with pytest.raises(UserError, match="kind of weights"):
        estimate(network, "spu-aby3-64", weights="mine")


def test_predictors_are_priced_as_the_convolutions_they_are():
    inputs = keras.Input((8, 8, 4))
    x = FakeQuant(name="quant")(inputs)
    x = TernaryConv2D(6, 3, padding="same", use_bias=False, name="ternary")(x)
    model = keras.Model(inputs, TernaryDepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(x))
    works, notes = work_of(model)
    plain = keras.Sequential([keras.Input((8, 8, 4)), keras.layers.Conv2D(6, 3, padding="same", use_bias=False)])
    (wanted,) = work_of(plain)[0]
    found = {work.name: work for work in works}
    for key in ("macs", "linear_outputs", "linear_weights", "linear_inputs"):
        assert getattr(found["ternary"], key) == getattr(wanted, key) > 0
    assert found["depthwise"].macs == 64 * 9 * 6
    assert any("'quant'" in note and "not priced" in note for note in notes)
