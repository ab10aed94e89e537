"""Extraction and validation on a small network: one pass, any layer, numbers that agree with the decomposed model itself."""

import dataclasses

import numpy as np
import pytest
import tf_keras as keras

from keras_relu import data, decomposition
from keras_relu.data.splits import ArraySplit
from keras_relu.decomposition.head import feature_batches
from keras_relu.decomposition.selection import ResponseStatistics
from keras_relu.decomposition.tables import FilterTable
from keras_relu.errors import UserError
from keras_relu.evaluate import evaluate
from keras_relu.fingerprint import model_hash
from keras_relu.runs import load_model


@pytest.fixture(scope="module")
def model(trained):
    return load_model(trained)


@pytest.fixture(scope="module")
def tables(model, digits):
    return decomposition.extract(model, digits, top_k=(2, 4))


def pooled(model, images, layer="pool"):
    return keras.Model(model.input, model.get_layer(layer).output)(images).numpy()


def test_frequency_rule_against_counting_by_hand(model, digits, tables):
    images = np.concatenate([batch.numpy() for batch, _ in digits.train.batches(100)])
    responses = pooled(model, digits.normalization.apply(images))
    for table in tables:
        for number, row in enumerate(table.rows):
            votes = np.zeros(12, int)
            for image in responses[digits.train.labels == number]:
                votes[np.argsort(-image, kind="stable")[: table.top_k]] += 1
            assert row == np.argsort(-votes, kind="stable")[: table.top_k].tolist()
            assert table.facts["scores"][number] == votes[row].tolist()


def test_facts_of_a_table(model, digits, tables):
    facts = tables[0].facts
    assert facts["filters"] == 12
    assert facts["layer"] == "pool"
    assert (facts["rule"], facts["dataset"], facts["normalization"]) == ("frequency", "digits", "digits")
    assert facts["images"] == 256
    assert facts["model_hash"] == model_hash(model)
    assert 0 < facts["mean_mass"] < tables[1].facts["mean_mass"] < 1


def test_the_images_are_read_once_for_all_classes_and_sizes(model, digits, monkeypatch):
    passes = []
    original = ArraySplit.batches

    def counted(self, batch_size):
        passes.append(self.name)
        return original(self, batch_size)

    monkeypatch.setattr(ArraySplit, "batches", counted)
    decomposition.extract(model, digits, top_k=(1, 2, 3, 0.5))
    assert passes == ["train"]
    decomposition.extract(model, digits, top_k=(1, 2), rule="weight")
    assert passes == ["train"]


@pytest.mark.parametrize("batch_size", [17, 256])
def test_batches_do_not_matter(model, digits, tables, batch_size):
    again = decomposition.extract(model, digits, top_k=(2, 4), batch_size=batch_size)
    assert [table.rows for table in again] == [table.rows for table in tables]


def test_any_layer(model, digits):
    (table,) = decomposition.extract(model, digits, top_k=[2], layer="first_relu")
    images = np.concatenate([batch.numpy() for batch, _ in digits.train.batches(100)])
    responses = pooled(model, digits.normalization.apply(images), "first_relu").mean(axis=(1, 2))
    statistics = ResponseStatistics(10, 6, [2])
    statistics.update(responses, digits.train.labels)
    assert table.rows == decomposition.select("frequency", 2, statistics)[0]
    assert table.facts["filters"] == 6
    (same,) = decomposition.extract(model, digits, top_k=[2], layer="pool", rule="weight")
    assert same.rows == decomposition.extract(model, None, top_k=[2], rule="weight")[0].rows


def test_augmented_extraction_is_seeded(model, digits):
    def features(**options):
        batches = feature_batches(model, digits.train, digits.normalization, **options)
        return np.concatenate([batch for batch, _ in batches])

    plain, first, second = features(), features(augment_seed=1), features(augment_seed=2)
    np.testing.assert_array_equal(first, features(augment_seed=1))
    assert not np.array_equal(first, plain)
    assert not np.array_equal(first, second)


