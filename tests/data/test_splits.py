from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_relu.data import ArraySplit, Augmentation
from keras_relu.errors import UserError

SIZE = 50
IMAGES = np.random.default_rng(0).integers(0, 256, (SIZE, 6, 6, 3), np.uint8)
# Labels number the images, so that a batch tells which images it holds.
SPLIT = ArraySplit(images=IMAGES, labels=np.arange(SIZE), augmentation=Augmentation(2, True))


def collect(dataset):
    return [(images.numpy(), labels.numpy()) for images, labels in dataset]


def assert_same(left, right):
    assert len(left) == len(right)
    for (images, labels), (other_images, other_labels) in zip(left, right, strict=True):
        np.testing.assert_array_equal(images, other_images)
        np.testing.assert_array_equal(labels, other_labels)


def test_an_epoch_is_a_permutation_of_full_batches():
    batches = collect(SPLIT.epoch(8, seed=0, epoch=0))
    assert len(batches) == SPLIT.steps_per_epoch(8) == 6
    seen = np.concatenate([labels for _, labels in batches])
    assert len(set(seen)) == 48
    for images, labels in batches:
        assert images.dtype == np.uint8
        assert labels.dtype == np.int32
        np.testing.assert_array_equal(images, IMAGES[labels])


def test_order_is_the_documented_one():
    expected = np.random.default_rng((3, 5)).permutation(SIZE)[:48]
    seen = np.concatenate([labels for _, labels in collect(SPLIT.epoch(16, seed=3, epoch=5, augment=True))])
    np.testing.assert_array_equal(seen, expected)


@settings(max_examples=15, deadline=None)
@given(data=st.data(), batch_size=st.integers(1, SIZE), seed=st.integers(0, 2**40), epoch=st.integers(0, 10**6))
def test_a_later_start_continues_exactly(data, batch_size, seed, epoch):
    start = data.draw(st.integers(0, SPLIT.steps_per_epoch(batch_size)))
    whole = collect(SPLIT.epoch(batch_size, seed=seed, epoch=epoch, augment=True))
    rest = collect(SPLIT.epoch(batch_size, seed=seed, epoch=epoch, start_step=start, augment=True))
    assert_same(whole[start:], rest)


@pytest.mark.parametrize("calls", [1, 2, 7])
def test_content_does_not_depend_on_parallel_calls(calls):
    other = replace(SPLIT, parallel_calls=calls)
    arguments = {"seed": 1, "epoch": 2, "augment": True}
    assert_same(collect(SPLIT.epoch(4, **arguments)), collect(other.epoch(4, **arguments)))


def test_seeds_epochs_and_steps_draw_differently():
    one = ArraySplit(images=np.repeat(IMAGES[:1], 64, 0), labels=np.zeros(64), augmentation=Augmentation(2, True))
    batches = [collect(one.epoch(32, seed=s, epoch=e, augment=True)) for s, e in ((0, 0), (0, 1), (1, 0))]
    drawn = {images.tobytes() for batch in batches for images, _ in batch}
    assert len(drawn) == 6


def test_global_random_state_is_neither_used_nor_changed():
    tf.random.set_seed(1)
    np.random.seed(1)
    before = np.random.get_state()[1].copy()
    first = collect(SPLIT.epoch(8, seed=0, epoch=0, augment=True))
    np.testing.assert_array_equal(before, np.random.get_state()[1])
    tf.random.set_seed(2)
    assert_same(first, collect(SPLIT.epoch(8, seed=0, epoch=0, augment=True)))


def test_batches_keep_order_and_the_partial_batch():
    batches = collect(SPLIT.batches(16))
    assert [len(labels) for _, labels in batches] == [16, 16, 16, 2]
    np.testing.assert_array_equal(np.concatenate([images for images, _ in batches]), IMAGES)
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in batches]), np.arange(SIZE))


def test_static_shapes_and_cardinality():
    dataset = SPLIT.epoch(8, seed=0, epoch=0, start_step=2, augment=True)
    assert dataset.element_spec == (tf.TensorSpec([8, 6, 6, 3], tf.uint8), tf.TensorSpec([8], tf.int32))
    assert dataset.cardinality() == 4
    assert SPLIT.batches(8).element_spec[0].shape == [None, 6, 6, 3]


def test_works_inside_a_graph():
    @tf.function
    def total():
        count = tf.constant(0)
        for _, labels in replace(SPLIT).batches(16):
            count += tf.size(labels)
        return count

    assert total() == SIZE


def test_subset():
    part = SPLIT.subset(np.array([3, 1]), name="validation")
    assert (part.size, part.name, part.augmentation) == (2, "validation", SPLIT.augmentation)
    np.testing.assert_array_equal(part.images, IMAGES[[3, 1]])
    np.testing.assert_array_equal(part.labels, [3, 1])


def test_a_split_smaller_than_a_batch_is_refused():
    with pytest.raises(UserError, match=r"train split has 50 image.*fewer than one batch of 51"):
        SPLIT.epoch(51, seed=0, epoch=0)


def test_an_empty_split_is_refused():
    empty = SPLIT.subset(np.array([], int), name="validation")
    with pytest.raises(UserError, match="validation split is empty"):
        empty.batches(4)
    with pytest.raises(UserError, match="has 0 image"):
        empty.steps_per_epoch(4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 2.5}, "batch_size is 2.5"),
        ({"batch_size": True}, "batch_size is True"),
        ({"seed": -1}, "seed is -1"),
        ({"epoch": -1}, "epoch is -1"),
        ({"start_step": 7}, "start_step is 7; allowed is a whole number from 0 to 6"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(UserError, match=message):
        SPLIT.epoch(**{"batch_size": 8, "seed": 0, "epoch": 0, **arguments})


def test_batches_refuse_a_batch_size_of_zero():
    with pytest.raises(UserError, match="batch_size is 0"):
        SPLIT.batches(0)


def test_wrong_arrays_are_refused():
    with pytest.raises(UserError, match=r"float32 \[2, 6, 6, 3\]; allowed is uint8"):
        ArraySplit(images=IMAGES[:2].astype(np.float32), labels=np.zeros(2))
    with pytest.raises(UserError, match=r"labels have the shape \[3\]"):
        ArraySplit(images=IMAGES[:2], labels=np.zeros(3))
