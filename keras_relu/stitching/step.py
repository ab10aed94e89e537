"""One training step of a stitch: by the loss of the task through the back network, or by matching activations directly."""

from __future__ import annotations

import tensorflow as tf

from keras_relu.data import Normalization
from keras_relu.errors import KerasReLUError, UserError, unknown_key
from keras_relu.stitching.config import TARGETS, DirectConfig, StitchConfig
from keras_relu.stitching.pair import Joint
from keras_relu.training import losses, optimizers, schedules

__all__ = ["DirectStep", "StitchStep", "batch_cka", "soft_cross_entropy", "target_loss"]


def soft_cross_entropy(logits: tf.Tensor, target: tf.Tensor, temperature: float = 1.0) -> tf.Tensor:
    """-sum_c softmax(target / t)_c log softmax(logits / t)_c, [B, C] each -> [B]; no gradient flows to the target."""
    probabilities = tf.stop_gradient(tf.nn.softmax(target / temperature))
    return -tf.reduce_sum(probabilities * tf.nn.log_softmax(logits / temperature), axis=-1)


def target_loss(
    target: str, logits: tf.Tensor, labels: tf.Tensor, z1: tf.Tensor, z2: tf.Tensor, temperature: float = 1.0
) -> tf.Tensor:
    """The task loss [B] of stitched `logits`.

    * hard: cross entropy with the labels;
    * soft_1, soft_2: with the outputs z1, z2 of the front and the end network;
    * soft_12: the mean of both losses; soft_1_plus_2: with the mean of both outputs' logits, as in the original.

    Raises:
        UserError: an unknown target.
    """
    if target == "hard":
        return losses.cross_entropy(labels, logits)
    if target == "soft_12":
        return (soft_cross_entropy(logits, z1, temperature) + soft_cross_entropy(logits, z2, temperature)) / 2.0
    if target == "soft_1_plus_2":
        return soft_cross_entropy(logits, (z1 + z2) / 2.0, temperature)
    if target not in ("soft_1", "soft_2"):
        raise unknown_key("target", target, TARGETS)
    return soft_cross_entropy(logits, z1 if target == "soft_1" else z2, temperature)