class TestValidate:
    def test_counts_are_those_of_the_models(self, model, digits, tables):
        result = decomposition.validate(model, tables, digits, batch_size=100)
        assert result["original"]["correct"] == evaluate(model, digits.test, digits.normalization)["correct"]
        for table, entry in zip(tables, result["tables"], strict=True):
            decomposed = decomposition.decompose(model, table.rows)
            expected = evaluate(decomposed, digits.test, digits.normalization)
            assert entry["correct"] == expected["correct"] == sum(entry["per_class_correct"])
            assert entry["loss"] == pytest.approx(expected["loss"], rel=1e-5)
            assert entry["parameters"] == decomposed.get_layer("classifier").count_params()
            assert entry["model_matches"] is True
        assert result["decomposed"] == result["tables"][0]
        assert result["total"] == sum(result["per_class_total"]) == 360
        assert (result["original"]["parameters"], result["original"]["multiplications"]) == (130, 120)

    def test_all_filters_agree_with_the_original(self, model, digits):
        entry = decomposition.validate(model, [FilterTable([list(range(12))] * 10)], digits)["decomposed"]
        assert entry["agreement"] == 1.0
        assert entry["model_matches"] is None

    def test_other_weights_are_noticed(self, network, digits, tables):
        assert decomposition.validate(network, tables, digits)["decomposed"]["model_matches"] is False

    def test_refusals(self, model, digits, tables):
        with pytest.raises(UserError, match="At least one index file"):
            decomposition.validate(model, [], digits)
        with pytest.raises(UserError, match="for 2 classes"):
            decomposition.validate(model, [FilterTable([[1], [2]])], digits)
        with pytest.raises(UserError, match="filter 12"):
            decomposition.validate(model, [FilterTable([[12]] * 10)], digits)
        with pytest.raises(UserError, match="for 6 filters"):
            decomposition.validate(model, [FilterTable([[1]] * 10, {"filters": 6})], digits)
        other = FilterTable(tables[0].rows, {"filters": 12, "layer": "first_relu", "last_layer": False})
        with pytest.raises(UserError, match="filters of layer 'first_relu'; the last layer reads 'pool'"):
            decomposition.validate(model, [other], digits)
        with pytest.raises(UserError, match="Unknown split 'val'"):
            decomposition.validate(model, tables, digits, split="val")
        with pytest.raises(UserError, match="has 10 classes"):
            decomposition.validate(_network(classes=4), [FilterTable([[1]] * 4)], digits)
        with pytest.raises(UserError, match="takes images"):
            decomposition.validate(_network(size=9), tables, digits)
        flat = keras.Sequential([keras.Input((64,)), keras.layers.Dense(10)])
        with pytest.raises(UserError, match=r"takes images \(64,\)"):
            decomposition.validate(flat, [FilterTable([[1]] * 10)], digits)

    def test_logits_that_are_not_finite(self, model, digits, tables):
        broken = keras.models.clone_model(model)
        broken.set_weights([np.full_like(weight, np.nan) for weight in model.get_weights()])
        with pytest.raises(UserError, match="NaN or infinite"):
            decomposition.validate(broken, tables, digits)


def _network(*, classes=10, size=8):
    inputs = keras.Input((size, size, 1))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(12, 3)(inputs))
    return keras.Model(inputs, keras.layers.Dense(classes)(x))


