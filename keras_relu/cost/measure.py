"""Measure a network on the secure engine: the engine's own counters, and secure logits against clear ones."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import tf_keras as keras

from keras_relu.cost.engine import PROTOCOLS, EngineInput, EngineProgram, EngineRun, Job, run_job
from keras_relu.cost.estimate import WEIGHTS
from keras_relu.cost.link import Link
from keras_relu.cost.stablehlo import inference_program
from keras_relu.errors import UserError, unknown_key

__all__ = ["COMPARISONS", "Measurement", "Operation", "measure"]

# The engine's operations that compare; a ReLU is `less` and a multiplication of its bit with the value. Max-pooling is one
# `reduce_window`, with its selections.
COMPARISONS = (
    "pphlo.reduce_window",
    "pphlo.less",
    "pphlo.greater",
    "pphlo.less_equal",
    "pphlo.greater_equal",
    "pphlo.maximum",
    "pphlo.minimum",
)
# Messages per round: each SEMI2K and ABY3 message waits for the one before, Cheetah's go out about in pairs. Slope of the
# time between 20 and 40 ms one-way delay over the messages of one ReLU, infrastructure notes section 3.4.
_ROUNDS_PER_MESSAGE = {"semi2k": 1.0, "aby3": 1.0, "cheetah": 0.5}


@dataclass(frozen=True)
class Operation:
    """One kind of operation per image: calls, bytes of all parties, messages of the busiest party, its seconds."""

    name: str
    count: float
    bytes: float
    messages: float
    seconds: float


@dataclass(frozen=True)
class Measurement:
    """What one inference costs on the engine, mean over the images, and whether its answers are right.

    Attributes:
        protocol, weights, parties, ring, fraction_bits: how it was run.
        images: that were measured; `batch_size` at a time.
        bytes: sent by all parties together, per image.
        comparison_bytes: those of operations in COMPARISONS.
        messages: sent by the busiest party, per image.
        rounds: messages times the protocol's rounds per message; derived.
        seconds: from the start to the end of the program on this machine, over loopback, per image.
        bytes_minimum, bytes_maximum: over the runs; Cheetah refills its oblivious transfers in some of them.
        operations: by bytes, largest first.
        max_error: largest absolute difference between secure and clear logits.
        logit_scale: largest absolute clear logit.
        same_argmax: images whose largest logit is the same.
    """

    protocol: str
    weights: str
    parties: int
    ring: str
    fraction_bits: int
    images: int
    batch_size: int
    bytes: float
    comparison_bytes: float
    comparison_messages: float
    messages: float
    rounds: float
    seconds: float
    bytes_minimum: float
    bytes_maximum: float
    operations: list[Operation]
    max_error: float
    logit_scale: float
    same_argmax: int
    logits: np.ndarray = field(repr=False)

    def simulated_seconds(self, link: Link) -> float:
        """Seconds under a link that was not there: loopback time + bytes over its bandwidth + rounds of half its RTT."""
        return self.seconds + 8 * self.bytes / link.bits_per_second + self.rounds * link.rtt_s / 2

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the logits."""
        values = asdict(self)
        values.pop("logits")
        return {
            **values,
            "protocol_description": PROTOCOLS[self.protocol],
            "weights_description": WEIGHTS[self.weights],
        }


