import gzip
import struct

import numpy as np
import pytest

from keras_relu import data
from keras_relu.data.idx import read_idx
from keras_relu.errors import UserError

RNG = np.random.default_rng(0)


def idx_bytes(array):
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write(folder, *, suffix="", sizes=(60, 20)):
    folder.mkdir(parents=True, exist_ok=True)
    content = {}
    for stem, size in zip(("train", "t10k"), sizes, strict=True):
        images = RNG.integers(0, 256, (size, 28, 28), np.uint8)
        labels = (np.arange(size) % 10).astype(np.uint8)
        for name, array in ((f"{stem}-images-idx3-ubyte", images), (f"{stem}-labels-idx1-ubyte", labels)):
            raw = idx_bytes(array)
            (folder / (name + suffix)).write_bytes(gzip.compress(raw) if suffix == ".gz" else raw)
        content[stem] = images, labels
    return content


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
    ("name", "inner"), [("mnist", "."), ("mnist", "MNIST/raw"), ("fashion_mnist", "fashion-mnist")]
)
def test_official_files(tmp_path, name, inner, suffix):
    content = write(tmp_path / inner, suffix=suffix)
    dataset = data.load(name, data_dir=tmp_path, validation_fraction=0)
    np.testing.assert_array_equal(dataset.train.images[..., 0], content["train"][0])
    np.testing.assert_array_equal(dataset.train.labels, content["train"][1])
    np.testing.assert_array_equal(dataset.test.images[..., 0], content["t10k"][0])
    assert dataset.image_shape == (28, 28, 1)
    assert dataset.normalization.name == name


def test_the_two_datasets_do_not_mix(tmp_path):
    write(tmp_path / "mnist", sizes=(20, 10))
    write(tmp_path / "fashion_mnist", sizes=(40, 30))
    assert data.load("mnist", data_dir=tmp_path).test.size == 10
    fashion = data.load("fashion_mnist", data_dir=tmp_path)
    assert fashion.test.size == 30
    assert fashion.class_names[9] == "Ankle boot"


def test_digits_are_never_mirrored():
    assert not data.load("digits").augmentation.flip
    assert data.load("digits").augmentation.pad == 1


def test_mnist_shifts_without_mirroring(tmp_path):
    write(tmp_path)
    dataset = data.load("mnist", data_dir=tmp_path)
    assert not dataset.train.augmentation.flip
    assert dataset.train.augmentation.pad == 2


def test_a_missing_file(tmp_path):
    write(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    dataset = data.load("mnist", data_dir=tmp_path)
    assert dataset.train.size == 54
    with pytest.raises(UserError, match="lacks the file 't10k-labels-idx1-ubyte'"):
        _ = dataset.test


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no idx file of 1-dimensional"),
        (idx_bytes(np.zeros((2, 2), np.uint8)), "no idx file of 1-dimensional"),
        (idx_bytes(np.zeros(5, np.uint8))[:-1], "has 4 values, its header says 5"),
    ],
)
def test_damaged_files(tmp_path, content, message):
    path = tmp_path / "labels"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_idx(path, 1)


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:-12], lambda raw: raw[:20] + b"xxxx" + raw[24:], lambda raw: b"no gz"]
)
def test_damaged_gzip(tmp_path, damage):
    path = tmp_path / "labels.gz"
    path.write_bytes(damage(gzip.compress(idx_bytes(RNG.integers(0, 255, 500, np.uint8)))))
    with pytest.raises(UserError, match=r"labels.gz cannot be unpacked"):
        read_idx(path, 1)


@pytest.mark.parametrize(
    ("labels", "message"),
    [(np.zeros(19, np.uint8), r"\[20, 28, 28\].*labels \[19\]"), (np.full(20, 10, np.uint8), "has the label 10")],
)
def test_labels_that_do_not_fit(tmp_path, labels, message):
    write(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    with pytest.raises(UserError, match=message):
        _ = data.load("mnist", data_dir=tmp_path).test
