import numpy as np
import pytest
import tensorflow as tf

from keras_relu.data import Augmentation

RNG = np.random.default_rng(0)
# No pixel is 0, so that black padding is recognised.
IMAGES = RNG.integers(1, 256, (64, 6, 7, 3), np.uint8)


def all_variants(image, pad, flip):
    """The slow, obvious version: every crop of the padded image, plain and mirrored, as bytes -> (dy, dx, mirrored)."""
    height, width = image.shape[:2]
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    variants = {}
    for dy in range(2 * pad + 1):
        for dx in range(2 * pad + 1):
            crop = padded[dy : dy + height, dx : dx + width]
            variants[crop.tobytes()] = (dy, dx, False)
            if flip:
                variants[crop[:, ::-1].tobytes()] = (dy, dx, True)
    return variants


@pytest.mark.parametrize(("pad", "flip"), [(4, True), (1, False), (0, True), (0, False)])
def test_every_image_is_one_of_the_allowed_variants(pad, flip):
    got = Augmentation(pad, flip)(tf.constant(IMAGES), tf.constant([3, 4], tf.int64)).numpy()
    assert got.dtype == np.uint8
    assert got.shape == IMAGES.shape
    drawn = [all_variants(image, pad, flip)[out.tobytes()] for image, out in zip(IMAGES, got, strict=True)]
    assert len(set(drawn)) > (10 if pad == 4 else 1 if pad or flip else 0)


def test_draws_are_uniform_per_image():
    pad, draws = 2, []
    for step in range(20):
        got = Augmentation(pad, True)(tf.constant(IMAGES), tf.constant([0, step], tf.int64)).numpy()
        draws += [all_variants(image, pad, True)[out.tobytes()] for image, out in zip(IMAGES, got, strict=True)]
    rows, columns, mirrored = np.array(draws).T
    for offset in range(5):
        assert 0.15 < (rows == offset).mean() < 0.25
        assert 0.15 < (columns == offset).mean() < 0.25
    assert 0.45 < mirrored.mean() < 0.55
    assert abs(np.corrcoef(rows, columns)[0, 1]) < 0.1


def test_seed_decides_alone():
    augment = Augmentation(4, True)
    images, seed = tf.constant(IMAGES), tf.constant([1, 2], tf.int64)
    np.testing.assert_array_equal(augment(images, seed), augment(images, seed))
    np.testing.assert_array_equal(tf.function(augment)(images, seed), augment(images, seed))
    assert (augment(images, seed).numpy() != augment(images, seed + 1).numpy()).any()


def test_any_batch_size_in_one_trace():
    augment = tf.function(
        Augmentation(2, True), input_signature=[tf.TensorSpec([None, 6, 7, 3], tf.uint8), tf.TensorSpec([2], tf.int64)]
    )
    for size in (1, 5):
        assert augment(IMAGES[:size], [0, 0]).shape[0] == size
