"""The layer that holds the scores, the mask and the coefficients of one site."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from keras_relu.activations import gates, replacements
from keras_relu.activations._facts import gated_facts, runtime_facts
from keras_relu.activations.fixed import FixedActivation, pack_mask
from keras_relu.activations.functional import SURROGATES, masked_relu
from keras_relu.errors import UserError, unknown_key

__all__ = ["GRANULARITIES", "MaskedReLU"]

GRANULARITIES = ("element", "channel", "layer")
_MOMENTUM = 0.9
# Half of an outlier is forgotten after about 350 steps, an epoch of CIFAR.
_REACH_DECAY = 0.998
# One absurd activation must not straighten every quadratic of its channel at once.
_REACH_GROWTH = 1.1


@keras.saving.register_keras_serializable(package="keras_relu")
class MaskedReLU(keras.layers.Layer):
    """A ReLU that can be given up element by element: y = M relu(x) + (1 - M) g(x); see `masked_relu`.

    `call` never changes the mask or the coefficients, and outside training nothing at all. A training loop changes them
    by explicit steps: `update_mask` after the scores moved, `project_coefficients` after the coefficients moved,
    `refresh_coefficients` every `replacement.refresh_period` steps for the moment fits.

    Weights: `score` (trainable float32) and `mask` (float32, starts as ones), both shaped like one input, [1, .., C] or
    [1, .., 1] by `granularity`; for every replacement but identity and scaled_quadratic `coefficients` [degree + 1, C]
    (trainable unless fitted to moments); `moving_mean` and `moving_variance`, or `reach` [C] where the replacement needs them;
    `calls` (an int counter that seeds the draws) when `mask_dropout` > 0.

    Args:
        gate: name, configuration or instance; see `gates`.
        replacement: name, configuration or instance; see `replacements`.
        surrogate: "true" or "relu": the gradient to the input.
        granularity: what shares one score: an "element" has its own, or a "channel" or the whole "layer" has one.
        mask_dropout: probability that a training call uses plain ReLU at the whole site.
        score_initializer: "uniform" for U(0, 1), or one number for all scores.
        gradient_fraction: see `masked_relu`.
        max_value: where the kept ReLUs are cut off, 6.0 for ReLU6; None = nowhere. The moment fits are those of ReLU.
        statistics_images: the number of images at the head of a training batch that running moments and reach look at.
        seed: of the initial scores and of mask dropout; together with the layer's name, so that sites differ.

    Raises:
        UserError: an unknown name, or a number out of its range; on build, an input without static shape.
    """

    def __init__(
        self,
        gate: str | Mapping[str, Any] | gates.Gate = "hysteresis",
        replacement: str | Mapping[str, Any] | replacements.Replacement = "identity",
        surrogate: str = "true",
        granularity: str = "element",
        *,
        mask_dropout: float = 0.0,
        score_initializer: str | float = "uniform",
        gradient_fraction: float = 1.0,
        max_value: float | None = None,
        statistics_images: int = 32,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.gate = gates.get(gate)
        self.replacement = replacements.get(replacement)
        self.surrogate = _one_of("surrogate", surrogate, SURROGATES)
        self.granularity = _one_of("granularity", granularity, GRANULARITIES)
        self.mask_dropout = _in_range("mask_dropout", mask_dropout, 0.0 <= mask_dropout < 1.0, "in [0, 1)")
        self.score_initializer = _score_start(score_initializer)
        self.gradient_fraction = _in_range(
            "gradient_fraction", gradient_fraction, 0.0 < gradient_fraction <= 1.0, "in (0, 1]"
        )
        self.max_value = _in_range("max_value", max_value, max_value is None or max_value > 0, "None or above 0")
        self.statistics_images = _in_range("statistics_images", statistics_images, statistics_images >= 1, "at least 1")
        self.seed = seed

    def build(self, input_shape: Any) -> None:
        """Creates the weights for inputs [B, ..., C] with every size but B known."""
        shape = tuple(tf.TensorShape(input_shape))
        if None in shape[1:]:
            raise UserError(
                f"Layer {self.name!r} needs an input whose sizes are all known but the batch, received {input_shape}."
            )
        self._site_shape = tuple(int(size) for size in shape[1:])
        self._add_gate_weights(_shared_shape(self._site_shape, self.granularity))
        self._add_replacement_weights(self._site_shape[-1])
        super().build(input_shape)

    def _add_gate_weights(self, shape: tuple[int, ...]) -> None:
        common = {"dtype": "float32", "experimental_autocast": False}
        self.score = self.add_weight("score", shape, initializer=self._score_init(), **common)
        only_first = tf.VariableAggregation.ONLY_FIRST_REPLICA
        common |= {"trainable": False, "aggregation": only_first}
        self.mask = self.add_weight("mask", shape, initializer="ones", **common)
        if self.mask_dropout:
            self.calls = self.add_weight(
                "calls", (), dtype="int32", initializer="zeros", trainable=False, aggregation=only_first
            )

    def _add_replacement_weights(self, channels: int) -> None:
        common = {"dtype": "float32", "experimental_autocast": False}
        mean = tf.VariableAggregation.MEAN
        self.coefficients: Any = None
        self.moving_mean: Any = None
        self.moving_variance: Any = None
        self.reach: Any = None
        if self.replacement.trainable or self.replacement.refreshed:
            start = keras.initializers.Constant(self.replacement.initial(channels))
            self.coefficients = self.add_weight(
                "coefficients",
                (self.replacement.degree + 1, channels),
                initializer=start,
                trainable=self.replacement.trainable,
                aggregation=mean,
                **common,
            )
        common |= {"trainable": False, "synchronization": tf.VariableSynchronization.ON_READ}
        if self.replacement.uses_reach:
            # On reading, the mean over the replicas: each has met its own outliers, and the bound holds on average.
            self.reach = self.add_weight("reach", (channels,), initializer="zeros", aggregation=mean, **common)
        if self.replacement.uses_moments:
            common["aggregation"] = mean
            self.moving_mean = self.add_weight("moving_mean", (channels,), initializer="zeros", **common)
            self.moving_variance = self.add_weight("moving_variance", (channels,), initializer="ones", **common)

    def _score_init(self) -> keras.initializers.Initializer:
        if self.score_initializer == "uniform":
            return keras.initializers.RandomUniform(0.0, 1.0, seed=self._site_seed())
        return keras.initializers.Constant(self.score_initializer)

    def _site_seed(self) -> int:
        return (zlib.crc32(self.name.encode()) + self.seed) % 2**31

    def call(self, inputs: tf.Tensor, training: Any = None) -> tf.Tensor:
        """y for `inputs` [B, ..., C]; in training also moves the running moments and draws mask dropout."""
        if training is None:
            training = keras.backend.learning_phase()
        in_training = tf.cast(training, tf.bool)
        static = tf.get_static_value(in_training)
        if static is None:
            return tf.cond(in_training, lambda: self._train_call(inputs), lambda: self._infer(inputs))
        return self._train_call(inputs) if static else self._infer(inputs)

    def _infer(self, inputs: tf.Tensor) -> tf.Tensor:
        return self._gated(inputs, self.score, self.mask)

    def _train_call(self, inputs: tf.Tensor) -> tf.Tensor:
        if self.replacement.uses_moments or self.replacement.uses_reach:
            self._update_statistics(inputs)
        if not self.mask_dropout:
            return self._gated(inputs, self.score, self.mask)
        seed = tf.stack([self._site_seed(), self.calls.assign_add(1)])
        dropped = tf.random.stateless_uniform([], seed) < self.mask_dropout
        score = tf.where(dropped, tf.stop_gradient(self.score), self.score)
        return self._gated(inputs, score, tf.where(dropped, tf.ones_like(self.mask), self.mask))

    def _gated(self, inputs: tf.Tensor, score: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        return masked_relu(
            inputs,
            tf.convert_to_tensor(score),
            tf.convert_to_tensor(mask),
            self._effective_coefficients(),
            surrogate=self.surrogate,
            gradient_fraction=self.gradient_fraction,
            max_value=self.max_value,
        )

    def _effective_coefficients(self) -> tf.Tensor | None:
        if self.replacement.is_identity:
            return None
        if self.coefficients is None:
            return tf.constant(self.replacement.initial(self._site_shape[-1]))
        return self.replacement.effective(tf.convert_to_tensor(self.coefficients))

    def _update_statistics(self, inputs: tf.Tensor) -> None:
        images = tf.cast(tf.stop_gradient(inputs[: self.statistics_images]), tf.float32)
        axes = list(range(len(inputs.shape) - 1))
        if self.replacement.uses_reach:
            self._extend_reach(tf.reduce_max(tf.abs(images), axes))
        if self.replacement.uses_moments:
            for moving, value in zip(
                (self.moving_mean, self.moving_variance), tf.nn.moments(images, axes), strict=True
            ):
                moving.assign(_MOMENTUM * moving + (1.0 - _MOMENTUM) * value)

    def _extend_reach(self, largest: tf.Tensor) -> None:
        reach = tf.convert_to_tensor(self.reach)
        moved = tf.maximum(largest, _REACH_DECAY * reach + (1.0 - _REACH_DECAY) * largest)
        most = tf.where(reach > 0.0, _REACH_GROWTH * reach, largest)
        self.reach.assign(tf.where(tf.math.is_finite(moved), tf.minimum(moved, most), most))

    def update_mask(self) -> None:
        """One application of the gate's rule to the scores: mask <- gate(score, mask)."""
        self.mask.assign(self.gate.update(tf.convert_to_tensor(self.score), tf.convert_to_tensor(self.mask)))

    def refresh_coefficients(self) -> None:
        """Fits the coefficients to the running moments, within their bounds; no effect for those that are not fitted."""
        if self.replacement.refreshed:
            mean, variance = tf.convert_to_tensor(self.moving_mean), tf.convert_to_tensor(self.moving_variance)
            self.coefficients.assign(self.replacement.project(self.replacement.fit(mean, variance), self._reach()))

    def _reach(self) -> tf.Tensor | None:
        return None if self.reach is None else tf.convert_to_tensor(self.reach)

    def project_coefficients(self) -> None:
        """Moves trained coefficients back within the replacement's bounds; does nothing where it has none."""
        if self.replacement.trainable and self.replacement.uses_reach:
            stored = tf.convert_to_tensor(self.coefficients)
            self.coefficients.assign(self.replacement.project(stored, self._reach()))

    def full_mask(self) -> np.ndarray:
        """The mask as bool, one value per element of an image: the shape of one input."""
        return np.broadcast_to(self.mask.numpy() > 0, self._site_shape)

    def relu_count(self) -> int:
        """ReLUs kept per image."""
        return int(self.full_mask().sum())

    def site_facts(self) -> dict[str, int]:
        """Cost per image of the site as the mask stands; see `_facts.gated_facts`."""
        return gated_facts(self._site_shape, self.relu_count(), self._fixed_degree(), self.max_value)

    def runtime_facts(self) -> dict[str, int]:
        """What a tensor runtime executes: both sides of the gate, at every element; see `_facts.runtime_facts`."""
        elements = int(np.prod(self._site_shape))
        return runtime_facts(elements, elements, self._fixed_degree(), self.max_value)

    def _fixed_degree(self) -> int | None:
        return None if self.replacement.is_identity else self.replacement.degree

    def to_fixed(self) -> keras.layers.Layer:
        """The same function as a layer without weights, under the same name.

        A ReLU when every element is kept, a linear Activation when none is and g is the identity, else a
        FixedActivation.
        """
        mask, common = self.full_mask(), {"name": self.name, "dtype": self.dtype_policy}
        if mask.all():
            return keras.layers.ReLU(self.max_value, **common)
        if self.replacement.is_identity and not mask.any():
            return keras.layers.Activation("linear", **common)
        coefficients = self._effective_coefficients()
        return FixedActivation(
            mask=pack_mask(mask) if mask.any() else None,
            coefficients=None if coefficients is None else coefficients.numpy().tolist(),
            max_value=self.max_value,
            **common,
        )

    def get_config(self) -> dict[str, Any]:
        """Every constructor argument."""
        return {
            **super().get_config(),
            "gate": self.gate.get_config(),
            "replacement": self.replacement.get_config(),
            "surrogate": self.surrogate,
            "granularity": self.granularity,
            "mask_dropout": self.mask_dropout,
            "score_initializer": self.score_initializer,
            "gradient_fraction": self.gradient_fraction,
            "max_value": self.max_value,
            "statistics_images": self.statistics_images,
            "seed": self.seed,
        }


def _shared_shape(shape: tuple[int, ...], granularity: str) -> tuple[int, ...]:
    if granularity == "element":
        return shape
    last = shape[-1] if granularity == "channel" else 1
    return (1,) * (len(shape) - 1) + (last,)


def _one_of(argument: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise unknown_key(argument, value, allowed)
    return value


def _in_range(argument: str, value: Any, valid: bool, allowed: str) -> Any:
    if not valid:
        raise UserError(f"{argument} must be {allowed}, received {value!r}.")
    return value


def _score_start(value: str | float) -> str | float:
    if value != "uniform" and (isinstance(value, str) or not np.isfinite(value)):
        raise UserError(f"score_initializer must be 'uniform' or a finite number, received {value!r}.")
    return value
