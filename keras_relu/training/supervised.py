"""Baseline training: cross entropy, optionally distillation, under any optimizer and schedule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import pydantic
import tensorflow as tf
import tf_keras as keras
from pydantic import Field

from keras_relu.config import Config
from keras_relu.errors import UserError
from keras_relu.evaluate import Evaluator
from keras_relu.runs import Run
from keras_relu.training import losses
from keras_relu.training.checks import require_logits
from keras_relu.training.ema import ExponentialMovingAverage
from keras_relu.training.fit import fit
from keras_relu.training.optimizers import Optimizer, compute_gradients, for_each_replica, get_optimizer
from keras_relu.training.precision import PRECISIONS, LossScale, all_finite
from keras_relu.training.schedules import Schedule, get_schedule
from keras_relu.training.selection import Selection
from keras_relu.training.strategy import place_model

__all__ = ["Rule", "SupervisedStep", "TrainConfig", "measure", "optimize", "train"]

# (variable, f): the variable becomes f(variable) after every update; how pruned weights stay zero, for example.
Rule = tuple[tf.Variable, Callable[[tf.Variable], tf.Tensor]]

# The usual recipe of the CIFAR literature (spec replacement, section 3.1).
_SGD_DEFAULTS = {"momentum": 0.9, "weight_decay": 5e-4}


class TrainConfig(Config):
    """Settings of a baseline training; the defaults train a CIFAR ResNet.

    Optimizer options are `momentum`, `nesterov`, `weight_decay`, `decay_vectors`, `betas` and `epsilon`; None leaves
    an option at its default, and one that has no effect on the chosen optimizer is refused.
    """

    epochs: int = Field(30, ge=0)
    batch_size: int = Field(128, ge=1, description="images per update, over all replicas")
    optimizer: str = "sgd"
    learning_rate: float = Field(0.1, gt=0, description="peak of the schedule")
    momentum: float | None = None
    nesterov: bool | None = None
    weight_decay: float | None = None
    decay_vectors: bool | None = Field(None, description="whether batch norm, biases and coefficients decay too")
    betas: tuple[float, float] | None = None
    epsilon: float | None = None
    schedule: str = "cosine"
    schedule_options: dict[str, Any] = Field({}, description="of the curve; see `schedules.get_schedule`")
    minimum_learning_rate: float = Field(0.0, ge=0)
    warmup_epochs: float = Field(0.0, ge=0)
    clip_norm: float | None = Field(None, gt=0, description="bound of the gradients' global norm")
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    distillation_weight: float = Field(1.0, gt=0, description="only with a teacher")
    temperature: float = Field(4.0, gt=0, description="only with a teacher")
    ema_decay: float | None = Field(None, gt=0, lt=1, description="evaluate and keep averaged weights")
    keep: Literal["last", "best"] = Field("last", description="weights of the last epoch, or the best on validation")
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    augment: bool = True
    seed: int = Field(0, ge=0)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _resolve(cls, values: Any) -> Any:
        """Defaults that depend on the optimizer, so that the recorded configuration is complete."""
        if isinstance(values, dict) and values.get("optimizer", "sgd") == "sgd":
            return _SGD_DEFAULTS | {k: v for k, v in values.items() if not (k in _SGD_DEFAULTS and v is None)}
        return values

    def make_optimizer(self) -> Optimizer:
        """The optimizer with the options that were given."""
        names = ("momentum", "nesterov", "weight_decay", "decay_vectors", "betas", "epsilon")
        return get_optimizer(self.optimizer, **{n: v for n in names if (v := getattr(self, n)) is not None})

    def make_schedule(self, steps_per_epoch: int) -> Schedule:
        """The schedule over all epochs."""
        options = dict(self.schedule_options)
        if self.minimum_learning_rate:
            options["floor"] = self.minimum_learning_rate
        return get_schedule(
            self.schedule,
            peak=self.learning_rate,
            total_steps=max(1, self.epochs * steps_per_epoch),
            warmup_steps=round(self.warmup_epochs * steps_per_epoch),
            **options,
        )


class SupervisedStep:
    """A `TrainStep`: cross entropy on the labels, plus distillation when there is a teacher.

    Args:
        model: logits as output; regularisation losses of its layers are added.
        optimizer: is built for the model's trainable variables.
        schedule: learning rate by step.
        normalization: its `apply` makes the model's input.
        teacher: its logits are distilled; runs in inference mode and gets no gradient.
        ema: updated after every step.
        loss_scale: for float16.
        rules: applied after every update, the constraints of the model's variables before them.
    """

    after: Callable[[tf.Tensor], None] | None = None

    def __init__(
        self,
        model: keras.Model,
        optimizer: Optimizer,
        schedule: Schedule,
        normalization: Any,
        *,
        teacher: keras.Model | None = None,
        distillation_weight: float = 1.0,
        temperature: float = 4.0,
        label_smoothing: float = 0.0,
        clip_norm: float | None = None,
        ema: ExponentialMovingAverage | None = None,
        loss_scale: LossScale | None = None,
        rules: Sequence[Rule] = (),
    ) -> None:
        self.model = model
        constrained = [(v, v.constraint) for v in model.trainable_variables if getattr(v, "constraint", None)]
        self.rules = [*constrained, *rules]
        self.optimizer = optimizer
        self.schedule = schedule
        self.normalization = normalization
        self.teacher = teacher
        self.distillation_weight = distillation_weight
        self.temperature = temperature
        self.label_smoothing = label_smoothing
        self.clip_norm = clip_norm
        self.ema = ema
        self.loss_scale = loss_scale
        optimizer.build(model.trainable_variables)

    def __call__(self, images: tf.Tensor, labels: tf.Tensor, step_index: tf.Tensor) -> dict[str, tf.Tensor]:
        """One update; see `TrainStep`."""
        x = self.normalization.apply(images)
        soft = None if self.teacher is None else self.teacher(x, training=False)
        variables = self.model.trainable_variables
        scale = None if self.loss_scale is None else self.loss_scale.value
        with tf.GradientTape() as tape:
            logits = self.model(x, training=True)
            loss = self._loss(labels, logits, soft)
            target = loss / losses.replica_count() if scale is None else loss * scale / losses.replica_count()
        gradients, norm = compute_gradients(tape, target, variables, clip_norm=self.clip_norm, scale=scale)
        rate = self.schedule(step_index)
        finite = None if scale is None else all_finite(gradients)
        self.optimizer.apply(zip(gradients, variables, strict=True), rate, when=finite)
        if self.after is not None:
            self.after(step_index)
        if self.rules:
            for_each_replica(_apply_rule, [(variable, (rule,)) for variable, rule in self.rules], when=finite)
        if self.ema is not None:
            self.ema.update(when=finite)
        if self.loss_scale is not None:
            self.loss_scale.update(finite)
        logs = {"loss": loss, "accuracy": losses.accuracy(labels, logits), "learning_rate": rate}
        return logs if self.clip_norm is None else {**logs, "gradient_norm": norm}

    def _loss(self, labels: tf.Tensor, logits: tf.Tensor, soft: tf.Tensor | None) -> tf.Tensor:
        """Mean over this replica's examples; divided by the number of replicas it is its part of the global mean."""
        values = losses.cross_entropy(labels, logits, label_smoothing=self.label_smoothing)
        if soft is not None:
            values += self.distillation_weight * losses.distillation_loss(logits, soft, self.temperature)
        loss = tf.reduce_mean(values)
        return loss + tf.add_n([tf.cast(term, loss.dtype) for term in self.model.losses]) if self.model.losses else loss

    def variables(self) -> dict[str, list[tf.Variable]]:
        """Everything a checkpoint needs."""
        groups = {"model": list(self.model.variables), "optimizer": self.optimizer.variables}
        if self.ema is not None:
            groups["ema"] = self.ema.variables
        if self.loss_scale is not None:
            groups["loss_scale"] = self.loss_scale.variables
        return groups


