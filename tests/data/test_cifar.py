import os
import pickle
import shutil

import numpy as np
import pytest

from keras_relu import data
from keras_relu.data.pickled_arrays import read_pickled
from keras_relu.errors import UserError

RNG = np.random.default_rng(0)


def images_and_labels(size, classes):
    return RNG.integers(0, 256, (size, 32, 32, 3), np.uint8), (np.arange(size) % classes).astype(np.uint8)


def planes(images):
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def write_binary(folder, files, classes):
    """Official rows: label byte(s), then 3,072 bytes channel by channel. Returns the images and labels per file."""
    folder.mkdir(parents=True)
    content = {}
    for name, size in files.items():
        images, labels = images_and_labels(size, classes)
        columns = [labels[:, None]] if classes == 10 else [labels[:, None] // 5, labels[:, None]]
        np.concatenate([*columns, planes(images)], 1).astype(np.uint8).tofile(folder / name)
        content[name] = images, labels
    return content


TEN = {**{f"data_batch_{i}.bin": 40 for i in range(1, 6)}, "test_batch.bin": 30}


@pytest.fixture
def cifar10(tmp_path):
    return tmp_path, write_binary(tmp_path / "cifar-10-batches-bin", TEN, 10)


def whole(dataset):
    """All training images of a dataset loaded without a validation split."""
    return dataset.train.images, dataset.train.labels


def test_binary_ten(cifar10):
    folder, content = cifar10
    dataset = data.load("cifar10", data_dir=folder, validation_fraction=0)
    images, labels = whole(dataset)
    np.testing.assert_array_equal(images, np.concatenate([content[name][0] for name in list(TEN)[:5]]))
    np.testing.assert_array_equal(labels, np.concatenate([content[name][1] for name in list(TEN)[:5]]))
    np.testing.assert_array_equal(dataset.test.images, content["test_batch.bin"][0])
    assert (dataset.classes, dataset.image_shape, dataset.class_names[3]) == (10, (32, 32, 3), "cat")


def test_the_folder_itself_is_a_data_dir(cifar10):
    folder, _ = cifar10
    assert data.load("cifar10", data_dir=folder / "cifar-10-batches-bin").train.size == 180
    assert data.load("cifar10", data_dir=str(folder)).train.size == 180


def test_binary_hundred_takes_the_fine_label(tmp_path):
    content = write_binary(tmp_path / "cifar-100-binary", {"train.bin": 200, "test.bin": 100}, 100)
    dataset = data.load("cifar100", data_dir=tmp_path, validation_fraction=0)
    images, labels = whole(dataset)
    np.testing.assert_array_equal(images, content["train.bin"][0])
    np.testing.assert_array_equal(labels, content["train.bin"][1])
    assert dataset.classes == 100
    assert dataset.test.size == 100
    assert dataset.normalization.name == "cifar100"


def test_only_the_files_of_a_split_are_read(cifar10):
    folder, content = cifar10
    for name in list(TEN)[:5]:
        os.remove(folder / "cifar-10-batches-bin" / name)
    dataset = data.load("cifar10", data_dir=folder)
    np.testing.assert_array_equal(dataset.test.labels, content["test_batch.bin"][1])
    with pytest.raises(UserError, match=r"lacks the file 'data_batch_1.bin'"):
        _ = dataset.train


def test_test_split_is_not_touched_by_training(cifar10):
    folder, _ = cifar10
    os.remove(folder / "cifar-10-batches-bin" / "test_batch.bin")
    dataset = data.load("cifar10", data_dir=folder)
    assert dataset.train.size + dataset.validation.size == 200
    with pytest.raises(UserError, match=r"lacks the file 'test_batch.bin'"):
        _ = dataset.test


@pytest.mark.parametrize(
    ("cut", "message"), [(100, "not a multiple of 3073"), (3073, "has 39 images, other batches 40")]
)
def test_a_truncated_binary_file(cifar10, cut, message):
    path = cifar10[0] / "cifar-10-batches-bin" / "data_batch_3.bin"
    os.truncate(path, path.stat().st_size - cut)
    with pytest.raises(UserError, match=f"data_batch_3.bin.*{message}"):
        _ = data.load("cifar10", data_dir=cifar10[0]).train


def test_an_empty_binary_file(cifar10):
    os.truncate(cifar10[0] / "cifar-10-batches-bin" / "test_batch.bin", 0)
    with pytest.raises(UserError, match=r"test_batch.bin has 0 bytes"):
        _ = data.load("cifar10", data_dir=cifar10[0]).test


def test_a_wrong_label(cifar10):
    path = cifar10[0] / "cifar-10-batches-bin" / "test_batch.bin"
    rows = np.fromfile(path, np.uint8).reshape(-1, 3073)
    rows[7, 0] = 10
    rows.tofile(path)
    with pytest.raises(UserError, match=r"test_batch.bin: image 7 has the label 10; allowed are 0 to 9"):
        _ = data.load("cifar10", data_dir=cifar10[0]).test


def write_python(folder, files, *, key="labels", protocol=2):
    """Official Python batches; protocol 2 with bytes keys is what Python 2 wrote."""
    folder.mkdir(parents=True)
    (folder / "meta").write_bytes(pickle.dumps({}))
    content = {}
    for name, size in files.items():
        images, labels = images_and_labels(size, 10)
        batch = {b"data": planes(images), key.encode(): labels.tolist(), b"batch_label": b"one", b"filenames": [b"a"]}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=protocol))
        content[name] = images, labels
    return content


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_python_batches(tmp_path, protocol):
    files = {**{f"data_batch_{i}": 20 for i in range(1, 6)}, "test_batch": 10}
    content = write_python(tmp_path / "cifar-10-batches-py", files, protocol=protocol)
    dataset = data.load("cifar10", data_dir=tmp_path, validation_fraction=0)
    images, labels = whole(dataset)
    np.testing.assert_array_equal(images, np.concatenate([content[name][0] for name in list(files)[:5]]))
    np.testing.assert_array_equal(labels, np.concatenate([content[name][1] for name in list(files)[:5]]))
    np.testing.assert_array_equal(dataset.test.images, content["test_batch"][0])