def batch_cka(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Linear CKA of the flattened representations of a batch, float32 scalar; 0 (and no gradient) when one is constant."""
    grams = []
    for tensor in (x, y):
        flat = tf.reshape(tensor, [tf.shape(tensor)[0], -1])
        flat = flat - tf.reduce_mean(flat, axis=0)
        grams.append(tf.linalg.matmul(flat, flat, transpose_b=True))
    inner = tf.reduce_sum(grams[0] * grams[1])
    norms = tf.reduce_sum(tf.square(grams[0])) * tf.reduce_sum(tf.square(grams[1]))
    # The root of 0 has no gradient: 1 stands in before it is taken, not after.
    determined = norms > 0.0
    return tf.where(determined, inner / tf.sqrt(tf.where(determined, norms, tf.ones_like(norms))), tf.zeros_like(inner))


class _MapStep:
    """What both ways of training share: the stitch alone is trained, both networks run in inference mode."""

    def __init__(
        self, joint: Joint, normalization: Normalization, optimizer: optimizers.Optimizer, rate: schedules.Schedule
    ) -> None:
        self.joint, self.pair = joint, joint.pair
        self.normalization, self.optimizer, self.rate = normalization, optimizer, rate
        self.trained = joint.stitch.trainable_variables
        optimizer.build(self.trained)

    def variables(self) -> dict[str, list[tf.Variable]]:
        """The map, its mask and the optimizer: the networks are frozen and need no checkpoint."""
        return {"stitch": self.joint.stitch.variables, "optimizer": self.optimizer.variables}

    def _descend(self, tape: tf.GradientTape, share: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """One update; `share` is this replica's part of the loss, computed under the tape. Returns the learning rate."""
        gradients, _ = optimizers.compute_gradients(tape, share, self.trained)
        if any(gradient is None for gradient in gradients):
            raise KerasReLUError(
                "The loss does not depend on the stitch, which would stay as it is; please report this."
            )
        rate = self.rate(step)
        self.optimizer.apply(zip(gradients, self.trained, strict=True), rate)
        return rate


class StitchStep(_MapStep):
    """A `TrainStep` (see `training.fit`) that trains the stitch for the task.

    Args:
        joint: the two networks and the stitch between them.
        config: target, regularisers, optimizer.
        steps: steps of the whole training, for the learning rate.
        normalization: of the images.
    """

    def __init__(self, joint: Joint, config: StitchConfig, *, steps: int, normalization: Normalization) -> None:
        options = {"momentum": 0.9, "nesterov": True} if config.optimizer == "sgd" else {}
        optimizer = optimizers.get_optimizer(config.optimizer, weight_decay=config.weight_decay, **options)
        rate = schedules.get_schedule(
            "step", peak=config.learning_rate, total_steps=max(1, steps), milestones=(1 / 3, 2 / 3)
        )
        super().__init__(joint, normalization, optimizer, rate)
        self.config = config

    def __call__(self, images: tf.Tensor, labels: tf.Tensor, step_index: tf.Tensor) -> dict[str, tf.Tensor]:
        """One update from uint8 images; returns loss, accuracy and learning_rate."""
        config, pair = self.config, self.pair
        x = self.normalization.apply(images)
        a1 = tf.stop_gradient(pair.front(x, training=False))
        # Where the loss has no use for them the outputs of the networks are not part of the graph.
        uses_end = config.cka_weight > 0 or config.target in ("soft_2", "soft_12", "soft_1_plus_2")
        a2 = tf.stop_gradient(pair.end_start(x, training=False)) if uses_end else a1
        z1 = pair.front_rest(a1, training=False) if "1" in config.target else labels
        z2 = pair.back(a2, training=False) if "2" in config.target else labels
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self.trained)
            stitched = self.joint.apply(a1)
            logits = pair.back(stitched, training=False)
            loss = tf.reduce_mean(target_loss(config.target, logits, labels, z1, z2, config.temperature))
            loss += self._penalty(stitched, a2)
            share = loss / losses.replica_count()
        rate = self._descend(tape, share, step_index)
        return {"loss": loss, "accuracy": losses.accuracy(labels, logits), "learning_rate": rate}

    def _penalty(self, stitched: tf.Tensor, a2: tf.Tensor) -> tf.Tensor:
        penalty = tf.zeros([])
        if self.config.l1:
            penalty += self.config.l1 * tf.reduce_mean(tf.abs(self.joint.stitch.effective_kernel()))
        if self.config.cka_weight:
            penalty += self.config.cka_weight * (1.0 - batch_cka(stitched, a2))
        return penalty


class DirectStep(_MapStep):
    """A `TrainStep` that makes T(A1) like A2: mean squared difference, or 1 - CKA of the batch. No labels, no back network.

    Args:
        joint, normalization: as for `StitchStep`.
        config: loss and learning rate.
    """

    def __init__(self, joint: Joint, config: DirectConfig, *, normalization: Normalization) -> None:
        rate = schedules.get_schedule("constant", peak=config.learning_rate, total_steps=1)
        super().__init__(joint, normalization, optimizers.get_optimizer("adam"), rate)
        if config.loss not in ("mse", "cka"):
            raise UserError(f"direct loss is {config.loss!r}; allowed are 'mse' and 'cka'.")
        self.loss = config.loss

    def __call__(self, images: tf.Tensor, labels: tf.Tensor, step_index: tf.Tensor) -> dict[str, tf.Tensor]:
        """One update from uint8 images; returns loss and learning_rate."""
        x = self.normalization.apply(images)
        a1 = tf.stop_gradient(self.pair.front(x, training=False))
        a2 = tf.stop_gradient(self.pair.end_start(x, training=False))
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self.trained)
            stitched = self.joint.apply(a1)
            loss = tf.reduce_mean(tf.square(stitched - a2)) if self.loss == "mse" else 1.0 - batch_cka(stitched, a2)
            share = loss / losses.replica_count()
        return {"loss": loss, "learning_rate": self._descend(tape, share, step_index)}
