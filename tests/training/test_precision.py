from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from keras_relu.errors import UserError
from keras_relu.training.precision import LossScale, all_finite, set_precision


@pytest.fixture(autouse=True)
def _float32_afterwards():
    yield
    keras.mixed_precision.set_global_policy("float32")


def test_scale_halves_on_overflow_and_doubles_after_good_steps():
    scale = LossScale(1024.0, growth_steps=2)
    update = tf.function(scale.update)
    seen = []
    for finite in (False, True, True, True, False):
        update(tf.constant(finite))
        seen.append(float(scale.value))
    assert seen == [512.0, 512.0, 1024.0, 1024.0, 512.0]


def test_scale_stays_at_least_one():
    scale = LossScale(1.0)
    scale.update(tf.constant(False))
    assert float(scale.value) == 1.0


def test_all_finite():
    good, bad = tf.constant([1.0, 2.0]), tf.constant([1.0, np.inf])
    assert bool(all_finite([good, None]))
    assert not bool(all_finite([good, bad]))


@pytest.mark.parametrize(
    ("name", "compute"), [("float32", "float32"), ("bfloat16", "bfloat16"), ("float16", "float16")]
)
def test_policy_and_loss_scale(name, compute):
    scale = set_precision(name)
    layer = keras.layers.Dense(2)
    assert layer.compute_dtype == compute
    assert (scale is not None) == (name == "float16")


def test_refuses():
    with pytest.raises(UserError, match="precision 'half'"):
        set_precision("half")
