from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from keras_relu.errors import UserError
from keras_relu.training import losses

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(size=(5, 4)).astype(np.float32)
TEACHER = RANDOM.normal(size=(5, 4)).astype(np.float32)
LABELS = np.array([0, 3, 1, 1, 2], np.int32)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


class TestCrossEntropy:
    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    def test_oracle(self, smoothing):
        target = (1 - smoothing) * np.eye(4)[LABELS] + smoothing / 4
        expected = -(target * np.log(softmax(LOGITS))).sum(-1)
        np.testing.assert_allclose(losses.cross_entropy(LABELS, LOGITS, label_smoothing=smoothing), expected, rtol=1e-5)

    def test_half_precision_logits_give_float32(self):
        assert losses.cross_entropy(LABELS, tf.cast(LOGITS, tf.float16)).dtype == tf.float32

    @pytest.mark.parametrize("smoothing", [-0.1, 1.0])
    def test_refuses(self, smoothing):
        with pytest.raises(UserError, match="label_smoothing"):
            losses.cross_entropy(LABELS, LOGITS, label_smoothing=smoothing)


class TestDistillation:
    def test_oracle(self):
        t, s = softmax(TEACHER / 4.0), softmax(LOGITS / 4.0)
        expected = 16 * (t * np.log(t / s)).sum(-1)
        np.testing.assert_allclose(losses.distillation_loss(LOGITS, TEACHER, 4.0), expected, rtol=1e-4)

    def test_no_gradient_to_the_teacher(self):
        student, teacher = tf.constant(LOGITS), tf.constant(TEACHER)
        with tf.GradientTape() as tape:
            tape.watch([student, teacher])
            loss = tf.reduce_sum(losses.distillation_loss(student, teacher))
        gradients = tape.gradient(loss, [student, teacher])
        assert gradients[1] is None
        assert float(tf.norm(gradients[0])) > 0

    def test_a_perfect_student_has_no_loss(self):
        np.testing.assert_allclose(losses.distillation_loss(LOGITS, LOGITS), 0, atol=1e-6)

    def test_refuses(self):
        with pytest.raises(UserError, match="temperature"):
            losses.distillation_loss(LOGITS, TEACHER, 0.0)

    @pytest.mark.torch
    def test_torch_parity(self):
        torch = pytest.importorskip("torch")
        student, teacher = torch.tensor(LOGITS), torch.tensor(TEACHER)
        functional = torch.nn.functional
        expected = 16 * functional.kl_div(
            functional.log_softmax(student / 4, -1), functional.softmax(teacher / 4, -1), reduction="batchmean"
        )
        assert float(losses.global_mean(losses.distillation_loss(LOGITS, TEACHER))) == pytest.approx(
            float(expected), rel=1e-4
        )


def test_global_mean_of_one_replica_is_the_mean():
    assert float(losses.global_mean(tf.constant([1.0, 2.0, 6.0]))) == pytest.approx(3.0)


def test_accuracy():
    logits = np.eye(4, dtype=np.float32)[[0, 3, 1, 2, 0]]
    assert float(losses.accuracy(LABELS, logits)) == pytest.approx(0.6)
