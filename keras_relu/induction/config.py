"""Settings of induction, and the two presets: the original's recipe and ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import pydantic
from pydantic import Field

from keras_relu.config import Config
from keras_relu.errors import UserError, unknown_key
from keras_relu.induction.mapping import normalised

__all__ = ["FINETUNE", "PRESETS", "ClusterConfig", "InduceConfig", "PipelineConfig", "preset"]

# Specification `induction`, section 5.3: the fine-tuning of the original, with coupled decay of every parameter.
_ORIGINAL_FINETUNE: dict[str, Any] = {
    "epochs": 20,
    "batch_size": 64,
    "optimizer": "sgd",
    "learning_rate": 8e-4,
    "momentum": 0.9,
    "weight_decay": 1e-3,
    "decay_vectors": True,
    "schedule": "constant",
}
FINETUNE: dict[str, Any] = {
    "epochs": 20,
    "batch_size": 128,
    "optimizer": "sgd",
    "learning_rate": 0.02,
    "weight_decay": 5e-4,
    "schedule": "cosine",
    "warmup_epochs": 0.2,
    "clip_norm": 5.0,
}
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "original": {
        "association": "hamming",
        "polarity": False,
        "constants": False,
        "ties": "lowest",
        "split": "validation",
        "bn_images": 0,
        "distill": False,
        "finetune": _ORIGINAL_FINETUNE,
    },
}


def preset(name: str) -> dict[str, Any]:
    """The settings called `name`, to be changed by further ones.

    Raises:
        UserError: no such preset.
    """
    if name not in PRESETS:
        raise unknown_key("preset", name, PRESETS)
    return dict(PRESETS[name])


class ClusterConfig(Config):
    """How prototypes are selected and neurons assigned to them; the defaults are the improved recipe."""

    selection: Literal["fps", "kmodes", "random"] = "fps"
    association: Literal["energy", "hamming"] = "energy"
    polarity: bool = Field(True, description="whether the complement of a prototype may be borrowed")
    constants: bool = Field(True, description="whether a gate may be constant")
    ties: Literal["self", "lowest"] = Field(
        "self", description="what a prototype borrows: its own bit, or the first equal"
    )
    images: int = Field(10_000, ge=1, description="M, images of the cached responses")
    energy_images: int | None = Field(2048, ge=1, description="images of the energy sums; only with energy")
    split: Literal["train", "validation"] = "train"
    seed: int = Field(0, ge=0)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _resolve(cls, values: Any) -> Any:
        """No energy is summed for the Hamming distance, so the recorded configuration does not claim so."""
        if isinstance(values, Mapping) and values.get("association") == "hamming":
            if values.get("energy_images") is not None:
                raise UserError("energy_images has no effect on the association hamming.")
            return {**values, "energy_images": None}
        return values

    @property
    def recipe(self) -> str:
        """A short name of the association for file names: energy-pc."""
        options = ("p" if self.polarity else "") + ("c" if self.constants else "")
        return f"{self.association}-{options}" if options else self.association


class InduceConfig(ClusterConfig):
    """A whole induction of one network.

    Optimizer settings stand under `finetune`, see `training.supervised.TrainConfig`.
    """

    mapping: dict[str, Any]
    prototypes: int | list[int] | None = None
    cap: Literal["drop", "keep"] = Field("drop", description="whether induced ReLU6 sites keep their upper bound")
    bn_images: int = Field(10_000, ge=0, description="images for the re-estimation of batch normalisation; 0 = none")
    distill: bool = Field(True, description="learn from the network before the induction too")
    sequential: bool = Field(False, description="fine-tune after each inducer, before the next one is clustered")
    finetune: dict[str, Any] = Field(default_factory=lambda: dict(FINETUNE))

    @pydantic.field_validator("mapping", mode="before")
    @classmethod
    def _normalised(cls, value: Any) -> Any:
        return normalised(value)

    @property
    def cluster(self) -> ClusterConfig:
        """The part that concerns clustering."""
        return ClusterConfig.parse({name: getattr(self, name) for name in ClusterConfig.model_fields})


class PipelineConfig(InduceConfig):
    """`keras-relu induce run`: the network and its images too."""

    model: str
    dataset: str
    normalization: str | None = None
    validation_fraction: float = Field(0.1, ge=0, lt=1)
    limit: int | None = Field(None, ge=1)

    @property
    def induction(self) -> InduceConfig:
        """The part that concerns induction."""
        return InduceConfig.parse({name: getattr(self, name) for name in InduceConfig.model_fields})
