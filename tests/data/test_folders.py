from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from keras_relu import data
from keras_relu.data import Augmentation
from keras_relu.data.decoding import ResizedCropDecoder
from keras_relu.data.files import FileSplit
from keras_relu.errors import UserError

RNG = np.random.default_rng(0)
WNIDS = ("n02", "n01", "n03")


def write_image(path, shape, *, png=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = RNG.integers(0, 256, shape, np.uint8)
    path.write_bytes((tf.io.encode_png if png else tf.io.encode_jpeg)(image).numpy())
    return image


@pytest.fixture
def tiny(tmp_path):
    root = tmp_path / "tiny-imagenet-200"
    for wnid in WNIDS:
        for number in range(6):
            write_image(root / "train" / wnid / "images" / f"{wnid}_{number}.JPEG", (64, 64, 3))
    lines = []
    for number, wnid in enumerate(("n03", "n01", "n02", "n01")):
        # Tiny-ImageNet has some grey images.
        write_image(root / "val" / "images" / f"val_{number}.JPEG", (64, 64, 1 if number == 1 else 3))
        lines.append(f"val_{number}.JPEG\t{wnid}\t0\t32\t44\t62")
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    (root / "wnids.txt").write_text("\n".join(WNIDS))
    return tmp_path


@pytest.fixture
def imagenet(tmp_path):
    root = tmp_path / "ILSVRC"
    for split, count in (("train", 4), ("val", 2)):
        for wnid in WNIDS:
            for number in range(count):
                shape = (240 + 20 * number, 300, 3)
                write_image(root / split / wnid / f"{wnid}_{number}.JPEG", shape, png=number == 1)
    return tmp_path


def collect(dataset):
    return [(images.numpy(), labels.numpy()) for images, labels in dataset]


def assert_same(left, right):
    assert len(left) == len(right) > 0
    for (images, labels), (other_images, other_labels) in zip(left, right, strict=True):
        np.testing.assert_array_equal(images, other_images)
        np.testing.assert_array_equal(labels, other_labels)


def test_tiny_imagenet(tiny):
    dataset = data.load("tiny_imagenet", data_dir=tiny, validation_fraction=1 / 3)
    assert dataset.class_names == ("n01", "n02", "n03")
    assert dataset.image_shape == (64, 64, 3)
    assert (dataset.train.size, dataset.validation.size, dataset.test.size) == (12, 6, 4)
    np.testing.assert_array_equal(np.bincount(dataset.validation.labels), [2, 2, 2])
    np.testing.assert_array_equal(dataset.test.labels, [2, 0, 1, 0])
    images, labels = collect(dataset.test.batches(3))[0]
    path = tiny / "tiny-imagenet-200" / "val" / "images" / "val_2.JPEG"
    np.testing.assert_array_equal(images[2], tf.io.decode_jpeg(path.read_bytes()))
    assert labels.dtype == np.int32
    assert images.shape == (3, 64, 64, 3)


def test_tiny_imagenet_without_training_images(tiny):
    import shutil

    shutil.rmtree(tiny / "tiny-imagenet-200" / "train")
    dataset = data.load("tiny_imagenet", data_dir=tiny / "tiny-imagenet-200")
    assert dataset.test.size == 4
    with pytest.raises(UserError, match=r"n01.*holds no image"):
        _ = dataset.train


def test_cached_and_uncached_batches_are_the_same(tiny):
    cached = data.load("tiny_imagenet", data_dir=tiny).train
    uncached = replace(cached, cache_bytes=0, parallel_calls=3)
    assert cached._memory
    assert not uncached._memory
    arguments = {"seed": 1, "epoch": 2, "augment": True}
    assert_same(collect(cached.epoch(4, **arguments)), collect(uncached.epoch(4, **arguments)))
    assert_same(collect(uncached.epoch(4, **arguments))[2:], collect(uncached.epoch(4, start_step=2, **arguments)))
    assert_same(collect(cached.epoch(4, seed=0, epoch=0)), collect(uncached.epoch(4, seed=0, epoch=0)))
    assert_same(collect(cached.batches(5)), collect(uncached.batches(5)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "missing or empty"),
        ("val_0.JPEG\tn09\t0\n", "line 1 names no known class"),
        ("val_0.JPEG\n", "line 1 names no known class"),
        ("val_0.JPEG\tn01\nval_9.JPEG\tn01\n", "lacks 1 of 2 annotated images, the first 'val_9.JPEG'"),
    ],
)
def test_wrong_annotations(tiny, text, message):
    (tiny / "tiny-imagenet-200" / "val" / "val_annotations.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        _ = data.load("tiny_imagenet", data_dir=tiny).test


def truncate(path):
    path.write_bytes(path.read_bytes()[:200])


def other_size(path):
    write_image(path, (32, 32, 3))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(b""), "not a JPEG.*val_0.JPEG"),
        (lambda path: path.write_bytes(b"<html>"), "not a JPEG.*val_0.JPEG"),
        (truncate, "cannot be decoded"),
        (other_size, "expected an image of 64x64"),
    ],
)
def test_a_damaged_image(tiny, damage, message):
    damage(tiny / "tiny-imagenet-200" / "val" / "images" / "val_0.JPEG")
    with pytest.raises(UserError, match=f"(?s)test split cannot be decoded.*{message}|{message}"):
        data.load("tiny_imagenet", data_dir=tiny).test.batches(2)


