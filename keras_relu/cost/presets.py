"""Presets: what one operation costs under one protocol and implementation, each number with its source.

A preset is a YAML file in `cost/data`. It says what it includes and what not; what it does not know is missing, never zero.
Numbers of different presets are never put into one table: they come from different machines, links and definitions.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any, Literal

import pydantic
import yaml

from keras_relu.config import Config
from keras_relu.cost.link import Link
from keras_relu.errors import unknown_key

__all__ = ["CONSTANTS", "DEFAULT_PRESET", "PARTS", "Constant", "Preset", "get_preset", "list_presets", "published_runs"]

DEFAULT_PRESET = "spu-cheetah-64"

# What an estimate consists of, and how the constants of each part begin.
PARTS = {
    "comparison": ("comparison",),
    "selection": ("selection",),
    "product": ("product",),
    "truncation": ("truncation",),
    "linear": ("linear", "owned", "mac"),
    "normalisation": ("inverse_root",),
}
Part = Literal["comparison", "selection", "product", "truncation", "linear", "normalisation"]

# Every constant a preset may give, with its unit. Bytes are those sent by all parties together.
CONSTANTS = {
    "comparison_bytes": "bytes per comparison (DReLU)",
    "comparison_rounds": "rounds per comparison that waits for another one",
    "comparison_seconds": "seconds of computation per comparison, one thread where the preset divides by threads",
    "selection_bytes": "bytes per product of a secret bit and a secret value",
    "selection_rounds": "rounds of that product",
    "product_bytes": "bytes per product of two secret values, without its truncation",
    "product_call_bytes": "bytes per layer with such products, whatever their number",
    "product_rounds": "rounds of such products",
    "product_seconds": "seconds of computation per product",
    "truncation_bytes": "bytes per truncation of a value of unknown sign",
    "truncation_known_bytes": "bytes per truncation of a value known not to be negative",
    "truncation_rounds": "rounds of a truncation",
    "linear_input_bytes": "bytes per value in the windows of a convolution or dense layer with secret weights",
    "linear_weight_bytes": "bytes per weight of such a layer",
    "linear_output_bytes": "bytes per output of such a layer, without its truncation",
    "linear_call_bytes": "bytes per such layer, whatever its size",
    "linear_rounds": "rounds of a layer with secret weights",
    "owned_input_bytes": "bytes per value in the windows of a layer whose weights one party holds",
    "owned_weight_bytes": "bytes per weight of such a layer",
    "owned_call_bytes": "bytes per such layer, whatever its size",
    "owned_rounds": "rounds of such a layer",
    "inverse_root_bytes": "bytes per inverse square root of a secret (normalisation that was not folded)",
    "inverse_root_rounds": "rounds of an inverse square root",
    "mac_seconds": "seconds of computation per multiply-accumulate",
    "gather_seconds": "seconds of computation per element that a lowered site moves",
    "storage_evaluator_bytes": "bytes the evaluator stores per ReLU before the online phase",
    "storage_garbler_bytes": "bytes the garbler stores per ReLU before the online phase",
    "offline_seconds": "seconds of garbling per ReLU, one thread",
    "base_seconds": "seconds of every inference, whatever the network",
}


class Constant(Config):
    """One number: `kind` says whether it was read in its source, derived from it by arithmetic, or measured with it."""

    value: float = pydantic.Field(ge=0)
    source: str
    kind: Literal["read", "derived", "measured"]
    note: str = ""


class Preset(Config):
    """One protocol in one implementation.

    Attributes:
        covers: the parts (keys of PARTS) that it prices; the others are left out of its totals, as `excludes` says.
        time_includes: what its seconds of computation contain already and is not added again.
        round_trips_per_round: 1 where a round is a request and its answer, 0.5 where it is one message each way at a time,
            so that latency is rounds * round_trips_per_round * RTT.
        truncation: "at_once" after every product, or "after_relu", where a ReLU directly behind a linear layer leaves a
            known sign.
        threads_divide: whether seconds of computation fall with the number of threads.
        engine_protocol: the protocol of `cost measure` that this preset describes.
    """

    name: str
    title: str
    protocol: str
    parties: int
    ring_bits: int | None
    includes: str
    excludes: str
    covers: tuple[Part, ...]
    time_includes: tuple[Literal["transfer", "latency"], ...] = ()
    bandwidth: str = "384Mbps"
    rtt: str = "40ms"
    round_trips_per_round: float = pydantic.Field(1.0, gt=0, le=1)
    truncation: Literal["at_once", "after_relu"] = "at_once"
    threads_divide: bool = False
    engine_protocol: str | None = None
    sources: dict[str, str]
    constants: dict[str, Constant]

    @pydantic.model_validator(mode="after")
    def _check(self) -> Preset:
        unknown = [name for name in self.constants if name not in CONSTANTS]
        unsourced = [name for name, constant in self.constants.items() if constant.source not in self.sources]
        if unknown or unsourced:
            raise ValueError(f"unknown constants {unknown}, constants without a source {unsourced}")
        return self

    def get(self, name: str) -> float | None:
        """The value of a constant in the unit of CONSTANTS, or None when this preset does not know it."""
        return self.constants[name].value if name in self.constants else None

    def source_of(self, name: str) -> str:
        """Where a constant comes from."""
        return self.sources[self.constants[name].source]

    @property
    def link(self) -> Link:
        """The link that is assumed where none is given."""
        return Link.parse(self.bandwidth, self.rtt)


@cache
def _all_presets() -> dict[str, Preset]:
    folder = resources.files("keras_relu.cost").joinpath("data")
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".yaml")), key=lambda file: file.name)
    texts = [file.read_text(encoding="utf-8") for file in files if file.name != "published.yaml"]
    presets = [Preset.parse(yaml.safe_load(text)) for text in texts]
    return {preset.name: preset for preset in presets}


def list_presets() -> list[str]:
    """The names of all presets."""
    return sorted(_all_presets())


def get_preset(name: str) -> Preset:
    """The preset called `name`.

    Raises:
        UserError: there is none.
    """
    if name not in _all_presets():
        raise unknown_key("cost preset", name, _all_presets())
    return _all_presets()[name]


@cache
def published_runs() -> tuple[dict[str, Any], ...]:
    """What others measured for whole networks: system, network, numbers as printed, source. Cited, never mixed in."""
    file = resources.files("keras_relu.cost").joinpath("data", "published.yaml")
    return tuple(yaml.safe_load(file.read_text(encoding="utf-8"))["runs"])
