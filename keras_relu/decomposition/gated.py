"""Training with class-specific gates (CSG), which makes the comparison model of the decomposition.

Every batch goes two ways through one classifier: as it is (standard path), and with the pooled features of each image
multiplied by the gates of its class (CSG path). A hinge on the sum of the gates keeps them few, and after every update
each filter's gates are divided by their largest and clipped to [0, 1], so that every filter keeps at least one class:

    loss = CE(standard) + path_weight CE(CSG) + sparsity_weight max(0, sum |G| - density C D)

At inference only the standard path is used. The original alternates the two paths by epochs; here both are in every
step, which needs one pass through the body of the network for both.

Source: Liang et al., "Training Interpretable Convolutional Neural Networks by Differentiating Class-specific Filters"
(ECCV 2020, arXiv 2007.08194); specification `decomposition`, section 7.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
import tf_keras as keras
from pydantic import Field

from keras_relu.decomposition.csg import GATES_FILE
from keras_relu.decomposition.head import check_fits, find_head
from keras_relu.evaluate import Evaluator
from keras_relu.files import atomic_path
from keras_relu.training import fit, losses
from keras_relu.training.optimizers import compute_gradients, for_each_replica, get_optimizer
from keras_relu.training.strategy import place_model
from keras_relu.training.supervised import TrainConfig

if TYPE_CHECKING:
    from keras_relu.data import Dataset
    from keras_relu.runs import Run

__all__ = ["GateConfig", "GatedStep", "normalize_gates", "train_gated"]


class GateConfig(TrainConfig):
    """Settings of a training with class-specific gates; those of the weights are as in `TrainConfig`."""

    path_weight: float = Field(1.0, ge=0, description="of the gated path's cross entropy")
    sparsity_weight: float = Field(1e-3, ge=0, description="of the hinge on the sum of the gates")
    density: float = Field(0.2, gt=0, le=1, description="mean gate below which the hinge is zero")
    gate_learning_rate: float = Field(0.1, gt=0, description="peak rate of the gates (SGD with momentum 0.9)")
    gate_warmup_epochs: float = Field(0.0, ge=0, description="epochs before the gates are used and trained")


def normalize_gates(gates: tf.Tensor) -> tf.Tensor:
    """Each filter's gates divided by their largest, then clipped to [0, 1]: [C, D] -> [C, D].

    A filter whose gates are all zero or less gets 1 at its largest, so that it is never lost.
    """
    largest = tf.reduce_max(gates, axis=0, keepdims=True)
    scaled = gates / tf.maximum(largest, 1e-12)
    return tf.clip_by_value(tf.where(largest > 0, scaled, tf.cast(gates >= largest, gates.dtype)), 0.0, 1.0)


class GatedStep:
    """A `TrainStep` (see `training.fit`) for weights and gates.

    Args:
        model: ends in a dense layer on pooled features.
        config: the settings.
        steps_per_epoch: for the schedule and the warm-up of the gates.
        normalization: of the images.
    """

    def __init__(self, model: keras.Model, config: GateConfig, steps_per_epoch: int, normalization: Any) -> None:
        head = find_head(model)
        self.model, self.config, self.normalization = model, config, normalization
        self.dense = head.dense
        self.body = keras.Model(model.inputs, head.features)
        self.gates = tf.Variable(tf.fill([head.dense.units, head.filters], 0.5), name="csg")
        self.warmup = round(config.gate_warmup_epochs * steps_per_epoch)
        self.schedule = config.make_schedule(steps_per_epoch)
        self.optimizer = config.make_optimizer()
        self.optimizer.build(model.trainable_variables)
        self.gate_optimizer = get_optimizer("sgd", momentum=0.9)
        self.gate_optimizer.build([self.gates])

    def variables(self) -> dict[str, list[tf.Variable]]:
        """Everything a checkpoint needs."""
        slots = self.optimizer.variables + self.gate_optimizer.variables
        return {"model": list(self.model.variables), "gates": [self.gates], "optimizer": slots}

    def __call__(self, images: tf.Tensor, labels: tf.Tensor, step_index: tf.Tensor) -> dict[str, tf.Tensor]:
        """One update; see `TrainStep`. `gated_accuracy` is that of the CSG path, `gate_mean` the mean gate."""
        gated = tf.cast(step_index >= self.warmup, tf.float32)
        variables = [*self.model.trainable_variables, self.gates]
        with tf.GradientTape() as tape:
            features = self.body(self.normalization.apply(images), training=True)
            standard = self._logits(features)
            through_gates = self._logits(features * tf.gather(self.gates, labels))
            loss = tf.reduce_mean(losses.cross_entropy(labels, standard, label_smoothing=self.config.label_smoothing))
            path = self.config.path_weight * tf.reduce_mean(losses.cross_entropy(labels, through_gates))
            loss += gated * (path + self.config.sparsity_weight * self._hinge())
            target = loss / losses.replica_count()
        gradients, _ = compute_gradients(tape, target, variables, clip_norm=self.config.clip_norm)
        rate = self.schedule(step_index)
        self.optimizer.apply(zip(gradients[:-1], variables[:-1], strict=True), rate)
        self._update_gates(gradients[-1], rate, step_index)
        return {
            "loss": loss,
            "accuracy": losses.accuracy(labels, standard),
            "gated_accuracy": losses.accuracy(labels, through_gates),
            "gate_mean": tf.reduce_mean(self.gates),
            "learning_rate": rate,
        }

    def _logits(self, features: tf.Tensor) -> tf.Tensor:
        logits = tf.matmul(tf.cast(features, self.dense.kernel.dtype), self.dense.kernel)
        return logits + self.dense.bias if self.dense.use_bias else logits

    def _hinge(self) -> tf.Tensor:
        allowed = self.config.density * float(np.prod(self.gates.shape))
        return tf.nn.relu(tf.reduce_sum(tf.abs(self.gates)) - allowed)

    def _update_gates(self, gradient: tf.Tensor, rate: tf.Tensor, step_index: tf.Tensor) -> None:
        # The same curve as the weights' rate, from a peak of its own.
        rate *= self.config.gate_learning_rate / self.config.learning_rate
        active = step_index >= self.warmup
        self.gate_optimizer.apply([(gradient, self.gates)], rate, when=active)
        for_each_replica(lambda gates: gates.assign(normalize_gates(gates)), [(self.gates, ())], when=active)


def train_gated(
    model: keras.Model,
    dataset: Dataset,
    run: Run | None,
    config: GateConfig | Mapping[str, Any],
    *,
    strategy: tf.distribute.Strategy | None = None,
    facts: Mapping[str, Any] | None = None,
    **options: Any,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Train `model` in place with class-specific gates and measure its standard path on the test split once.

    Args:
        model: logits of a dense layer on pooled features.
        run: gets metrics, checkpoints, the model, the gates (gates.npz) and result.json; None writes nothing.
        config: a `GateConfig` or its plain values.
        facts: further keys of the result.
        options: resume, checkpoint_every, log_every, progress, max_steps; see `training.fit`.

    Returns:
        (gates [C, D], the result).

    Raises:
        UserError: a model, data set or settings that do not fit.
        TrainingDivergedError, Interrupted: see `training.fit`.
    """
    config = config if isinstance(config, GateConfig) else GateConfig.parse(config)
    check_fits(model, dataset)
    find_head(model)
    strategy = strategy or tf.distribute.get_strategy()
    placed = place_model(model, strategy)
    with strategy.scope():
        step = GatedStep(placed, config, dataset.train.steps_per_epoch(config.batch_size), dataset.normalization)
    evaluator = Evaluator(placed, dataset.normalization)
    fit(
        step,
        dataset,
        epochs=config.epochs,
        batch_size=config.batch_size,
        run=run,
        seed=config.seed,
        augment=config.augment,
        validate=_validator(evaluator, dataset),
        strategy=strategy,
        **options,
    )
    if placed is not model:
        model.set_weights(placed.get_weights())
    gates = step.gates.numpy()
    result = {**_measured(evaluator, dataset, config), "gate_mean": float(gates.mean()), **(facts or {})}
    if run is None:
        return gates, result
    run.save_model(model)
    if run.chief:
        with atomic_path(run.path / GATES_FILE) as temporary:
            np.savez_compressed(temporary, csg=gates)
    return gates, run.finish(result)


def _validator(evaluator: Evaluator, dataset: Dataset) -> Callable[[], dict[str, float]] | None:
    if not dataset.validation.size:
        return None

    def validate() -> dict[str, float]:
        measured = evaluator(dataset.validation)
        return {"accuracy": measured["accuracy"], "loss": measured["loss"]}

    return validate


def _measured(evaluator: Evaluator, dataset: Dataset, config: GateConfig) -> dict[str, Any]:
    validation = evaluator(dataset.validation) if dataset.validation.size else {}
    return {
        "dataset": dataset.name,
        "normalization": dataset.normalization.name,
        **evaluator(dataset.test, classes=dataset.classes),
        "val_accuracy": validation.get("accuracy"),
        "epochs": {"train": config.epochs},
        "seed": config.seed,
    }
