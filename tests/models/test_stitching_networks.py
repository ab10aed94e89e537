"""The networks of the stitching work: parameters, names, PyTorch's numbers, start values."""

from collections import OrderedDict

import numpy as np
import pytest
import tf_keras as keras

from keras_relu import counting, models, splitting
from keras_relu.errors import UserError
from keras_relu.layers.response_norm import LocalResponseNormalization
from keras_relu.models import torch_weights


def parameters(name, **options):
    return counting.count(models.build(name, seed=None, **options)).parameters


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("tiny10", {}, 86_778),
        ("nbn_tiny10", {}, 86_138),
        ("lenet", {}, 61_706),
        ("dense", {"input_shape": (32, 32, 1)}, 491_110),
        ("dense", {}, 1_105_510),
        ("resnet20_w1", {}, 272_474),
        ("resnet20_w2", {}, 1_084_586),
        ("resnet20_w3", {}, 2_436_346),
        ("resnet20_w4", {}, 4_327_754),
        ("resnet20_w5", {}, 6_758_810),
        ("resnet_w3", {}, 2_436_346),
        ("inceptionv1", {"batch_norm": True}, 6_088_764),
        ("inceptionv1", {}, 6_074_180),
    ],
)
def test_parameters_are_those_of_the_specification(name, options, expected):
    assert parameters(name, **options) == expected


def test_sizes_of_tiny10():
    model = models.build("tiny10", seed=None)
    sizes = [tuple(model.get_layer(f"bn{i}").output.shape[1:]) for i in range(1, 9)]
    assert [size[0] for size in sizes] == [30, 28, 13, 11, 9, 4, 2, 2]
    assert [size[2] for size in sizes] == [16, 16, 32, 32, 32, 64, 64, 64]
    assert not any("bn" in layer.name for layer in models.build("nbn_tiny10", seed=None).layers)


def test_sizes_of_inception():
    model = models.build("inceptionv1", seed=None)
    found = [model.get_layer(f"mixed{name}").output.shape[1:] for name in ("3a", "3b", "4a", "4b", "4e", "5a", "5b")]
    assert [tuple(shape[1:]) for shape in found] == [(28, c) for c in (256, 480)] + [
        (14, c) for c in (508, 512, 832)
    ] + [(7, c) for c in (832, 1024)]
    assert model.output_shape == (None, 40)


@pytest.mark.parametrize("name", ["tiny10", "lenet", "dense", "resnet20_w1"])
def test_layers_have_the_names_of_the_original(name):
    original = {
        "tiny10": [f"{kind}{i}" for i in range(1, 9) for kind in ("conv", "bn", "relu")] + ["fc"],
        "lenet": ["conv1", "relu1", "pool1", "conv2", "relu2", "pool2", "fc1", "relu3", "fc2", "relu4", "fc3"],
        "dense": ["fc1", "relu1", "fc2", "relu2", "fc3", "relu3", "fc4"],
        "resnet20_w1": ["conv1", "bn1", "relu", *(f"layer{s}.{b}.add" for s in (1, 2, 3) for b in (0, 1, 2)), "fc"],
    }[name]
    model = models.build(name, seed=None)
    order = [layer.name for layer in model.layers]
    places = [order.index(splitting.resolve_layer(model, layer)) for layer in original]
    assert places == sorted(places)


