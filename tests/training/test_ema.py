from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from keras_relu.errors import UserError
from keras_relu.training.ema import ExponentialMovingAverage


def test_oracle():
    weight = tf.Variable([1.0, 2.0])
    average = ExponentialMovingAverage([weight, tf.Variable(3)], decay=0.5)
    update = tf.function(lambda: average.update())
    expected = np.array([1.0, 2.0])
    for n, value in enumerate(([3.0, 0.0], [5.0, 1.0], [-1.0, 4.0])):
        weight.assign(value)
        update()
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * np.array(value)
    average.copy_to_weights()
    np.testing.assert_allclose(weight, expected, rtol=1e-6)


def test_swapped_gives_the_weights_back_even_after_an_error():
    weight = tf.Variable(1.0)
    average = ExponentialMovingAverage([weight], decay=0.9)
    weight.assign(4.0)

    def fail() -> None:
        with average.swapped():
            assert float(weight) == 1.0
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert float(weight) == 4.0


def test_an_update_that_is_skipped_changes_nothing():
    weight = tf.Variable(1.0)
    average = ExponentialMovingAverage([weight], decay=0.9)
    weight.assign(4.0)
    average.update(when=tf.constant(False))
    assert [float(v) for v in average.variables] == [0.0, 1.0]


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_refuses(decay):
    with pytest.raises(UserError, match="decay"):
        ExponentialMovingAverage([tf.Variable(1.0)], decay)
