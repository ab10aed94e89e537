"""Parameters, multiply-accumulates and ReLUs of every registered network against the published table."""

import functools

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from keras_relu import counting, models

# name: sites, ReLUs at 32x32, parameters (10 classes), parameters (100 classes), MACs (32x32, 10 classes)
TABLE = {
    "resnet9_small": (9, 126_976, 4_903_242, 4_949_412, 64_689_152),
    "resnet18_small": (17, 188_416, 11_173_962, 11_220_132, 140_186_624),
    "resnet34_small": (33, 290_816, 21_282_122, 21_328_292, 291_181_568),
    "resnet50_small": (49, 784_384, 23_520_842, 23_705_252, 325_799_936),
    "resnet18": (17, 557_056, 11_173_962, 11_220_132, 555_422_720),
    "resnet34": (33, 966_656, 21_282_122, 21_328_292, 1_159_402_496),
    "resnet50": (49, 2_940_928, 23_520_842, 23_705_252, 1_297_829_888),
    "resnet9_snl": (8, 245_760, 4_903_242, 4_949_412, 253_432_832),
    "resnet18_snl": (16, 491_520, 11_173_962, 11_220_132, 555_422_720),
    "resnet34_snl": (32, 901_120, 21_282_122, 21_328_292, 1_159_402_496),
    "resnet50_snl": (48, 1_163_264, 30_727_498, 30_773_668, 1_763_382_272),
    "wide_resnet_16_8": (12, 901_120, 10_961_370, 11_007_540, 1_548_145_664),
    "wide_resnet_22_8": (18, 1_359_872, 17_158_106, 17_204_276, 2_454_115_328),
}
# Rows whose MACs the table rounds to a million, and which have no 100-class column.
LARGE = {
    "resnet101": (100, 4_612_096, 42_512_970, 2_510),
    "resnet152": (151, 6_676_480, 58_156_618, 3_722),
    "wide_resnet_28_10": (24, 2_269_184, 36_479_194, 5_243),
    "wide_resnet_28_12": (24, 2_719_744, 52_517_850, 7_544),
}
# Not in that table. CIFAR ResNets of depth 6n+2: (2n+1) 16,384 + 2n 8,192 + 2n 4,096 ReLUs, parameters as published
# with the PyTorch version; ImageNet stems: torchvision's parameters, ReLUs summed by hand.
OTHERS = {
    "resnet9": (9, 311_296, 4_903_242),
    "resnet20": (19, 188_416, 269_722),
    "resnet32": (31, 303_104, 464_154),
    "resnet44": (43, 417_792, 658_586),
    "resnet56": (55, 532_480, 853_018),
    "resnet110": (109, 1_048_576, 1_727_962),
    "resnet18_imagenet": (17, 2_308_096, 11_689_512),
    "resnet34_imagenet": (33, 3_562_496, 21_797_672),
    "resnet50_imagenet": (49, 9_608_704, 25_557_032),
}
# Counted in test_stitching_networks.py and test_compact_networks.py.
STITCHING = {"dense", "inceptionv1", "lenet", "nbn_tiny10", "tiny10"}
STITCHING |= {f"{stem}_w{width}" for stem in ("resnet20", "resnet") for width in range(1, 6)}
COMPACT = {
    f"{name}_{level}_cifar10"
    for name in ("mobilenet_v2", "mnasnet", "shufflenet")
    for level in ("baseline", "modified")
}
COMPACT |= {"fusionet_cifar10", "fusionet_cifar100", "mnasnet_cifar100", "mobilenet_v2_cifar100"}
SLOW = {"resnet101", "resnet152", "resnet110"}


@functools.cache
def counted(name, classes=None, size=None):
    return counting.count(models.build(name, classes=classes, input_shape=size and (size, size, 3), seed=None))


def maybe_slow(names):
    return [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in names]


@pytest.mark.parametrize("name", TABLE)
def test_row_of_the_table_with_10_classes(name):
    sites, relus, parameters, _, macs = TABLE[name]
    counts = counted(name)
    assert (len(counts.sites), counts.relu_count, counts.parameters, counts.macs) == (sites, relus, parameters, macs)
    assert counts.trainable_parameters == counts.parameters


