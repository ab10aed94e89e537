import logging
import shutil
import struct
import urllib.error

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_relu import data
from keras_relu.data import prepared
from keras_relu.errors import UserError

RNG = np.random.default_rng(0)


def store(root, name, *, image, splits, with_ids=True, classes=10):
    """Write a prepared dataset; `splits` maps a name to (images, labels)."""
    features = {"image": image, "label": tfds.features.ClassLabel(names=[f"n{i}" for i in range(classes)])}
    features |= {"id": tfds.features.Text()} if with_ids else {}

    def rows(split, images, labels):
        for index, (pixels, label) in enumerate(zip(images, labels, strict=True)):
            row = {"image": pixels, "label": int(label)}
            yield index, row | ({"id": f"{split}_{index:05d}"} if with_ids else {})

    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version="3.0.2",
        features=tfds.features.FeaturesDict(features),
        data_dir=str(root),
        split_datasets={split: list(rows(split, *content)) for split, content in splits.items()},
        disable_shuffling=False,
    )


def content(size, shape):
    return RNG.integers(0, 256, (size, *shape), np.uint8), np.arange(size) % 10


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    splits = {"train": content(40, (32, 32, 3)), "test": content(20, (32, 32, 3))}
    store(root, "cifar10", image=tfds.features.Image(shape=(32, 32, 3)), splits=splits)
    return root, splits


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    splits = {"train": content(12, (230, 260, 3)), "validation": content(5, (260, 230, 3))}
    image = tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg")
    store(root, "imagenet2012", image=image, splits=splits, with_ids=False)
    return root, splits


@pytest.mark.parametrize("inner", [".", "cifar10", "cifar10/3.0.2"])
def test_arrays_come_in_official_order(cifar10, inner):
    root, splits = cifar10
    dataset = data.load("cifar10", data_dir=root / inner, validation_fraction=0)
    np.testing.assert_array_equal(dataset.train.images, splits["train"][0])
    np.testing.assert_array_equal(dataset.train.labels, splits["train"][1])
    np.testing.assert_array_equal(dataset.test.images, splits["test"][0])
    assert dataset.image_shape == (32, 32, 3)
    assert dataset.train.labels.dtype == np.int32


def test_default_folder(cifar10, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(cifar10[0]))
    assert data.load("cifar10").test.size == 20
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert prepared.default_folder().name == "tensorflow_datasets"


def test_imagenet_records_are_read_at_random(imagenet):
    root, splits = imagenet
    dataset = data.load("imagenet", data_dir=root, validation_fraction=0.25)
    assert (dataset.train.size, dataset.validation.size, dataset.test.size) == (9, 3, 5)
    assert sorted(dataset.test.labels) == sorted(splits["validation"][1])
    whole = [images.numpy() for images, _ in dataset.train.epoch(3, seed=0, epoch=0, augment=True)]
    rest = [images.numpy() for images, _ in dataset.train.epoch(3, seed=0, epoch=0, augment=True, start_step=1)]
    assert whole[0].shape == (3, 224, 224, 3)
    np.testing.assert_array_equal(whole[1:], rest)


def test_imagenet_records_keep_their_labels(imagenet):
    """Every decoded image is the one that was stored with its label (noise survives JPEG and resizing in part)."""
    root, (images, labels) = imagenet[0], imagenet[1]["validation"]
    for got, label in data.load("imagenet", data_dir=root).test.batches(1):
        original = images[list(labels).index(int(label[0]))]
        expected = tf.image.resize(original, (289, 256), antialias=True)[32:256, 16:240]
        assert np.corrcoef(np.ravel(expected), np.ravel(got[0]))[0, 1] > 0.5


def test_missing_imagenet_records(imagenet, tmp_path):
    shutil.copytree(imagenet[0], tmp_path / "copy")
    for path in tmp_path.glob("copy/*/*/*validation.tfrecord*"):
        path.unlink()
    with pytest.raises(UserError, match=r"The split 'validation' in .* cannot be read"):
        _ = data.load("imagenet", data_dir=tmp_path / "copy").test


def tfrecord(path, *examples):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for example in examples:
            writer.write(example)


def example(label):
    feature = tf.train.Feature(int64_list=tf.train.Int64List(value=[label]))
    return tf.train.Example(features=tf.train.Features(feature={"label": feature})).SerializeToString()


def test_index_of_records(tmp_path):
    tfrecord(tmp_path / "records", example(3), example(5))
    offsets, labels = prepared.index_records(tmp_path / "records")
    np.testing.assert_array_equal(offsets, [0, len(example(3)) + 16])
    np.testing.assert_array_equal(labels, [3, 5])


