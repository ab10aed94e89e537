"""Two networks cut in two, and the path from the front of the first to the back of the second."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from keras_relu import splitting
from keras_relu.errors import UserError
from keras_relu.layers.stitch import Stitch, stitch_map
from keras_relu.similarity import AffineMap

__all__ = ["Joint", "Pair", "make_pair", "weights_hash"]


@dataclass(frozen=True)
class Pair:
    """Front network 1 and end network 2, each cut at its layer; all four halves are frozen copies.

    Attributes:
        front: image -> A1.
        front_rest: A1 -> logits of network 1.
        end_start: image -> A2.
        back: A2 -> logits of network 2; behind the stitch it gets T(A1) instead.
        front_layer, end_layer: names of the layers.
    """

    front: keras.Model
    front_rest: keras.Model
    end_start: keras.Model
    back: keras.Model
    front_layer: str
    end_layer: str

    @property
    def front_shape(self) -> tuple[int, ...]:
        """Per-image shape of A1."""
        return tuple(self.front.output_shape[1:])

    @property
    def end_shape(self) -> tuple[int, ...]:
        """Per-image shape of A2."""
        return tuple(self.back.input_shape[1:])

    def halves(self) -> dict[str, keras.Model]:
        """The four halves by name."""
        return {name: getattr(self, name) for name in ("front", "front_rest", "end_start", "back")}


def make_pair(front_model: keras.Model, end_model: keras.Model, front_layer: str, end_layer: str) -> Pair:
    """Cut both networks.

    Raises:
        UserError: layers that are unknown or no valid cut (see `splitting.split`); other images or numbers of classes in
            the second network than in the first.
    """
    for what, one, two in (
        ("images of shape", front_model.input_shape[1:], end_model.input_shape[1:]),
        ("numbers of outputs", front_model.output_shape[-1:], end_model.output_shape[-1:]),
    ):
        if one != two:
            raise UserError(f"The front and the end network have different {what}: {list(one)} and {list(two)}.")
    front, front_rest = splitting.split(front_model, front_layer)
    end_start, back = splitting.split(end_model, end_layer)
    for half in (front, front_rest, end_start, back):
        half.trainable = False
    return Pair(front, front_rest, end_start, back, front_layer, end_layer)


def weights_hash(model: keras.Model) -> str:
    """SHA-256 over names, shapes and bits of all weights, batch statistics included."""
    digest = hashlib.sha256()
    for weight in model.weights:
        digest.update(f"{weight.name} {weight.shape.as_list()}".encode())
        digest.update(np.ascontiguousarray(weight.numpy()).tobytes())
    return digest.hexdigest()


class Joint:
    """A1 -> [resize or flatten] -> stitch -> [reshape] -> what the back takes.

    Attributes:
        stitch: the trained layer.
        channels: (in, out) of the stitch.

    Args:
        pair: the two networks.
        flatten: one dense map between whole representations instead of the same map at every pixel.
        resize: interpolation for maps of unequal size, or "none".
        rank, masked, seed: of the stitch.

    Raises:
        UserError: maps of unequal size without `resize`, a map and a vector without `flatten`.
    """

    def __init__(
        self,
        pair: Pair,
        *,
        flatten: bool = False,
        resize: str = "none",
        rank: int | None = None,
        masked: bool = False,
        seed: int = 0,
    ) -> None:
        self.pair = pair
        self.flatten = flatten or len(pair.front_shape) == len(pair.end_shape) == 1
        _check_shapes(pair, flatten, resize)
        self.resizing = None
        if pair.front_shape[:-1] != pair.end_shape[:-1] and not self.flatten:
            self.resizing = keras.layers.Resizing(*pair.end_shape[:2], interpolation=resize, name="resize")
        units = math.prod(pair.end_shape) if self.flatten else pair.end_shape[-1]
        channels = math.prod(pair.front_shape) if self.flatten else pair.front_shape[-1]
        self.channels = (channels, units)
        self.stitch = Stitch(units, rank=rank, masked=masked, seed=seed, name="stitch")
        self.stitch.build((None, channels) if self.flatten else (None, *pair.end_shape[:-1], channels))

    def prepare(self, a1: Any) -> tf.Tensor:
        """A1 as the stitch takes it: [B, H, W, in] or [B, in]."""
        if self.resizing is not None:
            return self.resizing(a1)
        return tf.reshape(a1, [-1, self.channels[0]]) if self.flatten else a1

    def target(self, a2: Any) -> tf.Tensor:
        """A2 in the shape in which the stitch gives it."""
        return tf.reshape(a2, [-1, self.channels[1]]) if self.flatten else a2

    def finish(self, stitched: tf.Tensor) -> tf.Tensor:
        """What the back takes."""
        return tf.reshape(stitched, [-1, *self.pair.end_shape]) if self.flatten else stitched

    def apply(self, a1: tf.Tensor) -> tf.Tensor:
        """T(A1) with the stitch as it is."""
        return self.finish(self.stitch(self.prepare(a1)))

    def apply_weights(self, a1: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        """T(A1) for another map, kernel [in, out] and bias [out]."""
        return self.finish(stitch_map(self.prepare(a1), kernel, bias))

    def current(self) -> AffineMap:
        """The stitch as it is."""
        return AffineMap(self.stitch.matrix(), self.stitch.bias.numpy().copy())

    def model(self, affine: AffineMap | None = None) -> keras.Model:
        """The stitched network, image -> logits: the halves as nested models `front` and `back`, `stitch` a plain layer.

        Args:
            affine: another map than the stitch as it is.
        """
        pair, affine = self.pair, affine or self.current()
        inputs = keras.Input(pair.front.input_shape[1:], name="image")
        x = pair.front(inputs)
        if self.resizing is not None:
            x = keras.layers.Resizing.from_config(self.resizing.get_config())(x)
        if self.flatten and len(x.shape) > 2:
            x = keras.layers.Flatten(name="flatten")(x)
        x = _plain_layer(affine, x)(x)
        if self.flatten and len(pair.end_shape) > 1:
            x = keras.layers.Reshape(pair.end_shape, name="reshape")(x)
        return keras.Model(inputs, pair.back(x), name="stitched")


def _plain_layer(affine: AffineMap, x: tf.Tensor) -> keras.layers.Layer:
    """A 1x1 convolution for maps, a dense layer for vectors."""
    kernel, units = affine.weight.T.astype(np.float32), len(affine.bias)
    spatial = len(x.shape) == 4
    layer = keras.layers.Conv2D(units, 1, name="stitch") if spatial else keras.layers.Dense(units, name="stitch")
    layer.build(x.shape)
    layer.set_weights([kernel[None, None] if spatial else kernel, affine.bias.astype(np.float32)])
    return layer


def _check_shapes(pair: Pair, flatten: bool, resize: str) -> None:
    front, end = pair.front_shape, pair.end_shape
    named = f"{pair.front_layer!r} gives {list(front)}, {pair.end_layer!r} gives {list(end)}"
    if len(front) != len(end) and not flatten:
        raise UserError(f"{named}: a map and a vector are joined only by --flatten, one dense map between both.")
    if front[:-1] != end[:-1] and not flatten and resize == "none":
        raise UserError(f"{named}, maps of unequal size; choose --resize bilinear (or nearest, area), or --flatten.")
    if front[:-1] == end[:-1] and len(front) == len(end) and resize != "none":
        raise UserError(f"{named}; resize is {resize!r}, but there is nothing to resize.")