@pytest.mark.parametrize("inner", ["cifar-100-python", "."])
def test_python_hundred(tmp_path, inner):
    content = write_python(tmp_path / "cifar-100-python", {"train": 50, "test": 20}, key="fine_labels")
    dataset = data.load("cifar100", data_dir=tmp_path if inner != "." else tmp_path / "cifar-100-python")
    np.testing.assert_array_equal(dataset.test.images, content["test"][0])
    assert dataset.train.size == 45


def test_a_pickle_as_numpy_one_wrote_it(tmp_path):
    """The official files name `numpy.core.multiarray`, which NumPy 2 renamed."""
    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps({b"data": np.arange(6, dtype=np.uint8)}, 2).replace(b"numpy._core.", b"numpy.core."))
    assert b"numpy.core.multiarray" in path.read_bytes()
    np.testing.assert_array_equal(read_pickled(path)["data"], np.arange(6))


class Evil:
    def __reduce__(self):
        return os.mkdir, ("pickle_ran_code",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Evil(), "the name posix.mkdir|the name nt.mkdir"),
        ({b"data": np.array([Evil()], object)}, "the array type object"),
        ({b"data": np.ma.masked_array([1])}, "the name numpy.ma"),
        ({b"data": np.zeros(2, "datetime64[s]")}, "the array type datetime64"),
        ([1, 2], "holds a list"),
    ],
)
def test_other_pickles_are_refused(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps(content, 2))
    with pytest.raises(UserError, match=message):
        read_pickled(path)
    assert not (tmp_path / "pickle_ran_code").exists()


def test_codecs_cannot_be_abused(tmp_path):
    path = tmp_path / "batch"
    path.write_bytes(b"c_codecs\nencode\n(Vabc\nVrot13\ntR.")
    with pytest.raises(UserError, match="the encoding 'rot13'"):
        read_pickled(path)
    path.write_bytes(b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(I0\ntVb\ntR.")
    with pytest.raises(UserError, match="an array type other than ndarray"):
        read_pickled(path)


def test_a_truncated_python_batch(tmp_path):
    write_python(tmp_path / "cifar-10-batches-py", {"test_batch": 10})
    path = tmp_path / "cifar-10-batches-py" / "test_batch"
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(UserError, match="test_batch is not a CIFAR batch that can be read safely"):
        _ = data.load("cifar10", data_dir=tmp_path).test


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({b"labels": [1]}, "has no uint8 array 'data'"),
        ({b"data": np.zeros((1, 3072), np.float32), b"labels": [1]}, "has no uint8 array 'data'"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [1, 2]}, "has no list 'labels' of 1 whole"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": ["1"]}, "has no list 'labels' of 1 whole"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [-1]}, "image 0 has the label -1"),
        ({b"data": np.zeros((0, 3072), np.uint8), b"labels": []}, "holds 0 images"),
    ],
)
def test_a_python_batch_with_other_content(tmp_path, batch, message):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "test_batch").write_bytes(pickle.dumps(batch, 2))
    with pytest.raises(UserError, match=message):
        _ = data.load("cifar10", data_dir=tmp_path).test


@pytest.mark.cifar10
def test_the_real_cifar10():
    """Statistics of the official files: channel means of the test images and the first labels."""
    if "KERAS_RELU_DATA_DIR" not in os.environ:
        pytest.skip("KERAS_RELU_DATA_DIR names no folder with the real CIFAR-10")
    dataset = data.load("cifar10", data_dir=os.environ["KERAS_RELU_DATA_DIR"])
    assert (dataset.train.size, dataset.validation.size, dataset.test.size) == (45000, 5000, 10000)
    np.testing.assert_array_equal(np.bincount(dataset.validation.labels), [500] * 10)
    np.testing.assert_allclose(dataset.test.images.mean((0, 1, 2)), (126.024641, 123.708504, 114.854319), rtol=1e-7)
    np.testing.assert_array_equal(dataset.test.labels[:10], [3, 8, 8, 0, 6, 6, 1, 6, 3, 1])


def test_binary_files_come_before_python_batches(cifar10):
    write_python(cifar10[0] / "cifar-10-batches-py", {"test_batch": 10})
    assert data.load("cifar10", data_dir=cifar10[0]).test.size == 30
    shutil.rmtree(cifar10[0] / "cifar-10-batches-bin")
    assert data.load("cifar10", data_dir=cifar10[0]).test.size == 10