def measure(
    models: keras.Model | Mapping[str, keras.Model],
    images: np.ndarray,
    *,
    protocol: str = "semi2k",
    weights: str = "secret",
    batch_size: int = 1,
    warmup: int = 1,
    engine: str | os.PathLike | None = None,
    timeout_s: float = 600.0,
    **options: Any,
) -> dict[str, Measurement]:
    """Run one or several models on the engine, one after the other between the same processes.

    Args:
        models: by name, or one model. Lower reduced ones first, see `lowering.lower_masks`.
        images: [N, H, W, C] float32, normalised as the models expect; every image is run.
        protocol: key of `engine.PROTOCOLS`.
        weights: key of `estimate.WEIGHTS`; "owned" is the two-party setting, the image with party 0, weights with party 1.
        batch_size: images per run; N must be a multiple of it.
        warmup: runs before the first that counts, so that one-time set-up does not.
        engine: see `engine.find_engine`.
        timeout_s: for everything.
        options: `field`, `fraction_bits`, `memory_bytes` of `engine.Job`.

    Raises:
        UserError: an unknown name, images that do not fit, no engine.
        KerasReLUError: the engine failed or a limit was reached.
    """
    named = {"model": models} if isinstance(models, keras.Model) else dict(models)
    if weights not in WEIGHTS:
        raise unknown_key("kind of weights", weights, WEIGHTS)
    rows = _rows(images, named, batch_size)
    kind = "public" if weights == "public" else "secret"
    programs = []
    for index, model in enumerate(named.values()):
        program = inference_program(model, batch_size)
        inputs = [EngineInput(rows, "secret", 0), *(EngineInput(array, kind, 1) for array in program.weights)]
        programs.append(EngineProgram(f"program{index}", program.text, inputs, warmup))
    job = Job(protocol, programs, owned_weights=weights == "owned", timeout_s=timeout_s, **options)
    runs = run_job(job, engine=engine)
    return {
        name: _measurement(runs[f"program{index}"], model, images, job, weights, batch_size)
        for index, (name, model) in enumerate(named.items())
    }


def _rows(images: np.ndarray, models: Mapping[str, keras.Model], batch_size: int) -> np.ndarray:
    images = np.asarray(images, np.float32)
    for name, model in models.items():
        if len(images) == 0 or images.shape[1:] != tuple(model.input_shape[1:]):
            raise UserError(
                f"Model {name!r} needs images of shape {tuple(model.input_shape[1:])}, received {images.shape}."
            )
    if batch_size < 1 or len(images) % batch_size:
        raise UserError(f"{len(images)} images do not divide into batches of {batch_size}.")
    return images.reshape(-1, batch_size, *images.shape[1:])


def _measurement(
    run: EngineRun, model: keras.Model, images: np.ndarray, job: Job, weights: str, batch_size: int
) -> Measurement:
    clear = np.concatenate(
        [model(part, training=False).numpy() for part in np.array_split(images, -(-len(images) // 64))]
    )
    secure = run.outputs.reshape(clear.shape)
    totals = [sum(party["send_bytes"] for party in parties) / batch_size for parties in run.runs]
    operations = _operations(run.runs, batch_size)
    messages = _mean(max(party["send_actions"] for party in parties) for parties in run.runs) / batch_size
    compared = [operation for operation in operations if operation.name in COMPARISONS]
    return Measurement(
        protocol=job.protocol,
        weights=weights,
        parties=len(run.runs[0]),
        ring=job.field,
        fraction_bits=job.fraction_bits,
        images=len(images),
        batch_size=batch_size,
        bytes=_mean(totals),
        comparison_bytes=sum(operation.bytes for operation in compared),
        comparison_messages=sum(operation.messages for operation in compared),
        messages=messages,
        rounds=messages * _ROUNDS_PER_MESSAGE[job.protocol],
        seconds=_mean(max(party["seconds"] for party in parties) for parties in run.runs) / batch_size,
        bytes_minimum=min(totals),
        bytes_maximum=max(totals),
        operations=operations,
        max_error=float(np.abs(secure - clear).max()),
        logit_scale=float(np.abs(clear).max()),
        same_argmax=int((secure.argmax(-1) == clear.argmax(-1)).sum()),
        logits=secure,
    )


def _operations(runs: Sequence[Sequence[Mapping[str, Any]]], batch_size: int) -> list[Operation]:
    names = sorted({name for parties in runs for party in parties for name in party["operations"]})
    found = [_operation(name, runs, batch_size) for name in names]
    return sorted((operation for operation in found if operation.bytes), key=lambda operation: -operation.bytes)


def _operation(name: str, runs: Sequence[Sequence[Mapping[str, Any]]], batch_size: int) -> Operation:
    none = {"count": 0, "send_bytes": 0, "send_actions": 0, "seconds": 0.0}
    counters = [[party["operations"].get(name, none) for party in parties] for parties in runs]

    def busiest(key: str) -> float:
        return _mean(max(counter[key] for counter in parties) for parties in counters) / batch_size

    total = _mean(sum(counter["send_bytes"] for counter in parties) for parties in counters) / batch_size
    return Operation(name, busiest("count"), total, busiest("send_actions"), busiest("seconds"))


def _mean(values: Any) -> float:
    return float(np.mean(list(values)))
