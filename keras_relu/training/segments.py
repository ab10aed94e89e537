"""Learning rates that change with the epoch, put together from pieces: warm-up lists, cosines, polynomials, plateaus.

The published recipes of the compact networks are such lists (spec fusion, sections 2, 3.2 and 4.5). Written as pieces they
are a few lines of YAML. All rates are multiples of the peak, so that another batch size needs one changed number:

```yaml
learning_rate: 0.1
schedule: segments
schedule_options:
  segments:
    - {rates: [0.01, 0.01, 0.1, 0.1, 1, 1]}
    - {curve: cosine, epochs: 120, start: 1.0072, end: 0.008}
```
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import tensorflow as tf
from pydantic import Field, model_validator
from typing_extensions import Self

from keras_relu.config import Config
from keras_relu.errors import UserError

__all__ = ["Segment", "epoch_rates", "segments"]


class Segment(Config):
    """One piece: either `rates`, one per epoch, or a curve over `epochs` epochs.

    A curve goes from `start` (default: the rate of the epoch before) to `end`, which it reaches after `period` epochs
    (default: its own length) and keeps from then on; a period longer than the piece shows its first part only.
    """

    rates: list[float] | None = Field(None, min_length=1)
    curve: Literal["constant", "cosine", "polynomial"] | None = None
    epochs: int | None = Field(None, ge=1)
    start: float | None = Field(None, ge=0)
    end: float | None = Field(None, ge=0)
    period: int | None = Field(None, ge=1)
    power: float | None = Field(None, gt=0, description="of polynomial, 1 when not given")

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = self.model_fields_set - {"rates", "curve"}
        if (self.rates is None) == (self.curve is None):
            raise ValueError("a segment has either rates or a curve")
        if self.rates is not None and given:
            raise ValueError(f"{min(given)} has no effect beside rates")
        if self.rates is not None and min(self.rates) < 0:
            raise ValueError("rates must not be negative")
        if self.curve == "constant" and given & {"end", "period"}:
            raise ValueError("a constant segment has a start only")
        if self.curve is not None and self.epochs is None:
            raise ValueError(f"the curve {self.curve} needs its epochs")
        if self.curve not in (None, "constant") and self.end is None:
            raise ValueError(f"the curve {self.curve} needs an end")
        if self.power is not None and self.curve != "polynomial":
            raise ValueError("power belongs to the curve polynomial")
        return self

    def values(self, before: float) -> list[float]:
        """The rates of this piece, when the epoch before had the rate `before`."""
        if self.rates is not None:
            return self.rates
        epochs = self.epochs or 0
        start = before if self.start is None else self.start
        if self.curve == "constant":
            return [start] * epochs
        end, period = self.end or 0.0, self.period or epochs
        return [end + (start - end) * self._shape(min(i, period) / period) for i in range(epochs)]

    def _shape(self, progress: float) -> float:
        """From 1 to 0 while `progress` goes from 0 to 1."""
        if self.curve == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * progress))
        return (1.0 - progress) ** (self.power or 1.0)


def epoch_rates(pieces: Sequence[Segment | Mapping[str, Any]]) -> list[float]:
    """The rate of every epoch of the recipe, as a multiple of the peak.

    Raises:
        UserError: no piece, or one that is wrong.
    """
    if isinstance(pieces, str | Mapping) or not isinstance(pieces, Sequence) or not pieces:
        raise UserError(f"The schedule 'segments' needs a list of segments, received {pieces!r}.")
    rates: list[float] = []
    for index, piece in enumerate(pieces):
        segment = piece if isinstance(piece, Segment) else _parse(piece, index)
        rates += segment.values(rates[-1] if rates else 1.0)
    return rates


def _parse(piece: Any, index: int) -> Segment:
    if not isinstance(piece, Mapping):
        raise UserError(f"Segment {index + 1} must be a mapping of keys, received {piece!r}.")
    return Segment.parse(piece)


def segments(position: tf.Tensor, total: int, *, segments: Sequence[Segment | Mapping[str, Any]]) -> tf.Tensor:
    """The rates of `epoch_rates`, each for an equal share of the `total` steps.

    A training of as many epochs as the segments have changes its rate with the epoch; a shorter or longer one keeps the
    shape of the curve.
    """
    rates = epoch_rates(segments)
    block = tf.cast(tf.floor(position / (total / len(rates))), tf.int32)
    return tf.gather(tf.constant(rates, tf.float32), tf.minimum(block, len(rates) - 1))
