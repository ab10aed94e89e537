"""Per-example losses and the one rule that makes them independent of the number of replicas.

Every loss returns one value per example, shape [B]; `global_mean` then divides the sum by the *global* batch. Gradients
that are summed over the replicas (`optimizers.compute_gradients`) so equal those of one device with the whole batch.
"""

from __future__ import annotations

import tensorflow as tf

from keras_relu.errors import UserError

__all__ = ["accuracy", "cross_entropy", "distillation_loss", "global_mean", "replica_count"]


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor, *, label_smoothing: float = 0.0) -> tf.Tensor:
    """-sum_c q_c log softmax(logits)_c with q = (1 - s) onehot + s / C.

    Args:
        labels: int [B].
        logits: [B, C], any float type; computed in float32.
        label_smoothing: s in [0, 1).

    Returns:
        float32 [B].

    Raises:
        UserError: s is outside [0, 1).
    """
    if not 0.0 <= label_smoothing < 1.0:
        raise UserError(f"label_smoothing must be in [0, 1), received {label_smoothing}.")
    logits = tf.cast(logits, tf.float32)
    hard = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    if label_smoothing == 0.0:
        return hard
    uniform = -tf.reduce_mean(tf.nn.log_softmax(logits), axis=-1)
    return (1.0 - label_smoothing) * hard + label_smoothing * uniform


def distillation_loss(student: tf.Tensor, teacher: tf.Tensor, temperature: float = 4.0) -> tf.Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)) (Hinton et al., 2015); no gradient flows to the teacher.

    Args:
        student, teacher: logits [B, C].
        temperature: T > 0.

    Returns:
        float32 [B].

    Raises:
        UserError: T is not positive.
    """
    if not temperature > 0:
        raise UserError(f"The distillation temperature must be positive, received {temperature}.")
    student_log = tf.nn.log_softmax(tf.cast(student, tf.float32) / temperature)
    teacher_log = tf.stop_gradient(tf.nn.log_softmax(tf.cast(teacher, tf.float32) / temperature))
    return temperature**2 * tf.reduce_sum(tf.exp(teacher_log) * (teacher_log - student_log), axis=-1)


def accuracy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Fraction of examples whose largest logit is the label, float32 scalar of this replica's batch."""
    right = tf.equal(tf.argmax(logits, axis=-1, output_type=tf.int32), tf.cast(labels, tf.int32))
    return tf.reduce_mean(tf.cast(right, tf.float32))


def global_mean(values: tf.Tensor) -> tf.Tensor:
    """Sum of a replica's [B] values divided by the global batch, B times the number of replicas."""
    return tf.reduce_sum(values) / tf.cast(tf.size(values) * replica_count(), values.dtype)


def replica_count() -> int:
    """How many replicas share the batch; 1 outside a replica context."""
    context = tf.distribute.get_replica_context()
    return 1 if context is None else context.num_replicas_in_sync