class TestHead:
    def test_activations_may_follow(self):
        inputs = keras.Input((4,))
        x = keras.layers.Dense(3, name="logits")(inputs)
        model = keras.Model(inputs, keras.layers.Softmax()(keras.layers.Activation("linear")(x)))
        head = decomposition.find_head(model)
        assert (head.dense.name, head.filters) == ("logits", 4)

    def test_a_sequential_model_with_a_body_inside(self, digits):
        body = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(5, 3, activation="relu")])
        parts = [keras.Input((8, 8, 1)), body, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10)]
        model = keras.Sequential(parts)
        (table,) = decomposition.extract(model, digits, top_k=[2])
        small = decomposition.decompose(model, table.rows)
        entry = decomposition.validate(model, [table], digits)["decomposed"]
        assert evaluate(small, digits.test, digits.normalization)["correct"] == entry["correct"]

    def test_a_layer_of_a_model_inside(self, digits):
        body = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(5, 3, name="inner")], name="body")
        parts = [keras.Input((8, 8, 1)), body, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10)]
        (table,) = decomposition.extract(keras.Sequential(parts), digits, top_k=[2], layer="body_inner")
        assert (table.facts["filters"], table.facts["layer"]) == (5, "body_inner")

    def test_a_head_without_bias(self, digits):
        inputs = keras.Input((8, 8, 1))
        x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(6, 3)(inputs))
        model = keras.Model(inputs, keras.layers.Dense(10, use_bias=False)(x))
        entry = decomposition.validate(model, [FilterTable([[1, 2]] * 10)], digits)
        assert (entry["original"]["parameters"], entry["decomposed"]["parameters"]) == (60, 20)

    def test_refusals(self, model):
        inputs = keras.Input((8, 8, 1))
        conv = keras.layers.Conv2D(10, 3, name="last")(inputs)
        with pytest.raises(UserError, match=r"ends in layer 'last' \(Conv2D\)"):
            decomposition.find_head(keras.Model(inputs, conv))
        with pytest.raises(UserError, match=r"\(Dense\)"):
            decomposition.find_head(keras.Model(inputs, keras.layers.Dense(2)(conv)))
        with pytest.raises(UserError, match="2 outputs"):
            decomposition.find_head(keras.Model(inputs, [conv, conv]))
        with pytest.raises(UserError, match="decomposed already"):
            decomposition.find_head(decomposition.decompose(model, [[1]] * 10))
        second = keras.Input((8, 8, 1))
        joined = keras.layers.GlobalAveragePooling2D()(keras.layers.Add()([inputs, second]))
        with pytest.raises(UserError, match="2 inputs"):
            decomposition.find_head(keras.Model([inputs, second], keras.layers.Dense(10)(joined)))
        with pytest.raises(UserError, match="Did you mean 'first_relu'"):
            decomposition.feature_model(model, "first_rel")
        sequence = keras.Model(inputs, keras.layers.Reshape((6, 60), name="sequence")(conv))
        with pytest.raises(UserError, match=r"output of layer 'sequence'"):
            decomposition.feature_model(sequence, "sequence")


class TestRefusals:
    def test_rule_and_sizes(self, model, digits):
        with pytest.raises(UserError, match="Unknown rule"):
            decomposition.extract(model, digits, rule="best")
        with pytest.raises(UserError, match="top_k is 13"):
            decomposition.extract(model, digits, top_k=[13])
        with pytest.raises(UserError, match="works at no other layer"):
            decomposition.extract(model, digits, top_k=[2], rule="weight", layer="first_relu")
        with pytest.raises(UserError, match="needs images"):
            decomposition.extract(model, None, top_k=[2])
        broken = keras.models.clone_model(model)
        broken.set_weights([np.full_like(weight, np.nan) for weight in model.get_weights()])
        with pytest.raises(UserError, match="weight of the last layer is NaN"):
            decomposition.extract(broken, top_k=[2], rule="weight")
        with pytest.raises(UserError, match="has diverged: its weight"):
            decomposition.extract(broken, digits, top_k=[2])

    def test_a_class_without_images(self, model):
        images = data.load("digits", limit=256, validation_fraction=0)
        part = images.train.subset(np.flatnonzero(images.train.labels != 3), name="train")
        with_gap = _WithTrain(images, part)
        with pytest.raises(UserError, match=r"Class 3 \(.*\) has no training image"):
            decomposition.extract(model, with_gap, top_k=[2])


@dataclasses.dataclass
class _WithTrain:
    """A data set with another training split."""

    dataset: object
    train: object

    def __getattr__(self, name):
        return getattr(self.dataset, name)
