"""The compact networks against the table of spec fusion, section 1.10, and the layers they are made of."""

import functools

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from keras_relu import counting, models
from keras_relu.errors import UserError
from keras_relu.layers.channel_shuffle import ChannelShuffle

# parameters, trainable, (convolution, depthwise, squeeze-excite, dense) MACs, ReLU layers, ReLUs,
# convolutions (groups apart), depthwise convolutions, batch normalisations
TABLE = {
    "mobilenet_v2_baseline_cifar10": (
        (2_271_946, 2_237_770),
        (281_509_888, 15_998_976, 0, 12_800),
        (36, 3_928_064),
        (36, 17, 53),
    ),
    "mobilenet_v2_modified_cifar10": (
        (1_174_442, 1_122_234),
        (238_157_824, 35_629_056, 0, 12_800),
        (32, 8_861_696),
        (32, 15, 47),
    ),
    "mnasnet_baseline_cifar10": (
        (3_480_496, 3_449_568),
        (243_286_016, 15_728_640, 1_505_376, 3_200),
        (40, 2_806_774),
        (48, 16, 48),
    ),
    "mnasnet_modified_cifar10": (
        (3_100_298, 3_041_418),
        (240_287_744, 49_876_992, 1_722_368, 800),
        (40, 8_750_464),
        (48, 16, 48),
    ),
    "shufflenet_baseline_cifar10": (
        (883_306, 859_690),
        (142_712_832, 4_437_504, 0, 9_600),
        (33, 2_798_592),
        (97, 16, 49),
    ),
    "shufflenet_modified_cifar10": (
        (1_035_430, 953_794),
        (170_382_336, 936_576, 0, 9_600),
        (33, 12_074_496),
        (97, 16, 49),
    ),
    "fusionet_cifar10": (
        (2_725_770, 2_534_730),
        (309_100_544, 104_878_080, 0, 9_600),
        (35, 25_640_960),
        (137, 17, 52),
    ),
    "mobilenet_v2_cifar100": (
        (2_387_236, 2_353_060),
        (281_509_888, 15_998_976, 0, 128_000),
        (36, 3_928_064),
        (36, 17, 53),
    ),
    "mnasnet_cifar100": (
        (4_020_106, 3_986_618),
        (269_500_416, 15_728_640, 1_505_376, 128_000),
        (41, 2_888_694),
        (49, 16, 49),
    ),
    "fusionet_cifar100": (
        (3_011_940, 2_820_260),
        (319_750_144, 104_878_080, 0, 128_000),
        (35, 25_661_440),
        (134, 17, 52),
    ),
}
each_network = pytest.mark.parametrize("name", TABLE)


@functools.cache
def network(name, **options):
    return models.build(name, seed=None, **options)


def layers_of(model, kind):
    return [layer for layer in model.layers if isinstance(layer, kind)]


def macs_by_kind(model):
    """(convolutions, depthwise, squeeze-excite, dense) from kernels and output shapes alone."""
    sums = dict.fromkeys(("conv", "depthwise", "se", "dense"), 0)
    for layer in model.layers:
        pixels = np.prod(layer.output_shape[1:3]) if len(layer.output_shape) == 4 else 1
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            sums["depthwise"] += layer.depthwise_kernel.shape.num_elements() * pixels
        elif isinstance(layer, keras.layers.Conv2D):
            kind = "se" if "_se_" in layer.name else "conv"
            sums[kind] += layer.kernel.shape.num_elements() * pixels
        elif isinstance(layer, keras.layers.Dense):
            sums["dense"] += layer.kernel.shape.num_elements()
    return tuple(int(value) for value in sums.values())


@each_network
def test_sizes_of_the_published_table(name):
    (parameters, trainable), macs, (sites, relus), (convolutions, depthwise, norms) = TABLE[name]
    model = network(name)
    counts = counting.count(model)
    assert model.count_params() == parameters
    assert counts.parameters == counts.trainable_parameters == trainable
    assert counts.state_parameters == parameters - trainable
    assert macs_by_kind(model) == macs
    assert counts.macs == sum(macs)
    assert (len(counts.sites), counts.relu_count) == (sites, relus)
    groups = [
        layer.groups
        for layer in layers_of(model, keras.layers.Conv2D)
        if not isinstance(layer, keras.layers.DepthwiseConv2D)
    ]
    assert sum(groups) == convolutions
    assert len(layers_of(model, keras.layers.DepthwiseConv2D)) == depthwise
    assert len(layers_of(model, keras.layers.BatchNormalization)) == norms


