"""The cost of a network under one preset: bytes, rounds, seconds and storage, per layer and in total.

    bytes   = sum of operations * their bytes
    rounds  = per layer with comparisons, products or secret weights: their rounds, whatever their number
    seconds = computation + bytes * 8 / bandwidth + rounds * round_trips_per_round * RTT
    storage = comparisons * storage bytes (garbled circuits)

Source: the cost model of section A.6 of the project's field survey, with truncations by the sign that is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import tf_keras as keras

from keras_relu.cost.link import Link
from keras_relu.cost.presets import PARTS, Preset, get_preset
from keras_relu.cost.work import LayerWork, work_of
from keras_relu.counting import CONVENTIONS
from keras_relu.counting import count as count_model
from keras_relu.errors import unknown_key

__all__ = ["WEIGHTS", "Estimate", "LayerCost", "estimate", "estimate_work", "replacement_prices"]

WEIGHTS = {
    "secret": "no party knows the weights: they are shared like the input",
    "owned": "one party knows the weights (the server), another one the input",
    "public": "every party knows the weights",
}
MASK_NOTE = (
    "Which elements keep their ReLU is part of the public architecture: a mask, lowered or not, is known to every party. "
    "Masks searched on private data can reveal something about it; search them on public data where that matters."
)
# A layer whose comparisons cost this much less time than their rounds is paid for by its rounds alone.
_ROUNDS_ONLY = 10.0


@dataclass(frozen=True)
class LayerCost:
    """One layer under one preset, per image.

    Attributes:
        work: what it has to do.
        part_bytes: bytes by part (keys of PARTS), all parties together; None where the preset does not know.
        bytes: their sum; None when the preset does not know a part.
        rounds: None when the preset does not know them.
        compute_s: None when the preset does not know it.
    """

    work: LayerWork
    part_bytes: dict[str, float | None]
    bytes: float | None
    rounds: float | None
    compute_s: float | None


@dataclass(frozen=True)
class Estimate:
    """A network under one preset and link, per image.

    `comparison_bytes` are those of the comparisons, as the engine counts them: without the selections behind ReLUs, with
    those inside max-pooling, which is one operation there.
    Totals are None where the preset lacks a constant that the network needs; `missing` names those. `relu_layers` are the
    sites that still compare, `linearised_layers` the reduced sites that do not.
    """

    preset: Preset
    link: Link
    weights: str
    threads: int
    layers: tuple[LayerCost, ...]
    convention: str
    relu_count: int
    comparison_count: int
    executed_comparisons: int
    relu_layers: int
    linearised_layers: int
    bytes: float | None
    comparison_bytes: float | None
    rounds: float | None
    compute_s: float | None
    transfer_s: float | None
    latency_s: float | None
    seconds: float | None
    offline_s: float | None
    evaluator_storage_bytes: float | None
    garbler_storage_bytes: float | None
    missing: tuple[str, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = field(default=())

    def part_bytes(self) -> dict[str, float | None]:
        """Bytes by part over all layers."""
        return {part: _total(layer.part_bytes[part] for layer in self.layers) for part in PARTS}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        names = [name for name in self.__dataclass_fields__ if name not in ("preset", "link", "layers")]
        return {
            "preset": self.preset.name,
            "protocol": self.preset.protocol,
            "includes": self.preset.includes,
            "excludes": self.preset.excludes,
            "bandwidth_bits_per_second": self.link.bits_per_second,
            "rtt_s": self.link.rtt_s,
            **{name: getattr(self, name) for name in names},
            "missing": list(self.missing),
            "notes": list(self.notes),
            "warnings": list(self.warnings),
            "part_bytes": self.part_bytes(),
            "convention_description": CONVENTIONS[self.convention],
            "layers": [_layer_dict(layer) for layer in self.layers],
        }


def _layer_dict(layer: LayerCost) -> dict[str, Any]:
    costs = {"part_bytes": layer.part_bytes, "bytes": layer.bytes, "rounds": layer.rounds, "compute_s": layer.compute_s}
    return {**asdict(layer.work), "shape": list(layer.work.shape), **costs}


def estimate(
    model: keras.Model,
    preset: str | Preset,
    *,
    link: Link | None = None,
    weights: str = "secret",
    threads: int = 1,
    convention: str = "relu",
) -> Estimate:
    """What one private inference of `model` costs under `preset`.

    Args:
        preset: a name (`presets.list_presets`) or a preset.
        link: between the parties; None = the preset's own.
        weights: key of WEIGHTS.
        threads: divide the seconds of computation where the preset says that they do.
        convention: of the ReLU counts that are printed beside, see `counting.CONVENTIONS`; costs do not depend on it.

    Raises:
        UserError: an unknown name; a model that cannot be counted.
    """
    preset = get_preset(preset) if isinstance(preset, str) else preset
    if weights not in WEIGHTS:
        raise unknown_key("kind of weights", weights, WEIGHTS)
    counts = count_model(model, convention=convention)
    works, notes = work_of(model)
    made = estimate_work(works, preset, link=link or preset.link, weights=weights, threads=threads)
    facts: dict[str, Any] = {"convention": convention, "relu_count": counts.relu_count}
    facts |= {"comparison_count": counts.comparison_count, "notes": (*notes, *made.notes)}
    return Estimate(**{**_fields(made), **facts})


def _fields(made: Estimate) -> dict[str, Any]:
    return {name: getattr(made, name) for name in made.__dataclass_fields__}


def estimate_work(
    works: Sequence[LayerWork], preset: Preset, *, link: Link, weights: str = "secret", threads: int = 1
) -> Estimate:
    """The estimate of work that is already known; see `estimate`."""
    book = _Prices(preset, weights, threads)
    layers = tuple(book.layer(work) for work in works)
    total_bytes = _total(layer.bytes for layer in layers)
    rounds = _total(layer.rounds for layer in layers)
    compute = _total([*(layer.compute_s for layer in layers), preset.get("base_seconds") or 0.0])
    transfer = 0.0 if "transfer" in preset.time_includes else _times(total_bytes, 8 / link.bits_per_second)
    latency = 0.0 if "latency" in preset.time_includes else _times(rounds, preset.round_trips_per_round * link.rtt_s)
    executed = sum(work.comparisons for work in works)
    pooled = (preset.get("selection_bytes") or 0.0) * sum(work.pool_comparisons for work in works)
    compared = _total([*(layer.part_bytes["comparison"] for layer in layers), pooled])
    return Estimate(
        preset=preset,
        link=link,
        weights=weights,
        threads=threads,
        layers=layers,
        convention="relu",
        relu_count=sum(work.relu_count for work in works),
        comparison_count=executed,
        executed_comparisons=executed,
        relu_layers=sum(work.comparisons > work.pool_comparisons for work in works),
        linearised_layers=sum(_is_linearised(work) for work in works),
        bytes=total_bytes,
        comparison_bytes=compared,
        rounds=rounds,
        compute_s=compute,
        transfer_s=transfer,
        latency_s=latency,
        seconds=_total((compute, transfer, latency)),
        offline_s=book.each("offline_seconds", executed, divide=True),
        evaluator_storage_bytes=book.each("storage_evaluator_bytes", executed),
        garbler_storage_bytes=book.each("storage_garbler_bytes", executed),
        missing=tuple(sorted(book.missing)),
        notes=(MASK_NOTE, *_notes(preset, weights)),
        warnings=tuple(_warnings(layers, preset, link)),
    )


def _is_linearised(work: LayerWork) -> bool:
    return not work.comparisons and work.layer_type in ("FixedActivation", "LoweredActivation", "MaskedReLU")


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _total(values: Any) -> float | None:
    listed = list(values)
    return None if None in listed else sum(listed)


class _Prices:
    """Looks prices up and remembers the missing ones that were needed."""

    def __init__(self, preset: Preset, weights: str, threads: int) -> None:
        self.preset, self.weights = preset, weights
        self.threads = threads if preset.threads_divide else 1
        self.missing: set[str] = set()

    def each(self, name: str, count: float, *, divide: bool = False) -> float | None:
        """`count` times a constant that may be absent for good reason; None when it is."""
        value = self.preset.get(name)
        return None if value is None else value * count / (self.threads if divide else 1)

    def needed(self, name: str, count: float) -> float | None:
        """`count` times a constant, 0 outside what the preset covers; an absence that matters is remembered."""
        if not count or not self.covers(name):
            return 0.0
        if self.preset.get(name) is None:
            self.missing.add(name)
            return None
        return self.each(name, count)

    def covers(self, name: str) -> bool:
        """Whether the preset prices the part that a constant belongs to."""
        return any(name.startswith(prefix) for part in self.preset.covers for prefix in PARTS[part])

    def layer(self, work: LayerWork) -> LayerCost:
        secret = work.weight_products if self.weights != "public" else 0
        products = work.products + secret
        known = work.known_signs + (work.relu_outputs if self.preset.truncation == "after_relu" else 0)
        known = min(known, work.truncations)
        terms: dict[str, list[float | None]] = {
            "comparison": [self.needed("comparison_bytes", work.comparisons)],
            "selection": [self.needed("selection_bytes", work.comparisons)],
            "product": [
                self.needed("product_bytes", products),
                self.each("product_call_bytes", bool(products)) or 0.0,
            ],
            "truncation": [
                self.needed("truncation_bytes", work.truncations - known),
                self.needed("truncation_known_bytes", known),
            ],
            "linear": self._linear(work),
            "normalisation": [self.needed("inverse_root_bytes", work.inverse_roots if secret else 0)],
        }
        parts = {part: _total(values) for part, values in terms.items()}
        return LayerCost(
            work,
            parts,
            _total(parts.values()),
            self._rounds(work, products, bool(secret)),
            self._compute(work, products),
        )

    def _linear(self, work: LayerWork) -> list[float | None]:
        if not work.macs or self.weights == "public":
            return [0.0]
        kind = "owned" if self.weights == "owned" and self.preset.get("owned_rounds") is not None else "linear"
        sizes = {"input": work.linear_inputs, "weight": work.linear_weights, "call": 1}
        sizes |= {"output": work.linear_outputs} if kind == "linear" else {}
        return [self.needed(f"{kind}_{name}_bytes", size) for name, size in sizes.items()]

    def _rounds(self, work: LayerWork, products: int, secret: bool) -> float | None:
        steps = int(bool(work.constant_products)) + int(bool(work.products)) + int(bool(work.linear_outputs))
        owned = self.weights == "owned" and self.preset.get("owned_rounds") is not None
        linear = bool(work.macs) and self.weights != "public"
        return _total(
            (
                self.needed("comparison_rounds", work.comparison_levels),
                self.needed("selection_rounds", work.comparison_levels),
                self.needed("product_rounds", int(bool(work.products)) + int(bool(work.weight_products) and secret)),
                self.needed("truncation_rounds", steps),
                self.needed("owned_rounds" if owned else "linear_rounds", int(linear)),
                self.needed("inverse_root_rounds", int(bool(work.inverse_roots) and secret)),
            )
        )

    def _compute(self, work: LayerWork, products: int) -> float | None:
        seconds = (
            self.needed("comparison_seconds", work.comparisons),
            self.each("product_seconds", products) or 0.0,
            self.each("mac_seconds", work.macs) or 0.0,
        )
        total = _total(seconds)
        return None if total is None else total / self.threads


def _notes(preset: Preset, weights: str) -> list[str]:
    notes = [f"Weights: {WEIGHTS[weights]}."]
    if preset.truncation == "after_relu":
        notes.append(
            "Linear layers directly behind which every element goes through a ReLU are truncated after it, with the sign "
            "known; without that ReLU their truncation costs as much as a comparison."
        )
    outside = [part for part in PARTS if part not in preset.covers]
    if outside:
        notes.append(f"Not priced by this preset and left out of the totals: {', '.join(outside)}.")
    return notes


def _warnings(layers: Sequence[LayerCost], preset: Preset, link: Link) -> list[str]:
    found = []
    for layer in layers:
        work = layer.work
        if work.relu_count and work.comparisons - work.pool_comparisons >= 2 * work.relu_count and _masked(work):
            found.append(
                f"{work.name} evaluates {work.comparisons:,} comparisons for {work.relu_count:,} ReLUs: its mask is not "
                "lowered (`keras-relu lower`)."
            )
        waiting = _seconds_of_rounds(work, preset, link)
        sending = work.comparisons * 8 * (preset.get("comparison_bytes") or 0) / link.bits_per_second
        if work.comparisons > 0 and _masked(work) and waiting > _ROUNDS_ONLY * sending:
            found.append(
                f"{work.name} keeps {work.relu_count:,} ReLUs: {1e3 * sending:.3g} ms of bytes, but {1e3 * waiting:.3g} ms "
                "of rounds, which only go when the whole layer does."
            )
    return found


def _masked(work: LayerWork) -> bool:
    return work.layer_type in ("FixedActivation", "LoweredActivation", "MaskedReLU")


def _seconds_of_rounds(work: LayerWork, preset: Preset, link: Link) -> float:
    each = (preset.get("comparison_rounds") or 0) + (preset.get("selection_rounds") or 0)
    return work.comparison_levels * each * preset.round_trips_per_round * link.rtt_s


def replacement_prices(preset: Preset) -> dict[str, dict[str, float | None]]:
    """Bytes per element and rounds per layer of a ReLU and of what may replace it: which one pays depends on the protocol."""
    works = {
        "relu": LayerWork("relu", "ReLU", (1,), comparisons=1, comparison_levels=1),
        "identity": LayerWork("identity", "Activation", (1,)),
        "line": LayerWork("line", "FixedActivation", (1,), constant_products=1),
        "quadratic": LayerWork("quadratic", "FixedActivation", (1,), constant_products=1, products=1),
    }
    book = _Prices(preset, "public", 1)
    prices = {}
    for name, work in works.items():
        cost = book.layer(work)
        fixed = (preset.get("product_call_bytes") or 0.0) if work.products else 0.0
        each = None if cost.bytes is None else cost.bytes - fixed
        prices[name] = {"bytes": each, "call_bytes": fixed, "rounds": cost.rounds}
    return prices