def test_imagenet(imagenet):
    dataset = data.load("imagenet", data_dir=imagenet, validation_fraction=0.25)
    assert dataset.classes == 3
    assert dataset.image_shape == (224, 224, 3)
    assert dataset.normalization.name == "imagenet"
    assert (dataset.train.size, dataset.validation.size, dataset.test.size) == (9, 3, 6)
    batches = collect(dataset.test.batches(4))
    assert [images.shape for images, _ in batches] == [(4, 224, 224, 3), (2, 224, 224, 3)]
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in batches]), [0, 0, 1, 1, 2, 2])


def test_imagenet_training_batches_resume(imagenet):
    train = data.load("imagenet", data_dir=imagenet / "ILSVRC", validation_fraction=0).train
    arguments = {"seed": 0, "epoch": 1, "augment": True}
    whole = collect(train.epoch(4, **arguments))
    assert [images.shape for images, _ in whole] == [(4, 224, 224, 3)] * 3
    assert_same(whole[1:], collect(replace(train, parallel_calls=3).epoch(4, start_step=1, **arguments)))
    other = collect(train.epoch(4, seed=0, epoch=2, augment=True))
    assert any((a != b).any() for (a, _), (b, _) in zip(whole, other, strict=True))
    assert collect(train.epoch(4, start_step=3, **arguments)) == []


def test_centre_crop_keeps_the_centre():
    """A picture that is a smooth ramp stays the same ramp: position and scale of the crop are right."""
    rows, columns = np.mgrid[0:512, 0:768]
    ramp = np.stack([rows / 2, columns / 3, np.zeros_like(rows)], -1).astype(np.uint8)
    got = ResizedCropDecoder()(tf.io.encode_png(ramp), augment=False, seed=tf.zeros([2], tf.int64)).numpy()
    expected_rows, expected_columns = np.mgrid[16:240, 80:304]
    np.testing.assert_allclose(got[..., 0], expected_rows, atol=1.0)
    np.testing.assert_allclose(got[..., 1], expected_columns * 2 / 3, atol=1.0)


@pytest.mark.parametrize("encode", [tf.io.encode_png, lambda image: tf.io.encode_jpeg(image, quality=100)])
def test_random_crops_have_the_documented_area_and_aspect(encode):
    rows, columns = np.mgrid[0:250, 0:250]
    data_ = encode(np.stack([rows, columns, np.zeros_like(rows)], -1).astype(np.uint8))
    decoder, areas = ResizedCropDecoder(), []
    for step in range(40):
        crop = decoder(data_, augment=True, seed=tf.constant([0, step], tf.int64)).numpy().astype(float)
        height, width = np.ptp(crop[..., 0]) + 1, np.ptp(crop[..., 1]) + 1
        areas.append(height * width / 250**2)
        assert 0.70 < width / height < 1.43
    assert 0.05 < min(areas) < 0.3
    assert 0.7 < max(areas) <= 1.05


def test_imagenet_classes_must_agree(imagenet):
    (imagenet / "ILSVRC" / "val" / "n01").rename(imagenet / "ILSVRC" / "val" / "n04")
    with pytest.raises(UserError, match="train and val need the same class folders"):
        _ = data.load("imagenet", data_dir=imagenet).test


def test_an_empty_class_folder(imagenet):
    for path in (imagenet / "ILSVRC" / "train" / "n02").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="n02 holds no image"):
        _ = data.load("imagenet", data_dir=imagenet).train


def test_a_damaged_image_is_named_while_training(imagenet):
    for path in (imagenet / "ILSVRC" / "train" / "n02").iterdir():
        path.write_bytes(b"")
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"not a JPEG.*n02_"):
        collect(data.load("imagenet", data_dir=imagenet, validation_fraction=0).train.epoch(12, seed=0, epoch=0))


def test_file_split_augments_like_any_other(tiny):
    train = data.load("tiny_imagenet", data_dir=tiny).train
    assert isinstance(train, FileSplit)
    assert train.augmentation == Augmentation(4, True)
