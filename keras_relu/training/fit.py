"""The one training loop: one compiled step, resumable to the bit, and no host synchronisation it can avoid.

What is trained is up to the `TrainStep`; this loop feeds it, counts, logs, saves, stops on signals and on divergence.

Resuming needs no generator state: data order and augmentation are functions of (seed, epoch, step), learning rates are
functions of the step, and everything else is in the variables that `TrainStep.variables` names. Layers that draw from
stateful generators (Keras' Dropout) are the exception: they resume with other numbers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from keras_relu.errors import Interrupted, TrainingDivergedError, UserError
from keras_relu.evaluate import NonFiniteLogitsError
from keras_relu.training import checkpoint
from keras_relu.training.compiled import MAX_METRICS, CompiledStep, TrainStep
from keras_relu.training.progress import Progress
from keras_relu.training.signals import StopSignals
from keras_relu.training.strategy import is_chief

if TYPE_CHECKING:
    from keras_relu.runs import Run

__all__ = ["fit"]

_KEPT_CHECKPOINTS = 2


def fit(
    step: TrainStep,
    dataset: Any,
    *,
    epochs: int,
    batch_size: int,
    run: Run | None = None,
    phase: str = "train",
    seed: int = 0,
    augment: bool = True,
    checkpoint_every: int = 0,
    resume: bool = False,
    validate: Callable[[], Mapping[str, float]] | None = None,
    on_step: Callable[[int], None] | None = None,
    on_epoch: Callable[[int, dict[str, float]], None] | None = None,
    log_every: int = 50,
    progress: bool = True,
    strategy: tf.distribute.Strategy | None = None,
    max_steps: int | None = None,
) -> dict[str, Any]:
    """Train `step` on `dataset.train` for `epochs` epochs.

    Args:
        step: the update; see `TrainStep`.
        dataset: its `train.epoch(batch_size, seed=, epoch=, start_step=, augment=)` yields (images, labels).
        batch_size: the global batch, shared among the replicas.
        run: where metrics and checkpoints go; nothing is written without it.
        phase: names the rows, TensorBoard tags and checkpoints.
        checkpoint_every: steps between checkpoints; 0 saves after every epoch. A signal and the end save too.
        resume: continue from the newest checkpoint of this phase; a finished phase is restored and returned at once.
        validate: called after each epoch; its numbers are logged with the prefix `val_`.
        on_step: called in Python before every step with its index; may assign variables.
        on_epoch: called after every epoch with its index (from 0) and its logs.
        log_every: steps between the points where the host reads the metrics.
        strategy: a distribution strategy under which the step's variables were created.
        max_steps: stop after this many steps in total.

    Returns:
        {"epochs", "steps", "seconds", "history": logs of each epoch, and the last epoch's logs}.

    Raises:
        TrainingDivergedError: the loss became NaN or infinite; the message names the first such step. Checkpoints from
            before are kept.
        Interrupted: SIGTERM or SIGUSR1 arrived; the state was saved if there is a run.
        UserError: arguments out of range, or a checkpoint of another configuration.
    """
    _check_numbers(epochs, checkpoint_every, batch_size, log_every)
    loop = _Loop(step, dataset.train, batch_size, epochs, run=run, phase=phase, strategy=strategy, max_steps=max_steps)
    loop.identity |= {"seed": seed, "augment": augment}
    loop.validate, loop.on_step, loop.on_epoch = validate, on_step, on_epoch
    loop.checkpoint_every, loop.log_every = checkpoint_every, log_every
    if resume:
        loop.resume()
    with StopSignals() as signals, Progress(phase, loop.last_step, enabled=progress and loop.chief) as bar:
        loop.signals, loop.bar = signals, bar
        return loop.run_all()


def _check_numbers(epochs: int, checkpoint_every: int, batch_size: int, log_every: int) -> None:
    if epochs < 0 or checkpoint_every < 0 or batch_size < 1 or log_every < 1:
        raise UserError(
            "epochs and checkpoint_every must be 0 or more, batch_size and log_every 1 or more; received "
            f"{epochs}, {checkpoint_every}, {batch_size} and {log_every}."
        )


class _Loop:
    """State of one call of `fit`. `done` counts finished steps; sums[0] is the number of steps in the other sums."""

    signals: StopSignals
    bar: Progress
    validate: Callable[[], Mapping[str, float]] | None
    on_step: Callable[[int], None] | None
    on_epoch: Callable[[int, dict[str, float]], None] | None
    checkpoint_every: int
    log_every: int

    def __init__(
        self,
        step: TrainStep,
        split: Any,
        batch_size: int,
        epochs: int,
        *,
        run: Run | None,
        phase: str,
        strategy: tf.distribute.Strategy | None,
        max_steps: int | None,
    ) -> None:
        self.step = step
        self.compiled = CompiledStep(step, strategy)
        self.split = split
        self.run = run
        self.phase = phase
        self.chief = is_chief(strategy)
        self.per_epoch = split.steps_per_epoch(batch_size)
        last_step = epochs * self.per_epoch if max_steps is None else min(max_steps, epochs * self.per_epoch)
        self.last_step = last_step
        self.epochs = epochs
        # What must not change between the two halves of a resumed phase.
        self.identity: dict[str, Any] = {
            "batch_size": batch_size,
            "steps_per_epoch": self.per_epoch,
            "steps": last_step,
        }
        if batch_size % self.compiled.replicas:
            raise UserError(
                f"The batch size {batch_size} cannot be shared equally among {self.compiled.replicas} replicas."
            )
        self.done = 0
        self.epoch = 0
        self.finished = False
        self.history: list[dict[str, float]] = []
        self.sums = tf.zeros([MAX_METRICS + 1], tf.float64)
        self.logged = np.zeros(MAX_METRICS + 1)
        self.bad_step = tf.constant(-1, tf.int32)

    # ---------------------------------------------------------------- the loop

    def run_all(self) -> dict[str, Any]:
        started = time.monotonic()
        # Counted in epochs: a checkpoint of the last step of an epoch was written before the end of that epoch.
        while not self.finished and self.epoch * self.per_epoch < self.last_step:
            self._run_epoch()
        if not self.finished:
            self.finished = True
            self._save()
        last = self.history[-1] if self.history else {}
        seconds = time.monotonic() - started
        return {**last, "epochs": self.epoch, "steps": self.done, "seconds": seconds, "history": self.history}

    def _run_epoch(self) -> None:
        started = time.monotonic()
        start = self.done - self.epoch * self.per_epoch
        end = min(self.last_step, (self.epoch + 1) * self.per_epoch)
        if self.done < end:
            for batch in self._batches(start):
                self._run_step(batch)
                if self.done == end:
                    break
        self._end_epoch(started)

    def _batches(self, start: int) -> Any:
        identity = self.identity
        batches = self.split.epoch(
            identity["batch_size"],
            seed=identity["seed"],
            epoch=self.epoch,
            start_step=start,
            augment=identity["augment"],
        )
        return self.compiled.feed(batches)

    def _run_step(self, batch: tuple[Any, Any]) -> None:
        if self.on_step is not None:
            self.on_step(self.done)
        self.sums, self.bad_step = self.compiled(batch, self.done, self.sums, self.bad_step)
        self.done += 1
        self.bar.step(self.done)
        if self.done % self.log_every == 0:
            self._log_window()
        stop = self._asked_to_stop()
        if stop or (self.checkpoint_every and self.done % self.checkpoint_every == 0):
            self._save()
        if stop:
            raise Interrupted(self._stop_message(stop))

    def _end_epoch(self, started: float) -> None:
        self._check_finite()
        logs = self._means(self.sums.numpy()) | self._validated()
        logs["seconds"] = round(time.monotonic() - started, 3)
        self.history.append(logs)
        if self.run is not None:
            self.run.log(self._position() | logs)
        self.bar.epoch(self.epoch + 1, self.epochs, logs)
        if self.on_epoch is not None:
            self.on_epoch(self.epoch, logs)
        self.epoch += 1
        self.sums, self.logged = tf.zeros_like(self.sums), np.zeros_like(self.logged)
        if self.checkpoint_every == 0 and self.done < self.last_step:
            self._save()

    def _validated(self) -> dict[str, float]:
        if self.validate is None:
            return {}
        try:
            return {k if k.startswith("val_") else f"val_{k}": float(v) for k, v in self.validate().items()}
        except NonFiniteLogitsError as error:
            raise TrainingDivergedError(
                f"After step {self.done - 1} of {self.phase!r}: {error}{self._last_good()}"
            ) from error

    # ---------------------------------------------------------------- metrics

    def _means(self, sums: np.ndarray) -> dict[str, float]:
        count = max(1.0, float(sums[0]))
        return {key: float(value) / count for key, value in zip(self.compiled.keys, sums[1:], strict=False)}

    def _position(self) -> dict[str, Any]:
        return {"phase": self.phase, "epoch": self.epoch + 1, "step": self.done}

    def _log_window(self) -> None:
        """Log the means over the steps since the last window."""
        self._check_finite()
        sums = self.sums.numpy()
        window = self._means(sums - self.logged)
        self.logged = sums
        self.bar.window(window)
        if self.run is not None:
            self.run.log(self._position() | window)

    def _check_finite(self) -> None:
        bad = int(self.bad_step)
        if bad >= 0:
            raise TrainingDivergedError(
                f"The loss of step {bad} of phase {self.phase!r} is not finite.{self._last_good()}"
            )

    def _last_good(self) -> str:
        newest = checkpoint.latest(self.run.checkpoints, f"{self.phase}-") if self.run is not None else None
        return f" The last good state is {newest}." if newest else " There is no checkpoint from before."

    # ---------------------------------------------------------------- stopping, saving, resuming

    def _asked_to_stop(self) -> str | None:
        received = self.signals.received
        if not self.compiled.many_workers:
            return received
        # Workers notice a signal at different steps; they agree at the logging points, where the host waits anyway.
        if self.done % self.log_every or not self.compiled.any_worker(bool(received)):
            return None
        return received or "a signal of another worker"

    def _stop_message(self, name: str) -> str:
        where = (
            f"saved in {self.run.checkpoints}; resume with the same command and --resume" if self.run else "not saved"
        )
        return f"Stopped by {name} after step {self.done} of {self.last_step} of phase {self.phase!r}; {where}."

    def _save(self) -> None:
        if self.run is None:
            return
        self._check_finite()
        arrays = checkpoint.collect(self.step.variables())
        if not all(np.isfinite(a).all() for a in arrays.values() if a.dtype.kind == "f"):
            raise TrainingDivergedError(
                f"A weight is not finite after step {self.done - 1} of phase {self.phase!r}.{self._last_good()}"
            )
        if self.chief:
            checkpoint.write(self._path(self.done), arrays, self._meta())
            self.run.save_elapsed()
            self._remove_old()
        if self.compiled.many_workers:
            # A worker that ends takes the others down with it: none may go on before the file is written.
            self.compiled.any_worker(True)

    def _path(self, done: int) -> Path:
        assert self.run is not None
        return self.run.checkpoints / f"{self.phase}-step-{done:08d}.npz"

    def _remove_old(self) -> None:
        assert self.run is not None
        keep = 1 if self.finished else _KEPT_CHECKPOINTS
        for old in sorted(self.run.checkpoints.glob(f"{self.phase}-step-*.npz"))[:-keep]:
            old.unlink()

    def _meta(self) -> dict[str, Any]:
        return {
            "identity": self.identity,
            "done": self.done,
            "epoch": self.epoch,
            "finished": self.finished,
            "history": self.history,
            "keys": self.compiled.keys,
            "sums": self.sums.numpy().tolist(),
            "logged": self.logged.tolist(),
        }

    def resume(self) -> None:
        """Take up the newest checkpoint of the phase, and drop the metrics that lie after it."""
        if self.run is None:
            raise UserError("resume=True needs a run to resume from.")
        newest = checkpoint.latest(self.run.checkpoints, f"{self.phase}-")
        if newest is not None:
            meta = checkpoint.restore(newest, self.step.variables(), check=self._check_identity)
            self.done, self.epoch, self.history, self.compiled.keys = (
                meta["done"],
                meta["epoch"],
                meta["history"],
                meta["keys"],
            )
            self.finished = meta["finished"]
            self.sums, self.logged = tf.constant(meta["sums"], tf.float64), np.asarray(meta["logged"])
        self.run.rewind(self.phase, self.done, self.epoch)

    def _check_identity(self, meta: Mapping[str, Any]) -> None:
        saved = meta["identity"]
        for key, value in self.identity.items():
            if saved.get(key) != value:
                raise UserError(
                    f"The phase {self.phase!r} was saved with {key} {saved.get(key)!r}, now it is {value!r}; "
                    "resume with the same settings."
                )
