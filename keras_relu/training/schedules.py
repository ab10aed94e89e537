"""Learning rates as pure functions of the step, so that a resumed run continues the curve without any state.

A schedule is called with a step (Python int or `tf.int32` scalar), in or outside a graph, and returns a float32 scalar:

```python
schedule = get_schedule("cosine", peak=0.1, total_steps=10_000, warmup_steps=500)
schedule(tf.constant(0))       # 0.1 / 500: the first warm-up step
```

`hold_steps` keeps the rate constant within blocks of that many steps; with the number of steps of an epoch it gives the
per-epoch curves of the original procedure (spec replacement, section 3.3), whose four curves have their original names:
`cosine`, `cosine_rst`, `cosine_finetune`, `cos_modified`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from keras_relu.errors import UserError, unknown_key
from keras_relu.training.segments import segments

__all__ = ["SCHEDULES", "Schedule", "get_schedule"]


def _cosine(progress: tf.Tensor) -> tf.Tensor:
    """Falls from 1 to 0 while `progress` goes from 0 to 1."""
    return 0.5 * (1.0 + tf.cos(math.pi * progress))


def constant(position: tf.Tensor, total: int) -> tf.Tensor:
    """1 everywhere."""
    del total
    return tf.ones_like(position)


def cosine(position: tf.Tensor, total: int) -> tf.Tensor:
    """(1 + cos(pi p)) / 2 with p = position / total (Loshchilov and Hutter, 2017, one period)."""
    return _cosine(position / total)


def cosine_rst(position: tf.Tensor, total: int, *, first_period: int) -> tf.Tensor:
    """Cosine with warm restarts after `first_period` steps, every period twice as long as the one before."""
    del total
    blocks = position / first_period + 1.0
    # The restarts lie at 1, 3, 7, ... periods. The small shift keeps log2 of an exact power of two on its upper side.
    power = tf.floor(tf.math.log(blocks + 1e-6) / math.log(2.0))
    start = tf.pow(2.0, power)
    return _cosine(tf.maximum(0.0, (blocks - start) / start))


def cosine_finetune(position: tf.Tensor, total: int, *, full_steps: int | None = None, hold: int = 1) -> tf.Tensor:
    """The last `total` steps of a cosine over `full_steps` (default 4 total), rescaled to start near 1.

    The original anneals before its first epoch, hence position + hold: 0.981, ..., 0.260 (half-way), ..., 0.
    """
    full = 4 * total if full_steps is None else full_steps
    start = full - total
    return _cosine((start + position + hold) / full) / _cosine(tf.constant(start / full))


def cos_modified(position: tf.Tensor, total: int) -> tf.Tensor:
    """(1 + cos(pi p / 2)) / 2: falls to one half only."""
    return _cosine(position / (2 * total))


def step(
    position: tf.Tensor, total: int, *, milestones: Sequence[float] = (0.5, 0.75), factor: float = 0.1
) -> tf.Tensor:
    """Multiplied by `factor` at each milestone, given as a fraction of the total."""
    passed = tf.add_n([tf.cast(position >= m * total, tf.float32) for m in milestones])
    return tf.pow(factor, passed)


def polynomial(position: tf.Tensor, total: int, *, power: float = 1.0) -> tf.Tensor:
    """(1 - p)^power."""
    return tf.pow(1.0 - position / total, power)


SCHEDULES: dict[str, Callable[..., tf.Tensor]] = {
    "constant": constant,
    "cosine": cosine,
    "cosine_rst": cosine_rst,
    "cosine_finetune": cosine_finetune,
    "cos_modified": cos_modified,
    "step": step,
    "polynomial": polynomial,
    "segments": segments,
}


class Schedule:
    """floor + (peak - floor) * curve(position, total), after a linear warm-up of `warmup_steps` steps.

    The warm-up reaches `peak` at its last step; the curve then runs over the remaining total_steps - warmup_steps steps
    and stays at its end value afterwards.
    """

    def __init__(
        self,
        curve: Callable[..., tf.Tensor],
        *,
        peak: float,
        total_steps: int,
        warmup_steps: int = 0,
        floor: float = 0.0,
        hold_steps: int = 1,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.curve = curve
        self.peak = peak
        self.floor = floor
        self.warmup_steps = warmup_steps
        self.hold_steps = hold_steps
        self.curve_steps = total_steps - warmup_steps
        self.options = options or {}

    def __call__(self, step: tf.Tensor | int) -> tf.Tensor:
        """Learning rate (float32 scalar) of the update number `step`, counted from 0."""
        step = tf.cast(step, tf.int32)
        after = tf.clip_by_value(step - self.warmup_steps, 0, self.curve_steps)
        position = tf.cast(after - after % self.hold_steps, tf.float32)
        rate = self.floor + (self.peak - self.floor) * self.curve(position, self.curve_steps, **self.options)
        if self.warmup_steps == 0:
            return rate
        warming = self.peak * tf.cast(step + 1, tf.float32) / self.warmup_steps
        return tf.where(step < self.warmup_steps, warming, rate)


def get_schedule(
    name: str,
    *,
    peak: float,
    total_steps: int,
    warmup_steps: int = 0,
    floor: float = 0.0,
    hold_steps: int = 1,
    **options: Any,
) -> Schedule:
    """The schedule called `name` (a key of `SCHEDULES`).

    Args:
        peak: learning rate at the start of the curve.
        total_steps: number of updates, warm-up included.
        floor: value at the end of the curve; `constant` has none.
        hold_steps: the rate changes only every so many steps.
        options: of the curve: `first_period` (cosine_rst, in steps), `full_steps` (cosine_finetune), `milestones` and
            `factor` (step), `power` (polynomial), `segments` (segments; see `training.segments`).

    Raises:
        UserError: unknown name, an option without effect on this curve, a number out of range.
    """
    if name not in SCHEDULES:
        raise unknown_key("schedule", name, SCHEDULES)
    curve = SCHEDULES[name]
    parameters = inspect.signature(curve).parameters
    allowed = [key for key, p in parameters.items() if p.kind is p.KEYWORD_ONLY and key != "hold"]
    for key in options:
        if key not in allowed:
            raise UserError(
                f"The schedule {name!r} has no option {key!r}; its own options: {', '.join(allowed) or 'none'}."
            )
    if name == "cosine_rst" and "first_period" not in options:
        raise UserError("The schedule 'cosine_rst' needs first_period, the number of steps before the first restart.")
    if name == "segments" and "segments" not in options:
        raise UserError("The schedule 'segments' needs segments, the list of its pieces.")
    _check_ranges(
        name, peak=peak, total_steps=total_steps, warmup_steps=warmup_steps, floor=floor, hold_steps=hold_steps
    )
    if "hold" in parameters:
        options["hold"] = hold_steps
    return Schedule(
        curve,
        peak=peak,
        total_steps=total_steps,
        warmup_steps=warmup_steps,
        floor=floor,
        hold_steps=hold_steps,
        options=options,
    )


def _check_ranges(
    name: str, *, peak: float, total_steps: int, warmup_steps: int, floor: float, hold_steps: int
) -> None:
    if not peak > 0 or not math.isfinite(peak):
        raise UserError(f"The peak learning rate must be positive and finite, received {peak}.")
    if total_steps < 1 or hold_steps < 1:
        raise UserError(f"total_steps and hold_steps must be at least 1, received {total_steps} and {hold_steps}.")
    if not 0 <= warmup_steps < total_steps:
        raise UserError(f"warmup_steps must be in [0, {total_steps}) for {total_steps} steps, received {warmup_steps}.")
    if not 0 <= floor <= peak:
        raise UserError(f"The floor of the learning rate must be in [0, {peak}], received {floor}.")
    if name == "constant" and (floor or hold_steps > 1):
        raise UserError("The schedule 'constant' does not fall: floor and hold_steps have no effect on it.")