def test_start_values_belong_to_the_seed_and_have_pytorchs_spread():
    one, same, other = (models.build("tiny10", seed=seed).get_weights() for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not np.array_equal(one[0], other[0])
    conv = models.build("tiny10").get_layer("conv7")
    bound = 1 / np.sqrt(9 * 64)
    for values in (conv.kernel.numpy(), conv.bias.numpy()):
        assert np.abs(values).max() <= bound
        assert np.abs(values).max() > 0.9 * bound
    assert conv.kernel.numpy().std() == pytest.approx(bound / np.sqrt(3), rel=0.03)
    wide = models.build("resnet20_w2", input_shape=(8, 8, 3)).get_layer("stage3_block1_conv1").kernel.numpy()
    assert wide.std() == pytest.approx(np.sqrt(2 / (9 * 128)), rel=0.03)


@pytest.mark.parametrize(("name", "size"), [("tiny10", 26), ("lenet", 15)])
def test_images_that_are_too_small_are_refused(name, size):
    models.build(name, input_shape=(size + 1, size + 1, 1), seed=None)
    with pytest.raises(UserError, match=f"at least {size + 1}x{size + 1}"):
        models.build(name, input_shape=(size, size, 1), seed=None)


def test_response_normalization_is_refused_with_an_even_size_and_survives_saving(tmp_path):
    with pytest.raises(UserError, match="odd size"):
        LocalResponseNormalization(size=4)
    inputs = keras.Input((2, 2, 6))
    model = keras.Model(inputs, LocalResponseNormalization(size=3, alpha=0.5, beta=0.75, k=2.0)(inputs))
    x = np.random.default_rng(0).normal(size=(2, 2, 2, 6)).astype("float32")
    padded = np.pad(np.square(x), [(0, 0)] * 3 + [(1, 1)])
    sums = padded[..., :-2] + padded[..., 1:-1] + padded[..., 2:]
    np.testing.assert_allclose(model(x), x / (2 + 0.5 / 3 * sums) ** 0.75, rtol=1e-5)
    model.save(tmp_path / "m.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "m.keras")(x), model(x))


def chain(torch, name, channels):
    """The original as a plain chain of PyTorch layers, under the original's names."""
    nn, layers = torch.nn, []
    if name == "lenet":
        layers = [("conv1", nn.Conv2d(channels, 6, 5)), ("relu1", nn.ReLU()), ("pool1", nn.MaxPool2d(2))]
        layers += [("conv2", nn.Conv2d(6, 16, 5)), ("relu2", nn.ReLU()), ("pool2", nn.MaxPool2d(2))]
        layers += [("flatten", nn.Flatten()), ("fc1", nn.Linear(400, 120)), ("relu3", nn.ReLU())]
        layers += [("fc2", nn.Linear(120, 84)), ("relu4", nn.ReLU()), ("fc3", nn.Linear(84, 7))]
    elif name == "dense":
        layers = [("flatten", nn.Flatten())]
        for i, (width, out) in enumerate([(channels * 1024, 300), (300, 300), (300, 300)], start=1):
            layers += [(f"fc{i}", nn.Linear(width, out)), (f"relu{i}", nn.ReLU())]
        layers.append(("fc4", nn.Linear(300, 7)))
    else:
        width = channels
        plan = [(3, 1, 16), (3, 1, 16), (3, 2, 32), (3, 1, 32), (3, 1, 32), (3, 2, 64), (3, 1, 64), (1, 1, 64)]
        for i, (kernel, stride, filters) in enumerate(plan, start=1):
            layers.append((f"conv{i}", nn.Conv2d(width, filters, kernel, stride)))
            layers += [(f"bn{i}", nn.BatchNorm2d(filters))] if name == "tiny10" else []
            layers.append((f"relu{i}", nn.ReLU()))
            width = filters
        layers += [("mean", nn.AdaptiveAvgPool2d(1)), ("flat", nn.Flatten()), ("fc", nn.Linear(64, 7))]
    return nn.Sequential(OrderedDict(layers))


@pytest.mark.torch
@pytest.mark.parametrize(("name", "channels"), [("tiny10", 3), ("nbn_tiny10", 1), ("lenet", 1), ("dense", 3)])
def test_converted_weights_give_the_logits_of_pytorch(tmp_path, name, channels):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    net = chain(torch, name, channels).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    torch.save(net.state_dict(), tmp_path / "weights.pt", _use_new_zipfile_serialization=False)
    model = torch_weights.convert(tmp_path / "weights.pt", name, input_shape=(32, 32, channels))
    assert model.output_shape == (None, 7)
    x = np.random.default_rng(0).normal(size=(3, 32, 32, channels)).astype("float32")
    with torch.no_grad():
        theirs = net(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    np.testing.assert_allclose(model(x), theirs, atol=1e-4)


@pytest.mark.torch
def test_response_normalization_is_that_of_pytorch():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 20)).astype("float32") * 30
    theirs = torch.nn.LocalResponseNorm(9, alpha=1e-2, beta=0.5, k=1)(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
    ours = LocalResponseNormalization(size=9, alpha=1e-2, beta=0.5, k=1.0)(x)
    np.testing.assert_allclose(ours, theirs.numpy().transpose(0, 2, 3, 1), rtol=1e-4)