@pytest.mark.parametrize("kept", [5, 20, -1])
def test_truncated_records(tmp_path, kept):
    tfrecord(tmp_path / "records", example(3))
    (tmp_path / "records").write_bytes((tmp_path / "records").read_bytes()[:kept])
    with pytest.raises(UserError, match="no whole record at byte 0"):
        prepared.index_records(tmp_path / "records")


@pytest.mark.parametrize("record", [tf.train.Example().SerializeToString(), b"\xff\xff\xff"])
def test_other_records(tmp_path, record):
    tfrecord(tmp_path / "records", record)
    with pytest.raises(UserError, match="a record without a label"):
        prepared.index_records(tmp_path / "records")


def test_damaged_directories(tmp_path, cifar10):
    folder = tmp_path / "cifar10" / "3.0.2"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{}")
    with pytest.raises(UserError, match=r"cifar10/3.0.2 is no prepared dataset"):
        data.load("cifar10", data_dir=tmp_path)


def test_a_missing_split_and_missing_records(tmp_path):
    store(tmp_path, "mnist", image=tfds.features.Image(shape=(28, 28, 1)), splits={"train": content(10, (28, 28, 1))})
    dataset = data.load("mnist", data_dir=tmp_path)
    with pytest.raises(UserError, match="has no split 'test', only"):
        _ = dataset.test
    for path in tmp_path.glob("mnist/*/*.tfrecord*"):
        path.unlink()
    with pytest.raises(UserError, match=r"The split 'train' in .* cannot be read"):
        _ = dataset.train


def test_missing_data_lists_what_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(prepared, "DOWNLOADABLE", ())
    with pytest.raises(UserError) as caught:
        data.load("cifar10", data_dir=tmp_path)
    for text in (str(tmp_path), "cifar-10-batches-bin/data_batch_1.bin", "cifar-10-batches-py", "cifar10/<version>"):
        assert text in str(caught.value)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(UserError, match=r"No cifar10 in .*Give data_dir"):
        data.load("cifar10")


@pytest.mark.parametrize("name", ["imagenet", "tiny_imagenet"])
def test_datasets_that_cannot_be_downloaded(tmp_path, name):
    with pytest.raises(UserError, match=f"No {name} in .*; looked for "):
        data.load(name, data_dir=tmp_path)


def test_a_missing_data_dir(tmp_path):
    with pytest.raises(UserError, match="nowhere' is no existing folder"):
        data.load("cifar10", data_dir=tmp_path / "nowhere")


def test_no_network(tmp_path, monkeypatch):
    def refuse(request, timeout):
        assert request.method == "HEAD"
        assert timeout <= 10
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(prepared.urllib.request, "urlopen", refuse)
    with pytest.raises(UserError, match=r"No cifar10 in .*looked for .*cannot be reached: .*no network"):
        data.load("cifar10", data_dir=tmp_path)


def test_download(tmp_path, monkeypatch, caplog):
    """With network: tensorflow-datasets prepares the dataset in data_dir, and it is read from there."""
    splits = {"train": content(20, (32, 32, 3)), "test": content(10, (32, 32, 3))}

    def prepare(self):
        store(tmp_path, "cifar10", image=tfds.features.Image(shape=(32, 32, 3)), splits=splits)

    builder_type = type(tfds.builder("cifar10", data_dir=str(tmp_path)))
    monkeypatch.setattr(builder_type, "download_and_prepare", prepare)
    monkeypatch.setattr(prepared, "_probe", lambda url: None)
    with caplog.at_level(logging.WARNING):
        dataset = data.load("cifar10", data_dir=tmp_path, validation_fraction=0)
    np.testing.assert_array_equal(dataset.train.images, splits["train"][0])
    assert "Downloading cifar10" in caplog.text


def test_a_failed_download(tmp_path, monkeypatch):
    def fail(self):
        raise ConnectionError("reset")

    monkeypatch.setattr(type(tfds.builder("mnist", data_dir=str(tmp_path))), "download_and_prepare", fail)
    monkeypatch.setattr(prepared, "_probe", lambda url: None)
    with pytest.raises(UserError, match=r"No mnist in .*Downloading mnist from http.* failed: reset"):
        data.load("mnist", data_dir=tmp_path)


def test_probe_accepts_an_answer(monkeypatch):
    class Answer:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            return False

    monkeypatch.setattr(prepared.urllib.request, "urlopen", lambda request, timeout: Answer())
    assert prepared._probe("http://example.org/x") is None


def test_record_length_field_is_not_trusted(tmp_path):
    (tmp_path / "records").write_bytes(struct.pack("<Q", 2**62) + b"0000" + b"data")
    with pytest.raises(UserError, match="no whole record at byte 0"):
        prepared.index_records(tmp_path / "records")