@pytest.mark.parametrize("name", TABLE)
def test_row_of_the_table_with_100_classes(name):
    counts = counted(name, 100)
    _, relus, parameters_10, parameters, macs = TABLE[name]
    features = (parameters - parameters_10) // 90 - 1
    assert (counts.relu_count, counts.parameters, counts.macs) == (relus, parameters, macs + 90 * features)


@pytest.mark.parametrize("name", maybe_slow(LARGE))
def test_large_row_of_the_table(name):
    sites, relus, parameters, mega_macs = LARGE[name]
    counts = counted(name)
    assert (len(counts.sites), counts.relu_count, counts.parameters) == (sites, relus, parameters)
    assert round(counts.macs / 1e6) == mega_macs


@pytest.mark.parametrize("name", maybe_slow(OTHERS))
def test_other_networks(name):
    sites, relus, parameters = OTHERS[name]
    counts = counted(name)
    assert (len(counts.sites), counts.relu_count, counts.parameters) == (sites, relus, parameters)


def test_every_registered_network_is_in_a_table():
    assert set(models.list_models()) == {*TABLE, *LARGE, *OTHERS, *STITCHING, *COMPACT}


@pytest.mark.parametrize(
    ("name", "relus", "parameters", "mega_macs"),
    [
        ("resnet18_small", 753_664, 11_271_432, 560.83),
        ("resnet18_snl", 1_966_080, 11_271_432, 2_221.77),
        ("wide_resnet_22_8", 5_439_488, 17_255_576, 9_816.54),
    ],
)
def test_tiny_imagenet_row(name, relus, parameters, mega_macs):
    counts = counted(name, 200, 64)
    assert (counts.relu_count, counts.parameters, round(counts.macs / 1e6, 2)) == (relus, parameters, mega_macs)


def test_site_names_and_shapes_of_resnet18():
    sites = counted("resnet18").sites
    assert [site.name for site in sites[:3]] == ["stem_relu", "stage1_block1_relu1", "stage1_block1_relu2"]
    assert sites[-1].name == "stage4_block2_relu2"
    assert [site.shape for site in sites[::4]] == [(32, 32, 64), (32, 32, 64), (16, 16, 128), (8, 8, 256), (4, 4, 512)]


def test_each_site_is_a_relu_layer_of_its_own():
    model = models.build("resnet20", seed=None)
    relus = [layer.name for layer in model.layers if isinstance(layer, keras.layers.ReLU)]
    assert sorted(relus) == sorted(site.name for site in counted("resnet20").sites)
    assert all(len(model.get_layer(name).inbound_nodes) == 1 for name in relus)


def test_batch_norm_has_the_constants_of_pytorch():
    layer = models.build("resnet18_small", seed=None).get_layer("stage2_block1_shortcut_bn")
    assert (layer.epsilon, layer.momentum) == (1e-5, 0.9)


def test_classifier_gives_float32_logits_under_mixed_precision():
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = models.build("resnet20", seed=None, input_shape=(8, 8, 1))
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert model.output.dtype == tf.float32
    assert model.get_layer("stem_conv").compute_dtype == "float16"


@pytest.mark.parametrize("name", ["resnet20", "resnet9_small", "resnet9_snl", "wide_resnet_16_8"])
def test_smallest_images_work(name):
    model = models.build(name, input_shape=(1, 3, 1), classes=2, seed=None)
    assert model(np.ones((2, 1, 3, 1), "float32")).shape == (2, 2)


def test_dropout_option_adds_layers_only_when_asked():
    with_dropout = models.build("wide_resnet_16_8", dropout=0.2, seed=None)
    assert sum(isinstance(layer, keras.layers.Dropout) for layer in with_dropout.layers) == 6
    assert not any(
        isinstance(layer, keras.layers.Dropout) for layer in models.build("wide_resnet_16_8", seed=None).layers
    )
