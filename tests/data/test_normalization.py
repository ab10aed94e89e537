import numpy as np
import pytest
import tensorflow as tf

from keras_relu.data import NORMALIZATIONS, Normalization, get_normalization, list_datasets
from keras_relu.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 5, 5, 3), np.uint8)


@pytest.mark.parametrize("name", sorted(NORMALIZATIONS))
def test_apply_is_scale_to_one_then_standardise(name):
    preset = NORMALIZATIONS[name]
    images = IMAGES[..., : max(len(preset.mean), 1)]
    expected = (images / 255.0 - np.array(preset.mean)) / np.array(preset.std)
    got = preset.apply(images)
    assert got.dtype == tf.float32
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_apply_in_a_graph_equals_eager():
    preset = NORMALIZATIONS["cifar10"]
    np.testing.assert_array_equal(tf.function(preset.apply)(tf.constant(IMAGES)), preset.apply(IMAGES))


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("cifar10", (0.491, 0.482, 0.447), (0.247, 0.243, 0.261)),
        ("cifar10_image_std", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
        ("cifar100", (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
        ("imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("mnist", (0.1307,), (0.3081,)),
        ("fashion_mnist", (0.28604,), (0.35302,)),
        ("tiny_imagenet", (0.480, 0.448, 0.398), (0.277, 0.269, 0.282)),
    ],
)
def test_published_constants(name, mean, std):
    assert (NORMALIZATIONS[name].mean, NORMALIZATIONS[name].std) == (mean, std)


def test_constants_on_the_pixel_scale():
    np.testing.assert_allclose(255 * np.array(NORMALIZATIONS["cifar10_scalar"].mean), 120.70756512369792)
    np.testing.assert_allclose(255 * np.array(NORMALIZATIONS["cifar100_exact"].std), (68.170, 65.392, 70.418))
    np.testing.assert_allclose(NORMALIZATIONS["celeba"].apply(np.uint8([[117], [118]])), [[0], [1]], atol=2e-5)


def test_every_dataset_has_a_default():
    for name in list_datasets():
        assert get_normalization(None, name) in NORMALIZATIONS.values()


def test_named_given_and_recorded():
    preset = get_normalization("imagenet", "cifar10")
    assert preset.name == "imagenet"
    assert get_normalization(preset, "cifar10") is preset
    assert preset.to_dict() == {"name": "imagenet", "mean": list(preset.mean), "std": list(preset.std)}


def test_unknown_names_are_refused():
    with pytest.raises(UserError, match="Did you mean 'imagenet'"):
        get_normalization("imagenette", "cifar10")
    with pytest.raises(UserError, match="Unknown dataset 'cifar'"):
        get_normalization(None, "cifar")


def test_wrong_constants_are_refused():
    with pytest.raises(UserError, match="above 0"):
        Normalization("mine", (0.5,), (0.0,))
    with pytest.raises(UserError, match="equally many"):
        Normalization("mine", (0.5, 0.5), (1.0,))
    with pytest.raises(UserError, match="has 3 values per constant, the images have 1"):
        NORMALIZATIONS["cifar10"].check(1)
