"""Convolutions whose weights are -a, 0 or +a: the cheap copies that predict which activations survive a ReLU."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras as keras

from keras_relu.errors import UserError, unknown_key

__all__ = [
    "MODES",
    "TernaryConv2D",
    "TernaryDepthwiseConv2D",
    "TernaryProjection",
    "straight_through_ternary",
    "ternarise",
    "ternary_parts",
]

MODES = ("projected", "static", "ste")

# Ternary Weight Networks (Li and Liu 2016, arXiv 1605.04711): near the optimum for Gaussian and uniform weights.
_THRESHOLD = 0.7


def ternary_parts(kernel: tf.Tensor, groups: int = 1) -> tuple[tf.Tensor, tf.Tensor]:
    """(signs, scales) of a kernel: t in {-1, 0, 1} in its shape, and a with shape [groups].

    Per group of filters, with the mean over all its entries, zeros included: T = 0.7 mean|w|, t = sign(w) where |w| > T
    and 0 elsewhere, a = mean of |w| where |w| > T. An all-zero group has t = 0 and a = 0.

    Args:
        kernel: [..., filters]; a grouped convolution has its groups one after the other along the last axis.
        groups: divides `filters`.

    Source: spec `fusion`, section 4.1.
    """
    parts = tf.reshape(kernel, [-1, groups, kernel.shape[-1] // groups])
    size = tf.abs(parts)
    live = tf.cast(size > _THRESHOLD * tf.reduce_mean(size, axis=(0, 2), keepdims=True), kernel.dtype)
    scales = tf.math.divide_no_nan(tf.reduce_sum(size * live, axis=(0, 2)), tf.reduce_sum(live, axis=(0, 2)))
    return tf.reshape(tf.sign(parts) * live, kernel.shape), scales


def ternarise(kernel: tf.Tensor, groups: int = 1) -> tf.Tensor:
    """a t of `ternary_parts`; a ternary kernel is its own image, up to the rounding of a mean of equal numbers."""
    signs, scales = ternary_parts(kernel, groups)
    return signs * tf.repeat(scales, kernel.shape[-1] // groups)


def straight_through_ternary(kernel: tf.Tensor, groups: int = 1) -> tf.Tensor:
    """`ternarise` whose gradient is the identity (straight-through estimator, Bengio et al. 2013, arXiv 1308.3432)."""

    @tf.custom_gradient
    def apply(latent: tf.Tensor) -> Any:
        return ternarise(latent, groups), lambda upstream: upstream

    return apply(tf.convert_to_tensor(kernel))


@keras.saving.register_keras_serializable(package="keras_relu")
class TernaryProjection(keras.constraints.Constraint):
    """w <- ternarise(w) after every update: projected gradient descent without a latent kernel."""

    def __init__(self, groups: int = 1) -> None:
        self.groups = groups

    def __call__(self, w: tf.Tensor) -> tf.Tensor:
        return ternarise(w, self.groups)

    def get_config(self) -> dict[str, Any]:
        return {"groups": self.groups}


class _TernaryKernel(keras.layers.Layer):
    """What both convolutions share: how the weights are created, by `mode`."""

    mode: str
    _kernel_options: tuple[str, str]

    def _check_mode(self) -> None:
        if self.mode not in MODES:
            raise unknown_key("mode of a ternary convolution", self.mode, MODES)
        for option in self._kernel_options:
            regularizer = option.endswith("regularizer")
            if getattr(self, option) is not None and (self.mode == "static" if regularizer else self.mode != "ste"):
                raise UserError(f"{option} has no effect on a ternary convolution of mode {self.mode!r}; leave it out.")

    def add_weight(self, name: str | None = None, *args: Any, **kwargs: Any) -> tf.Variable:
        """As Keras, but a static layer has nothing to train and a projected kernel is bound to ternary values."""
        if self.mode == "static":
            kwargs["trainable"] = False
        if self.mode == "projected" and name != "bias":
            kwargs["constraint"] = TernaryProjection(getattr(self, "groups", 1))
        return super().add_weight(name, *args, **kwargs)


@keras.saving.register_keras_serializable(package="keras_relu")
class TernaryConv2D(_TernaryKernel, keras.layers.Conv2D):
    """Conv2D with the kernel a t, t in {-1, 0, 1}; threshold and scale a per group (see `ternary_parts`).

    The modes differ in what is trained:

    - `static`: nothing; the kernel is a constant.
    - `ste`: a latent kernel, ternarised before each convolution; the gradient goes straight through.
    - `projected`: the ternary kernel itself, overwritten by its projection after every update (by any Keras optimizer
      and by the training of this package). A weight changes only when one update carries it over the threshold.

    Forward: conv2d(x, a t). Gradient of the kernel: that of the convolution at a t. Per output pixel and filter it costs
    additions for the non-zero t and one multiplication by a, which batch normalisation can absorb.

    Args:
        filters, kernel_size, kwargs: as Conv2D, groups included.
        mode: one of the three.

    Raises:
        UserError: an unknown mode; a kernel constraint that the mode already decides, a regulariser of a constant.

    Source: spec `fusion`, sections 4.1 and 4.5 to 4.8.
    """

    _kernel_options = ("kernel_regularizer", "kernel_constraint")

    def __init__(self, filters: int, kernel_size: Any, *, mode: str = "static", **kwargs: Any) -> None:
        super().__init__(filters, kernel_size, **kwargs)
        self.mode = mode
        self._check_mode()

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """The convolution of Conv2D with the ternarised kernel."""
        return super().convolution_op(inputs, straight_through_ternary(kernel, self.groups))

    def additions_per_position(self) -> int:
        """Additions at one output pixel when no t is zero: one for every weight."""
        return int(tf.size(self.kernel))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "mode": self.mode}


@keras.saving.register_keras_serializable(package="keras_relu")
class TernaryDepthwiseConv2D(_TernaryKernel, keras.layers.DepthwiseConv2D):
    """DepthwiseConv2D with the kernel a t, one threshold and one scale for the whole kernel; modes as `TernaryConv2D`.

    Raises:
        UserError: as `TernaryConv2D`.
    """

    _kernel_options = ("depthwise_regularizer", "depthwise_constraint")

    def __init__(self, kernel_size: Any, *, mode: str = "static", **kwargs: Any) -> None:
        super().__init__(kernel_size, **kwargs)
        self.mode = mode
        self._check_mode()

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        outputs = keras.backend.depthwise_conv2d(
            inputs,
            straight_through_ternary(self.depthwise_kernel),
            strides=self.strides,
            padding=self.padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )
        if self.use_bias:
            outputs = keras.backend.bias_add(outputs, self.bias, data_format=self.data_format)
        return outputs if self.activation is None else self.activation(outputs)

    def additions_per_position(self) -> int:
        """Additions at one output pixel when no t is zero: one for every weight."""
        return int(tf.size(self.depthwise_kernel))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "mode": self.mode}
