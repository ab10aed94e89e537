"""The registry: names, options, seeds, bad input."""

import sys

import numpy as np
import pytest
import tf_keras as keras

from keras_relu import models
from keras_relu.errors import UserError
from keras_relu.models import registry, torch_weights

SMALL = {"input_shape": (8, 8, 1), "classes": 3}


def weights(seed):
    return models.build("resnet20", seed=seed, **SMALL).get_weights()


def test_list_models_takes_a_shell_pattern():
    assert models.list_models("resnet18*") == ["resnet18", "resnet18_small", "resnet18_snl", "resnet18_imagenet"]
    assert models.list_models("nothing*") == []
    assert len(models.list_models()) == len(set(models.list_models()))


def test_a_seed_gives_the_same_weights_again_and_another_seed_others():
    first, again, other = weights(3), weights(3), weights(4)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])


def test_kernels_of_one_shape_start_differently():
    model = models.build("resnet20", **SMALL)
    a, b = (model.get_layer(f"stage1_block{block}_conv1").kernel.numpy() for block in (1, 2))
    assert not np.array_equal(a, b)


def test_kernels_are_kaiming_normal_over_the_fan_in():
    kernel = models.build("resnet20", **SMALL).get_layer("stage3_block2_conv1").kernel.numpy()
    assert abs(kernel.std() / np.sqrt(2 / (9 * 64)) - 1) < 0.02
    assert abs(kernel).max() > 3.5 * kernel.std()


def test_option_b_has_convolutions_on_the_shortcuts():
    plain, convolved = (models.build("resnet20", shortcut=s, seed=None, **SMALL) for s in "AB")
    assert convolved.get_layer("stage2_block1_shortcut_conv").kernel.shape == (1, 1, 16, 32)
    assert plain.get_layer("stage2_block1_shortcut").weights == []


def test_networks_survive_saving(tmp_path):
    model = models.build("resnet9_small", **SMALL)
    small = models.build("resnet20", **SMALL)
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype("float32")
    for network in (model, small):
        network.save(tmp_path / "m.keras")
        assert np.array_equal(keras.models.load_model(tmp_path / "m.keras")(x), network(x))


def test_describe_has_the_stable_keys():
    facts = models.describe("resnet20", **SMALL)
    assert {key: facts[key] for key in ("name", "family", "input_shape", "classes")} == {
        "name": "resnet20", "family": "resnet_cifar", "input_shape": [8, 8, 1], "classes": 3,
    }  # fmt: skip
    assert facts["sites"][0] == {"name": "stem_relu", "shape": [8, 8, 16], "relu_count": 1024}
    assert facts["relu_count"] == sum(site["relu_count"] for site in facts["sites"]) == 188_416 // 16
    assert facts["parameters"] == facts["trainable_parameters"] == 269_722 - 2 * 9 * 16 - 7 * 65
    assert facts["macs"] > 0


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'resnet20'"):
        models.build("resnet_20")
    with pytest.raises(UserError, match="model"):
        models.describe("nothing")


def test_unknown_option_is_refused():
    with pytest.raises(UserError, match="Did you mean 'shortcut'"):
        models.build("resnet20", shortcuts="A")


@pytest.mark.parametrize(
    ("name", "option", "words"),
    [("resnet20", {"shortcut": "C"}, "shortcut 'C'"), ("wide_resnet_16_8", {"dropout": 1.0}, r"dropout .* 1\.0")],
)
def test_bad_option_values_are_refused(name, option, words):
    with pytest.raises(UserError, match=words):
        models.build(name, **option)


@pytest.mark.parametrize("classes", [0, -1, 2.5, "10"])
def test_bad_classes_are_refused(classes):
    with pytest.raises(UserError, match="classes"):
        models.build("resnet20", classes=classes)


@pytest.mark.parametrize("shape", [(32, 32), (0, 32, 3), (None, None, 3), "32x32x3", 32])
def test_bad_input_shapes_are_refused(shape):
    with pytest.raises(UserError, match="input shape"):
        models.build("resnet20", input_shape=shape)


def test_a_name_cannot_be_registered_twice():
    with pytest.raises(UserError, match="'resnet20' is registered"):
        registry.register("resnet20", family="mine")(lambda *_: None)


def test_own_builders_can_be_registered(monkeypatch):
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))

    @models.register("two_layers", family="mine", input_shape=(4, 4, 1), options={"width": 5})
    def build_two_layers(name, input_shape, classes, seed, *, width):
        inputs = keras.Input(input_shape)
        x = keras.layers.Dense(width, activation="relu")(keras.layers.Flatten()(inputs))
        return keras.Model(inputs, keras.layers.Dense(classes)(x), name=name)

    assert models.describe("two_layers")["relu_count"] == 5
    assert models.build("two_layers", width=7).count_params() == 17 * 7 + 80


def test_without_torch_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "weights.pt").write_bytes(b"")
    with pytest.raises(UserError, match=r"pip install keras_relu\[torch\]"):
        torch_weights.convert(tmp_path / "weights.pt", "resnet20")
