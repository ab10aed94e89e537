"""One training step of a gated network: weights and coefficients by gradient, gate scores by what their ReLUs are worth."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras as keras

from keras_relu.data import Normalization
from keras_relu.replacement.config import Distillation, Optimization, Search
from keras_relu.replacement.guard import SpikeGuard
from keras_relu.replacement.lifecycle import elements_per_score, gated_layers
from keras_relu.replacement.penalty import PenaltyControl
from keras_relu.training import losses, optimizers, schedules

__all__ = ["GatedStep", "SearchStep"]

Gradients = tuple[list[tf.Tensor], list[tf.Tensor], dict[str, tf.Tensor]]


class GatedStep:
    """A `TrainStep` (see `training.fit`) that trains weights and coefficients under masks that stay as they are.

    Args:
        model: a gated model.
        phase: settings of the phase.
        steps: steps of the whole phase, for the learning rate.
        normalization: of the images.
        teacher: the unreduced network, whose logits are distilled; None = labels alone.
        distillation: how to distil; without it there is no teacher.
    """

    def __init__(
        self,
        model: keras.Model,
        phase: Optimization,
        *,
        steps: int,
        normalization: Normalization,
        teacher: keras.Model | None = None,
        distillation: Distillation | None = None,
    ) -> None:
        self.model, self.phase, self.normalization = model, phase, normalization
        self.teacher = teacher if distillation else None
        self.distillation = distillation
        self.layers = gated_layers(model)
        self.sizes = [float(elements_per_score(layer)) for layer in self.layers]
        self.scores = [layer.score for layer in self.layers]
        self.coefficients = [layer.coefficients for layer in self.layers if layer.replacement.trainable]
        apart = {variable.ref() for variable in self.scores + self.coefficients}
        self.weights = [v for v in model.trainable_variables if v.ref() not in apart]
        floor: dict[str, Any] = {"floor": phase.minimum_learning_rate} if phase.minimum_learning_rate else {}
        self.schedule = schedules.get_schedule(
            phase.schedule,
            peak=phase.learning_rate,
            total_steps=max(steps, 1),
            warmup_steps=int(phase.warmup_fraction * steps),
            **floor,
        )
        options: dict[str, Any] = (
            {} if phase.optimizer != "sgd" else {"momentum": 0.9 if phase.momentum is None else phase.momentum}
        )
        self.optimizer = optimizers.get_optimizer(phase.optimizer, weight_decay=phase.weight_decay, **options)
        self.optimizer.build(self.weights)
        # Adam without decay by default: decay would pull a line towards zero, which is nobody's prior, and the gradients
        # of the channels differ by orders of magnitude.
        same = {"weight_decay": phase.weight_decay, **options} if phase.coefficient_optimizer == "same" else {}
        self.coefficient_optimizer = optimizers.get_optimizer(phase.optimizer if same else "adam", **same)
        self.coefficient_optimizer.build(self.coefficients)
        self.guard = SpikeGuard(_statistics(model, self.layers))

    def variables(self) -> dict[str, list[tf.Variable]]:
        """Everything a checkpoint needs, by group."""
        slots = self.optimizer.variables + self.coefficient_optimizer.variables
        return {"model": self.model.variables, "optimizer": slots, "guard": self.guard.variables}

    @tf.autograph.experimental.do_not_convert
    def __call__(self, images: tf.Tensor, labels: tf.Tensor, step: tf.Tensor) -> dict[str, tf.Tensor]:
        """One update from uint8 `images` [B, H, W, C] and int `labels` [B]; returns loss, accuracy, learning_rate, kept,
        skipped."""
        x = self.normalization.apply(images)
        soft = None if self.teacher is None else tf.stop_gradient(self.teacher(x, training=False))
        before = self.guard.read()
        gradients, score_gradients, logs = self._gradients(x, labels, soft, step)
        admitted = self.guard.admits(logs["loss"])
        rate = self.schedule(step)
        self._update_weights(gradients, rate, admitted)
        self._update_scores(score_gradients, step, admitted)
        self.guard.restore(before, unless=admitted)
        logs |= self.guard.logged(logs["loss"], admitted)
        kept = tf.add_n([tf.reduce_sum(layer.mask) * size for layer, size in zip(self.layers, self.sizes, strict=True)])
        return {**logs, "learning_rate": rate, "kept": kept}

    @property
    def _trained(self) -> list[tf.Variable]:
        return self.weights + self.coefficients

    def _gradients(self, x: tf.Tensor, labels: tf.Tensor, soft: Any, step: tf.Tensor) -> Gradients:
        """Gradients of `_trained`, those of the scores (none here), and what to log."""
        del step
        return self._differentiate(x, labels, soft, self._trained, [])

    def _update_scores(self, gradients: list[tf.Tensor], step: tf.Tensor, admitted: tf.Tensor) -> None:
        """What a search does with the gradients of the scores; masks that stay as they are need none."""

    def _differentiate(
        self, x: tf.Tensor, labels: tf.Tensor, soft: Any, trained: list[tf.Variable], scores: list[tf.Variable]
    ) -> Gradients:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(trained + scores)
            logits = self.model(x, training=True)
            each = losses.cross_entropy(labels, logits, label_smoothing=self.phase.label_smoothing)
            if soft is not None and self.distillation is not None:
                distilled = losses.distillation_loss(logits, soft, self.distillation.temperature)
                each += self.distillation.weight * distilled
            loss = losses.global_mean(each)
        gradients = tape.gradient(loss, trained + scores, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        logs = {"loss": tf.reduce_mean(each), "accuracy": losses.accuracy(labels, logits)}
        return gradients[: len(trained)], gradients[len(trained) :], logs

    def _update_weights(self, gradients: list[tf.Tensor], rate: tf.Tensor, admitted: tf.Tensor) -> None:
        gradients = optimizers.reduce_gradients(gradients)
        if self.phase.clip_norm is not None:
            gradients, _ = optimizers.clip_by_global_norm(gradients, self.phase.clip_norm)
        count = len(self.weights)
        self.optimizer.apply(zip(gradients[:count], self.weights, strict=True), rate, when=admitted)
        if not self.coefficients:
            return
        # The coefficients' rate follows the same curve, from a peak of its own.
        scaled = rate * (self.phase.coefficient_learning_rate / self.phase.learning_rate)
        pairs = zip(gradients[count:], self.coefficients, strict=True)
        self.coefficient_optimizer.apply(pairs, scaled, when=admitted)
        for layer in self.layers:
            layer.project_coefficients()


class SearchStep(GatedStep):
    """A `GatedStep` that also keeps the gate scores: as running squares of their gradients, or trained by them."""

    def __init__(self, model: keras.Model, phase: Search, **options: Any) -> None:
        super().__init__(model, phase, **options)
        self.search = phase
        self.penalty = PenaltyControl(phase.penalty_weight, phase.penalty_growth) if phase.method == "penalty" else None
        # The originals' betas; epsilon far below the gradients of single gates.
        self.score_optimizer = optimizers.get_optimizer(
            "adam", betas=(0.5, 0.999), weight_decay=phase.score_weight_decay, epsilon=1e-12
        )
        if phase.saliency == "straight_through":
            self.score_optimizer.build(self.scores)
            return
        # Running means start empty: what a score was before is on another scale.
        for score in self.scores:
            score.assign(tf.zeros_like(score))

    def variables(self) -> dict[str, list[tf.Variable]]:
        """Everything a checkpoint needs, by group."""
        groups = super().variables()
        if self.search.saliency == "straight_through":
            groups["scores"] = self.score_optimizer.variables
        return {**groups, "penalty": self.penalty.variables} if self.penalty else groups

    def _gradients(self, x: tf.Tensor, labels: tf.Tensor, soft: Any, step: tf.Tensor) -> Gradients:
        """Weight gradients of every step; score gradients, one more pass over every site, only when they are due."""
        if self.search.alternating:
            # The originals' first pass learns from the labels alone.
            _, score_gradients, _ = self._differentiate(x, labels, None, [], self.scores)
            gradients, _, logs = self._differentiate(x, labels, soft, self._trained, [])
            return gradients, score_gradients, logs

        def measured() -> Gradients:
            return self._differentiate(x, labels, soft, self._trained, self.scores)

        def plain() -> Gradients:
            gradients, _, logs = self._differentiate(x, labels, soft, self._trained, [])
            return gradients, [tf.zeros_like(score) for score in self.scores], logs

        return measured() if self.search.score_interval == 1 else tf.cond(self._due(step), measured, plain)

    def _due(self, step: tf.Tensor) -> tf.Tensor:
        return tf.equal(step % (1 if self.search.alternating else self.search.score_interval), 0)

    def _update_scores(self, gradients: list[tf.Tensor], step: tf.Tensor, admitted: tf.Tensor) -> None:
        due = self._due(step) & admitted
        gradients = optimizers.reduce_gradients(gradients)
        if self.search.saliency == "straight_through":
            if self.penalty:
                gradients = self.penalty.gradient(self.scores, gradients)
            pairs = zip(gradients, self.scores, strict=True)
            self.score_optimizer.apply(pairs, self.search.score_learning_rate, when=due)
            return
        # The layer's score gradient carries the factor softplus(score); without it, it is the gradient of the mask itself.
        raw = [gradient / tf.math.softplus(score) for gradient, score in zip(gradients, self.scores, strict=True)]
        optimizers.for_each_replica(
            self._running_square, [(score, (g,)) for score, g in zip(self.scores, raw, strict=True)], when=due
        )

    def _running_square(self, score: tf.Variable, gradient: tf.Tensor) -> None:
        decay = self.search.saliency_decay
        score.assign(decay * score + (1.0 - decay) * tf.square(gradient))


def _statistics(model: keras.Model, layers: list[Any]) -> list[tf.Variable]:
    """What a forward pass in training moves, but for masks and the reach, which learns from outliers too."""
    own = {variable.ref() for layer in layers for variable in (layer.mask, layer.reach) if variable is not None}
    return [v for v in model.non_trainable_variables if v.dtype.is_floating and v.ref() not in own]