# The coefficients in force (section 2): (stem, first block, last block, tail, dense, squeeze-excite).
DECAY = {
    "mobilenet_v2_baseline_cifar10": (1e-4, 1e-4, 1e-4, 1e-4, 1e-4, None),
    "mobilenet_v2_modified_cifar10": (4e-5, 4e-5, 1e-4, 4e-5, 4e-5, None),
    "mnasnet_baseline_cifar10": (1e-4, 1e-4, 1e-4, None, 1e-4, 1e-4),
    "mnasnet_modified_cifar10": (4e-5, 8e-4, 1e-4, None, 4e-5, 4e-5),
    "shufflenet_baseline_cifar10": (1e-4, 1e-4, 1e-4, None, 1e-4, None),
    "shufflenet_modified_cifar10": (4e-5, 2e-4, 1e-4, 1e-4, 4e-5, None),
    "fusionet_cifar10": (4e-5, 1e-4, 1e-4, 1e-4, 4e-5, None),
    "mobilenet_v2_cifar100": (4e-5, 4e-5, 4e-5, 4e-5, 4e-5, None),
    "mnasnet_cifar100": (4e-5, 4e-5, 4e-5, 4e-5, 4e-5, 4e-5),
    "fusionet_cifar100": (4e-5, 4e-5, 4e-5, 4e-5, 4e-5, None),
}


@each_network
def test_original_decay_of_every_part_and_none_on_depthwise_kernels(name):
    model = network(name, l2="original")

    def coefficient(layer):
        regularizer = layer.kernel_regularizer
        return None if regularizer is None else round(float(regularizer.l2), 9)

    found = {layer.name: coefficient(layer) for layer in model.layers if hasattr(layer, "kernel_regularizer")}
    blocks = [v for key, v in found.items() if key.endswith(("expand_conv", "project_conv")) and "stem" not in key]
    se = [value for key, value in found.items() if "_se_" in key]
    stem, first, last, tail, dense, squeeze = DECAY[name]
    assert {value for key, value in found.items() if key.startswith("stem") and "depthwise" not in key} == {stem}
    assert (blocks[0], blocks[-1]) == (first, last)
    assert (found.get("tail_conv"), found["classifier"]) == (tail, dense)
    assert set(se) == (set() if squeeze is None else {squeeze})
    assert all(layer.depthwise_regularizer is None for layer in layers_of(model, keras.layers.DepthwiseConv2D))


def test_decay_changes_inside_the_blocks():
    found = {
        layer.name: float(layer.kernel_regularizer.l2)
        for layer in network("mobilenet_v2_modified_cifar10", l2="original").layers
        if layer.name.endswith("expand_conv")
    }
    values = [found[f"block{n}_expand_conv"] for n in range(15)]
    np.testing.assert_allclose(values, [4e-5] + [2e-4] * 7 + [1e-4] * 7, rtol=1e-6)
    assert network("mobilenet_v2_modified_cifar10").losses == []


def test_width_scales_the_hidden_channels_only():
    model = network("fusionet_cifar10", width=1 / 32)
    assert model.get_layer("block1_expand_conv").filters == 72  # 74 is no multiple of the four groups
    assert model.get_layer("block9_depthwise_conv").depthwise_kernel.shape[2] == 108
    assert model.get_layer("block16_project_conv").filters == 160
    assert network("mobilenet_v2_modified_cifar10", width=0.125).get_layer("block5_expand_conv").filters == 108


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width must be above 0, received 0"),
        ({"width": -1.0}, "width must be above 0"),
        ({"l2": "strong"}, "l2 must be 'original' or a number of at least 0, received 'strong'"),
        ({"l2": -1e-4}, "l2 must be 'original' or a number"),
        ({"l2": float("nan")}, "l2 must be 'original' or a number"),
        ({"depth": 3}, "option for model 'fusionet_cifar10'"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        models.build("fusionet_cifar10", seed=None, **options)


@pytest.mark.parametrize("name", ["mnasnet_modified_cifar10", "shufflenet_modified_cifar10", "fusionet_cifar10"])
def test_saved_network_predicts_the_same(name, tmp_path):
    model = models.build(name, seed=3, width=0.02, input_shape=(8, 8, 3))
    images = np.random.default_rng(0).standard_normal((2, 8, 8, 3)).astype("float32")
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(images), model(images))
    again = models.build(name, seed=3, width=0.02, input_shape=(8, 8, 3))
    np.testing.assert_array_equal(again(images), model(images))
    assert float(tf.math.reduce_std(model(images))) > 0


def test_grouped_convolution_equals_separate_ones():
    x = np.random.default_rng(0).standard_normal((1, 4, 4, 8)).astype("float32")
    layer = keras.layers.Conv2D(12, 1, groups=4, use_bias=False)
    grouped = layer(x)
    parts = [x[..., 2 * g : 2 * g + 2] @ layer.kernel.numpy()[0, 0, :, 3 * g : 3 * g + 3] for g in range(4)]
    np.testing.assert_allclose(grouped, np.concatenate(parts, -1), rtol=1e-5)


def test_channel_shuffle():
    x = np.arange(6, dtype="float32").reshape(1, 1, 1, 6)
    layer = ChannelShuffle(3)
    np.testing.assert_array_equal(layer(x)[0, 0, 0], [0, 2, 4, 1, 3, 5])
    np.testing.assert_array_equal(ChannelShuffle(2)(layer(x)), x)
    assert ChannelShuffle.from_config(layer.get_config()).groups == 3


@pytest.mark.parametrize(("groups", "message"), [(0, "at least one group"), (4, "cannot divide 6 channels into 4")])
def test_channel_shuffle_refuses_what_it_cannot_divide(groups, message):
    with pytest.raises(UserError, match=message):
        ChannelShuffle(groups)(tf.zeros([1, 1, 1, 6]))
