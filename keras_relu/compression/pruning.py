"""Magnitude pruning through tensorflow-model-optimization: wrap, train, strip.

What is added to the library's wrapper: depthwise kernels, one threshold per group of a grouped convolution, exactly k
weights kept whatever values are equal, and a schedule whose last update lies on its last step, so that the sparsity asked
for is the sparsity reached. Spec fusion, sections 3.1, 3.2 and 9.2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras
from tensorflow_model_optimization.python.core.sparsity.keras.pruning_impl import Pruning
from tensorflow_model_optimization.python.core.sparsity.keras.pruning_wrapper import PruneLowMagnitude

from keras_relu import surgery
from keras_relu.compression.largest import largest
from keras_relu.errors import UserError
from keras_relu.training.optimizers import for_each_replica

__all__ = [
    "PrunableDepthwiseConv2D",
    "PruneKernel",
    "Ramp",
    "drive",
    "is_prunable",
    "kept_weights",
    "strip",
    "wrap",
    "wrappers",
]

_PRUNABLE = (keras.layers.Conv2D, keras.layers.Dense, keras.layers.DepthwiseConv2D)


def kept_weights(size: int, sparsity: float, groups: int = 1) -> int:
    """How many of `size` weights in `groups` equal groups stay: in each the rounded rest, at least one."""
    return groups * max(round(size // groups * (1.0 - sparsity)), 1)


@keras.saving.register_keras_serializable(package="keras_relu")
class Ramp(tfmot.sparsity.keras.PruningSchedule):
    """Sparsity S (1 - (1 - p)^power), with p from 0 to 1 between the updates `begin` and `begin + span`.

    Masks change every `frequency` updates and at the last one. With `hold` the target stays for so many updates, and the
    ramp ends one update before `begin + span`: with hold = updates per epoch that is the original's schedule, which ends
    at S (1 - 1 / N^power) after N epochs.

    Args:
        sparsity: S, in [0, 1).
        begin: first update (from 0) that prunes.
        span: updates of the ramp.
        frequency: updates between two changes of the masks.
        power: of the curve.
        hold: updates within which the target is constant; None: it changes with every update.
    """

    def __init__(
        self,
        sparsity: float,
        *,
        begin: int = 0,
        span: int = 1,
        frequency: int = 100,
        power: float = 3.0,
        hold: int | None = None,
    ) -> None:
        self._validate_sparsity(sparsity, "sparsity")
        self.sparsity = sparsity
        self.begin = begin
        self.span = span
        self.frequency = frequency
        self.power = power
        self.hold = hold

    @property
    def last(self) -> int:
        """The last update that changes masks."""
        return self.begin + self.span - (0 if self.hold is None else 1)

    @property
    def timing(self) -> tuple[int, int, int]:
        """What decides when masks change."""
        return self.begin, self.last, self.frequency

    @property
    def final_sparsity(self) -> float:
        """The target of the last update."""
        return float(self.target(self.last))

    def target(self, update: Any) -> Any:
        """float64 sparsity aimed at by an update (an int, or an int64 tensor)."""
        since = tf.cast(update, tf.int64) - self.begin
        progress = tf.cast(since - since % (self.hold or 1), tf.float64) / max(self.span, 1)
        progress = tf.clip_by_value(progress if self.span else tf.ones_like(progress), 0.0, 1.0)
        return self.sparsity * (1.0 - tf.pow(1.0 - progress, self.power))

    def __call__(self, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """(whether masks change, target sparsity) at the library's step, which counts updates from 1."""
        update = tf.cast(step, tf.int64) - 1
        turn = tf.logical_or(tf.equal((update - self.begin) % self.frequency, 0), tf.equal(update, self.last))
        inside = tf.logical_and(update >= self.begin, update <= self.last)
        return tf.logical_and(inside, turn), self.target(update)

    def get_config(self) -> dict[str, Any]:
        names = ("sparsity", "begin", "span", "frequency", "power", "hold")
        return {"class_name": "keras_relu>Ramp", "config": {name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable(package="keras_relu")
class PrunableDepthwiseConv2D(keras.layers.DepthwiseConv2D, tfmot.sparsity.keras.PrunableLayer):
    """A depthwise convolution whose kernel the library prunes; it leaves that of `DepthwiseConv2D` dense."""

    def get_prunable_weights(self) -> list[tf.Variable]:
        """The depthwise kernel."""
        return [self.depthwise_kernel]


class _GroupedPruning(Pruning):
    """Keeps the k largest weights of each group; among equal ones the first."""

    groups = 1

    def _update_mask(self, weights: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        sparsity = self._pruning_schedule(self._step_fn())[1]
        magnitudes = _by_group(tf.abs(weights), self.groups)
        size = magnitudes.shape[1]
        kept = tf.cast(tf.maximum(tf.round(size * (1.0 - tf.cast(sparsity, tf.float64))), 1.0), tf.int32)
        mask, thresholds = largest(magnitudes, kept)
        return tf.reduce_min(thresholds), _from_groups(tf.cast(mask, weights.dtype), weights.shape)


class PruneKernel(PruneLowMagnitude):
    """The library's wrapper with `_GroupedPruning` inside.

    By itself it counts updates and masks its kernel whenever it is called, as the library's does. Under `drive` it leaves
    that to one function for all layers, which costs a fraction.

    Args:
        layer: a convolution, a depthwise convolution that is prunable, or a dense layer.
        schedule: when to prune how much.
    """

    def __init__(self, layer: keras.layers.Layer, schedule: Ramp, **kwargs: Any) -> None:
        super().__init__(layer, pruning_schedule=schedule, **kwargs)
        self.driven = False

    def call(self, inputs: tf.Tensor, training: Any = None, **kwargs: Any) -> tf.Tensor:
        """The layer inside."""
        if not self.driven:
            return super().call(inputs, training=training, **kwargs)
        return self.layer.call(inputs, **kwargs)

    def build(self, input_shape: tuple) -> None:
        """Adds mask, threshold and step; the step starts where the first training call makes it 1."""
        super().build(input_shape)
        self.pruning_obj = _GroupedPruning(
            lambda: self.pruning_step, self.pruning_vars, self.pruning_schedule, [1, 1], "AVG"
        )
        self.pruning_obj.groups = _groups(self.layer)
        self.pruning_step.assign(0)

    @property
    def expected_zeros(self) -> int:
        """Zeros in the kernel once the schedule has ended."""
        size = int(np.prod(self.prunable_weights[0].shape))
        return size - kept_weights(size, self.pruning_schedule.final_sparsity, _groups(self.layer))

    @property
    def ended(self) -> bool:
        """Whether the last update of the masks has been made."""
        return int(self.pruning_step.numpy()) > self.pruning_schedule.last


def is_prunable(layer: keras.layers.Layer) -> bool:
    """Whether `wrap` can prune the kernel of a layer."""
    return isinstance(layer, _PRUNABLE) and not isinstance(
        layer, (keras.layers.Conv2DTranspose, keras.layers.SeparableConv2D)
    )


def wrap(model: keras.Model, schedules: Mapping[str, Ramp]) -> keras.Model:
    """A copy of `model` in which the named layers are pruned while it trains; made under the current strategy.

    Args:
        schedules: by name of the layer.

    Raises:
        UserError: a layer that is not there, or has no kernel to prune.
    """
    layers = {layer.name: layer for layer in surgery.iter_layers(model)}
    for name in schedules:
        if name not in layers or not is_prunable(layers[name]):
            raise UserError(f"There is no layer {name!r} with a kernel to prune in {model.name!r}.")
    made: dict[str, PruneKernel] = {}

    def make(layer: keras.layers.Layer) -> keras.layers.Layer | None:
        if layer.name not in schedules:
            return None
        kind = PrunableDepthwiseConv2D if isinstance(layer, keras.layers.DepthwiseConv2D) else type(layer)
        made[layer.name] = PruneKernel(kind.from_config(layer.get_config()), schedules[layer.name])
        return made[layer.name]

    wrapped = surgery.replace_layers(model, make)
    for name, wrapper in made.items():
        wrapper.set_weights(layers[name].get_weights())
    return wrapped


def drive(wrapped: keras.Model) -> Callable[[tf.Tensor], None]:
    """What prunes a wrapped model behind every update, for `training.supervised.optimize(after=...)`.

    Where masks are due they are chosen anew from the weights as the update left them, so a weight may come back; then all
    masks are applied. One decision for all layers of a schedule, on the device, safe under a distribution strategy.
    """
    members = wrappers(wrapped)
    for wrapper in members:
        wrapper.driven = True

    def after(update: tf.Tensor) -> None:
        step = tf.cast(update, tf.int64) + 1
        for_each_replica(_set, [(wrapper.pruning_step, (step,)) for wrapper in members])
        for timing in dict.fromkeys(wrapper.pruning_schedule.timing for wrapper in members):
            same = [wrapper for wrapper in members if wrapper.pruning_schedule.timing == timing]
            due, _ = same[0].pruning_schedule(step)
            for_each_replica(
                _choose, [(m, (k, t, w.pruning_obj)) for w in same for k, m, t in w.pruning_vars], when=due
            )
        for_each_replica(_mask, [(k, (m,)) for wrapper in members for k, m, _ in wrapper.pruning_vars])

    return after


def _set(variable: tf.Variable, value: tf.Tensor) -> None:
    variable.assign(value)


def _choose(mask: tf.Variable, kernel: tf.Variable, threshold: tf.Variable, pruning: Pruning) -> None:
    value, chosen = pruning._update_mask(kernel)
    mask.assign(chosen)
    threshold.assign(value)


def _mask(kernel: tf.Variable, mask: tf.Variable) -> None:
    kernel.assign(kernel * mask)


def wrappers(model: keras.Model) -> list[PruneKernel]:
    """The pruned layers of a wrapped model."""
    return [layer for layer in surgery.iter_layers(model) if isinstance(layer, PruneKernel)]


def strip(wrapped: keras.Model) -> keras.Model:
    """A copy of a wrapped model with plain layers, its masks multiplied into the kernels."""
    inner: dict[str, tuple[keras.layers.Layer, list[np.ndarray]]] = {}

    def make(layer: keras.layers.Layer) -> keras.layers.Layer | None:
        if not isinstance(layer, PruneKernel):
            return None
        plain = layer.layer
        kind = keras.layers.DepthwiseConv2D if isinstance(plain, PrunableDepthwiseConv2D) else type(plain)
        inner[plain.name] = (kind.from_config(plain.get_config()), _masked_weights(layer))
        return inner[plain.name][0]

    stripped = surgery.replace_layers(wrapped, make)
    for layer, weights in inner.values():
        layer.set_weights(weights)
    return stripped


def _masked_weights(wrapper: PruneKernel) -> list[np.ndarray]:
    # Read here, since the library's own masking takes variables of a distribution strategy only within its scope.
    masks = {kernel.ref(): mask.numpy() for kernel, mask, _ in wrapper.pruning_vars}
    return [variable.numpy() * masks.get(variable.ref(), 1) for variable in wrapper.layer.weights]


def _groups(layer: keras.layers.Layer) -> int:
    """Groups with a threshold of their own; a depthwise kernel is one tensor with one threshold."""
    return 1 if isinstance(layer, keras.layers.DepthwiseConv2D) else getattr(layer, "groups", 1)


def _by_group(kernel: tf.Tensor, groups: int) -> tf.Tensor:
    """[..., C] as [groups, rest]: the outputs of a grouped convolution lie group after group."""
    split = tf.reshape(kernel, [-1, groups, kernel.shape[-1] // groups])
    return tf.reshape(tf.transpose(split, [1, 0, 2]), [groups, -1])


def _from_groups(values: tf.Tensor, shape: tf.TensorShape) -> tf.Tensor:
    """Undo `_by_group`."""
    groups = values.shape[0]
    split = tf.reshape(values, [groups, -1, shape[-1] // groups])
    return tf.reshape(tf.transpose(split, [1, 0, 2]), shape)