def _apply_rule(variable: tf.Variable, rule: Callable[[tf.Variable], tf.Tensor]) -> None:
    variable.assign(rule(variable))


def train(
    model: keras.Model,
    dataset: Any,
    run: Run | None,
    config: TrainConfig | Mapping[str, Any],
    *,
    facts: Mapping[str, Any] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Train `model` in place, keep the chosen weights, and measure them on the test split once.

    Args:
        model: logits for the classes of `dataset`; built under the precision's policy (`precision.set_precision`).
        run: gets metrics, checkpoints, the model and result.json; None writes nothing.
        facts: further keys of the result, the architecture for example.
        options: resume, teacher, strategy, checkpoint_every, snapshot_every, log_every, progress, max_steps; see `optimize`.

    Returns:
        The result as in result.json (without a run: its measured part).

    Raises:
        UserError, TrainingDivergedError, Interrupted: settings that contradict each other; see `fit`.
    """
    config = optimize(model, dataset, run, config, **options)
    measured = measure(model, dataset, config) | dict(facts or {})
    if run is None:
        return measured
    run.save_model(model)
    return run.finish(measured)


def optimize(
    model: keras.Model,
    dataset: Any,
    run: Run | None,
    config: TrainConfig | Mapping[str, Any],
    *,
    resume: bool = False,
    teacher: keras.Model | None = None,
    strategy: tf.distribute.Strategy | None = None,
    checkpoint_every: int = 0,
    log_every: int = 50,
    progress: bool = True,
    max_steps: int | None = None,
    snapshot_every: int = 0,
    rules: Callable[[keras.Model], Sequence[Rule]] | None = None,
    after: Callable[[keras.Model], Callable[[tf.Tensor], None]] | None = None,
    watch: Callable[[keras.Model], Callable[[], Mapping[str, float]]] | None = None,
    eligible: Callable[[keras.Model], Callable[[], bool]] | None = None,
) -> TrainConfig:
    """Train `model` in place and keep the chosen weights: `train` without the final measurement and the files of the result.

    Args:
        resume: go on from the newest checkpoint of `run`.
        teacher: a network to distil from.
        snapshot_every: steps between networks kept as `snapshots/<step>.keras` of `run`, the first before any step; 0 keeps
            none.
        rules: makes the rules of the model that is trained, which is a copy where a strategy asks for one.
        after: makes what runs behind every update, inside the compiled step and before the rules, with its index.
        watch: makes what measures that model after each epoch besides accuracy and loss; needs a validation split.
        eligible: makes what says whether the weights of the epoch that ended may be kept by keep='best'; the last ones
            are kept where it never says yes.

    Returns:
        The checked configuration.
    """
    config = _checked(config, model, dataset, teacher)
    strategy = strategy or tf.distribute.get_strategy()
    placed = place_model(model, strategy)
    with strategy.scope():
        taught = None if teacher is None else place_model(teacher, strategy)
        step = _make_step(placed, dataset, config, taught, rules(placed) if rules else ())
    step.after = after(placed) if after else None
    selection = Selection(step, dataset, config, run, resume=resume)
    selection.watch = watch(placed) if watch else None
    selection.eligible = eligible(placed) if eligible else None
    fit(
        step,
        dataset,
        epochs=config.epochs,
        batch_size=config.batch_size,
        run=run,
        seed=config.seed,
        augment=config.augment,
        checkpoint_every=checkpoint_every,
        resume=resume,
        validate=selection.validate if dataset.validation.size else None,
        on_step=_snapshots(placed, run, snapshot_every),
        log_every=log_every,
        progress=progress,
        strategy=strategy,
        max_steps=max_steps,
    )
    selection.finish()
    if placed is not model:
        model.set_weights(placed.get_weights())
    return config


def _snapshots(model: keras.Model, run: Run | None, every: int) -> Callable[[int], None] | None:
    """What keeps the network before every so many steps; None keeps nothing."""
    if every < 0:
        raise UserError(f"snapshot_every is {every}; allowed is 0 or more.")
    if not every or run is None:
        return None

    def keep(step: int) -> None:
        name = f"snapshots/{step:08d}.keras"
        if step % every == 0 and not (run.path / name).exists():
            run.save_model(model, name)

    return keep


def _checked(
    config: TrainConfig | Mapping[str, Any], model: keras.Model, dataset: Any, teacher: keras.Model | None
) -> TrainConfig:
    config = config if isinstance(config, TrainConfig) else TrainConfig.parse(config)
    if config.keep == "best" and not dataset.validation.size:
        raise UserError("keep='best' needs a validation split; choose validation_fraction above 0, or keep='last'.")
    if teacher is None and {"distillation_weight", "temperature"} & config.model_fields_set:
        raise UserError("distillation_weight and temperature have no effect without a teacher.")
    for role, network in (("model", model), ("teacher", teacher)):
        if network is not None:
            require_logits(network, dataset, role=role)
    policies = {getattr(layer.dtype_policy, "name", "float32") for layer in model.layers if layer.weights}
    if policies and policies != {PRECISIONS[config.precision]}:
        raise UserError(
            f"precision is {config.precision!r}, but the model was built with {', '.join(sorted(policies))}; "
            "call precision.set_precision before building it."
        )
    return config


def _make_step(
    model: keras.Model, dataset: Any, config: TrainConfig, teacher: keras.Model | None, rules: Sequence[Rule]
) -> SupervisedStep:
    return SupervisedStep(
        model,
        config.make_optimizer(),
        config.make_schedule(dataset.train.steps_per_epoch(config.batch_size)),
        dataset.normalization,
        teacher=teacher,
        distillation_weight=config.distillation_weight,
        temperature=config.temperature,
        label_smoothing=config.label_smoothing,
        clip_norm=config.clip_norm,
        ema=None if config.ema_decay is None else ExponentialMovingAverage(model.variables, config.ema_decay),
        loss_scale=LossScale() if config.precision == "float16" else None,
        rules=rules,
    )


def measure(model: keras.Model, dataset: Any, config: TrainConfig) -> dict[str, Any]:
    """The final numbers: the only place of a training that reads the test split."""
    evaluator = Evaluator(model, dataset.normalization)
    validation = evaluator(dataset.validation) if dataset.validation.size else {}
    return {
        "dataset": dataset.name,
        "normalization": dataset.normalization.name,
        **evaluator(dataset.test, classes=dataset.classes),
        "val_accuracy": validation.get("accuracy"),
        "val_loss": validation.get("loss"),
        "epochs": {"train": config.epochs},
        "parameters": model.count_params(),
        "seed": config.seed,
    }
