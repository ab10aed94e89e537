"""Settings of the stages pruned and pqat; how they train is said in the words of `training.supervised.TrainConfig`."""

from __future__ import annotations

from typing import Any, Literal

import pydantic
from pydantic import Field
from typing_extensions import Self

from keras_relu.training.supervised import TrainConfig

__all__ = ["PqatConfig", "PruneConfig"]


class _Stage(TrainConfig):
    """A stage that starts from a trained network: other defaults than a training from scratch."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _gentle(cls, values: Any) -> Any:
        """Weight decay of a fine-tuning, where the optimizer is SGD and nothing else was asked for."""
        if isinstance(values, dict) and values.get("optimizer", "sgd") == "sgd" and values.get("weight_decay") is None:
            return {**values, "weight_decay": 1e-4}
        return values


class PruneConfig(_Stage):
    """Settings of the stage pruned; the defaults ramp the sparsity up in the first six of ten epochs."""

    epochs: int = Field(10, ge=1)
    learning_rate: float = Field(0.02, gt=0, description="peak of the schedule")
    pointwise_sparsity: float = Field(0.8, ge=0, lt=1, description="of convolutions and dense layers")
    depthwise_sparsity: float = Field(0.7, ge=0, lt=1, description="of depthwise convolutions")
    include: list[str] | None = Field(
        None, description="names or shell patterns of layers; None: the original's choice, or all but the ends"
    )
    exclude: list[str] = Field([], description="names or shell patterns taken out of the choice again")
    begin_epochs: float = Field(0.0, ge=0, description="epochs before the ramp")
    ramp_epochs: float | None = Field(None, gt=0, description="epochs of the ramp; None: six tenths of all")
    ramp: Literal["updates", "epochs"] = Field(
        "updates", description="updates: exactly the sparsity asked for; epochs: the original's steps, S(1 - 1/N^3)"
    )
    power: float = Field(3.0, gt=0, description="of the ramp's curve")
    frequency: int = Field(100, ge=1, description="updates between two changes of the masks")

    @pydantic.model_validator(mode="after")
    def _check_ramp(self) -> Self:
        if self.begin_epochs + self.ramp_length > self.epochs:
            raise ValueError(
                f"begin_epochs {self.begin_epochs} and ramp_epochs {self.ramp_length} do not fit in {self.epochs} epochs"
            )
        if self.ramp == "epochs" and (self.ramp_length % 1 or self.begin_epochs % 1):
            raise ValueError("ramp 'epochs' needs whole begin_epochs and ramp_epochs")
        if not (self.pointwise_sparsity or self.depthwise_sparsity):
            raise ValueError("nothing is pruned with both sparsities at 0")
        return self

    @property
    def ramp_length(self) -> float:
        """Epochs of the ramp."""
        if self.ramp_epochs is not None:
            return self.ramp_epochs
        return (
            max(1.0, round(0.6 * (self.epochs - self.begin_epochs)))
            if self.ramp == "epochs"
            else 0.6 * (self.epochs - self.begin_epochs)
        )


class PqatConfig(_Stage):
    """Settings of the stage pqat: a short training with the rounding of int8 in it."""

    epochs: int = Field(3, ge=1)
    learning_rate: float = Field(0.005, gt=0, description="peak of the schedule")
    exclude: list[str] = Field([], description="names or shell patterns of layers that stay in floating point")
