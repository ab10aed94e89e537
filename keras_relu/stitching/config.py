"""Settings of a stitching run and of the direct matching beside it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from keras_relu.config import Config

__all__ = ["INITS", "MASKS", "TARGETS", "DirectConfig", "StitchConfig"]

Init = Literal["random", "perm", "eye", "ps_inv", "ones-zeros"]
Mask = Literal["identity", "semi-match", "abs-semi-match", "random-permutation", "optimal-match", "abs-optimal-match"]
Target = Literal["hard", "soft_1", "soft_2", "soft_12", "soft_1_plus_2"]
FitSplit = Literal["train", "augmented", "validation", "test"]

INITS: tuple[str, ...] = ("random", "perm", "eye", "ps_inv", "ones-zeros")
MASKS: tuple[str, ...] = (
    *("identity", "semi-match", "abs-semi-match", "random-permutation"),
    *("optimal-match", "abs-optimal-match"),
)
TARGETS: tuple[str, ...] = ("hard", "soft_1", "soft_2", "soft_12", "soft_1_plus_2")


class DirectConfig(Config):
    """Direct matching: the stitch is trained to reproduce the end network's own activations, labels play no part."""

    loss: Literal["mse", "cka"] = "mse"
    epochs: int = Field(10, ge=1)
    batch_size: int = Field(64, ge=4)
    learning_rate: float = Field(1e-4, gt=0)
    start: Literal["ps_inv", "init"] = Field("ps_inv", description="from least squares, or from the run's init")


class StitchConfig(Config):
    """One stitching: how the map starts, what of it may move, what it is trained for.

    The defaults are those of the original (arXiv 2110.14633): Adam at 1e-3, divided by ten after each third of 30 epochs,
    both networks frozen and in inference mode.
    """

    init: Init = "random"
    mask: Mask = "identity"
    target: Target = "hard"
    temperature: float = Field(1.0, gt=0)
    l1: float = Field(0.0, ge=0, description="times the mean of |W|")
    cka_weight: float = Field(0.0, ge=0, description="times 1 - CKA(stitched, own activation); raises the similarity")
    rank: int | None = Field(None, ge=1, description="bound of the rank of W")
    flatten: bool = Field(False, description="one dense map between whole representations instead of channels")
    resize: Literal["none", "bilinear", "nearest", "area"] = Field("none", description="when the maps differ in size")
    fit_split: FitSplit = Field("train", description="images for ps_inv, masks and direct matching")
    fit_images: int | None = Field(None, ge=2, description="at most so many of them")
    ridge: float = Field(0.0, ge=0, description="of the least squares, in units of the mean variance")
    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    epochs: int = Field(30, ge=0)
    batch_size: int = Field(128, ge=1)
    augment: bool = True
    history_every: int = Field(10, ge=1, description="times the epochs: steps between two saved states of the map")
    recalibrate_images: int = Field(
        0, ge=0, description="training images for re-estimated batch normalisation, as a further reading"
    )
    cka_images: int | None = Field(None, ge=4, description="test images for the CKA of the readings; None = all")
    direct: DirectConfig | None = None
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.rank is not None and self.mask != "identity":
            raise ValueError("rank and mask exclude each other: the product of two factors has no entries to mask")
        if self.rank is not None and self.l1:
            raise ValueError("rank and l1 exclude each other: W is not a parameter of a low-rank map")
        if self.flatten and self.resize != "none":
            raise ValueError("flatten needs no resize: whole representations have no common pixels")
        if self.temperature != 1.0 and self.target == "hard":
            raise ValueError("temperature has no effect on target hard")
        return self
