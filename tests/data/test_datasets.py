import numpy as np
import pytest

from keras_relu import data
from keras_relu.errors import UserError


def test_digits_are_the_real_images():
    dataset = data.load("digits")
    assert (dataset.train.size, dataset.validation.size, dataset.test.size) == (1293, 144, 360)
    assert (dataset.classes, dataset.image_shape, dataset.class_names) == (10, (8, 8, 1), tuple("0123456789"))
    from sklearn.datasets import load_digits

    original = np.sort((load_digits().images.reshape(-1, 64) * 255 / 16).round(), axis=0)
    parts = [split.images.reshape(-1, 64) for split in (dataset.train, dataset.validation, dataset.test)]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts).astype(float), axis=0), original)


def test_digits_test_split_never_depends_on_the_seed():
    first, second = data.load("digits", seed=0), data.load("digits", seed=1)
    np.testing.assert_array_equal(first.test.images, second.test.images)
    assert np.bincount(first.test.labels).min() >= 34
    assert (first.validation.images != second.validation.images).any()


def test_digits_constants_are_those_of_the_images():
    dataset = data.load("digits")
    inputs = dataset.normalization.apply(dataset.train.images).numpy()
    assert abs(inputs.mean()) < 0.02
    assert abs(inputs.std() - 1) < 0.02


@pytest.mark.parametrize(("fraction", "size"), [(0, 0), (0.1, 200), (0.25, 500), (0.1234, 247)])
def test_validation_size_is_exact(fraction, size):
    dataset = data.load("synthetic", validation_fraction=fraction)
    assert (dataset.validation.size, dataset.train.size) == (size, 2000 - size)


def image_set(split):
    return {image.tobytes() for image in split.images}


def test_splits_are_disjoint_stratified_and_deterministic():
    dataset, again = (data.load("synthetic", validation_fraction=0.2, seed=3) for _ in range(2))
    train, validation, test = (image_set(s) for s in (dataset.train, dataset.validation, dataset.test))
    assert len(train | validation | test) == 2500
    np.testing.assert_array_equal(np.bincount(dataset.validation.labels), [40] * 10)
    np.testing.assert_array_equal(dataset.validation.images, again.validation.images)
    np.testing.assert_array_equal(dataset.train.labels, again.train.labels)


def test_limit_caps_training_images_only():
    whole, limited = data.load("synthetic"), data.load("synthetic", limit=200)
    assert limited.train.size == 200
    np.testing.assert_array_equal(np.bincount(limited.train.labels), [20] * 10)
    assert image_set(limited.train) < image_set(whole.train)
    np.testing.assert_array_equal(limited.validation.images, whole.validation.images)
    assert limited.test.size == 500


def test_synthetic_is_learnable_and_fixed():
    """A nearest-class-mean rule on training images gets the test images right: the patterns are learnable."""
    dataset = data.load(
        "synthetic", options={"classes": 4, "image_shape": [8, 8, 1], "train_size": 80, "test_size": 40}
    )
    assert (dataset.classes, dataset.image_shape) == (4, (8, 8, 1))
    train = dataset.train.images.astype(float)
    means = np.stack([train[dataset.train.labels == c].mean(0) for c in range(4)])
    distances = ((dataset.test.images[:, None] - means) ** 2).sum((2, 3, 4))
    assert (distances.argmin(1) == dataset.test.labels).mean() > 0.95
    again = data.load("synthetic", seed=9, options={"classes": 4, "image_shape": (8, 8, 1), "test_size": 40})
    np.testing.assert_array_equal(dataset.test.images, again.test.images)


def test_normalization_is_chosen_by_name():
    assert data.load("synthetic", normalization="imagenet").normalization.name == "imagenet"
    with pytest.raises(UserError, match="has 3 values per constant, the images have 1"):
        data.load("digits", normalization="imagenet")
    with pytest.raises(UserError, match="Unknown normalization 'imgnet'"):
        data.load("digits", normalization="imgnet")


def test_unknown_name_gives_the_nearest():
    with pytest.raises(UserError, match=r"Unknown dataset 'cifar-10'. Did you mean 'cifar10'"):
        data.load("cifar-10")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"validation_fraction": 1.0}, "validation_fraction is 1.0; allowed is 0 up to"),
        ({"validation_fraction": -0.1}, "validation_fraction is -0.1"),
        ({"validation_fraction": float("nan")}, "validation_fraction is nan"),
        ({"seed": -1}, "seed is -1"),
        ({"limit": 0}, "limit is 0; allowed is 1"),
        ({"options": {"classes": 2}}, "takes none"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(UserError, match=message):
        data.load("digits", **arguments)


def test_limit_beyond_the_training_images():
    with pytest.raises(UserError, match="limit is 1294; allowed is 1 to 1293"):
        _ = data.load("digits", limit=1294).train


@pytest.mark.parametrize("fraction", [0.0001, 0.9999])
def test_a_fraction_that_leaves_a_split_empty(fraction):
    with pytest.raises(UserError, match="at least 1 must be left"):
        _ = data.load("digits", validation_fraction=fraction).train


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clases": 3}, "Did you mean 'classes'"),
        ({"classes": 0}, "positive sizes"),
        ({"image_shape": (8, 8)}, "positive sizes"),
        ({"noise": -1}, "positive sizes"),
    ],
)
def test_wrong_synthetic_options(options, message):
    with pytest.raises(UserError, match=message):
        data.load("synthetic", options=options)
