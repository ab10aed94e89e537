"""Configuration of the reduction: one model per phase, and the published settings as presets."""

from __future__ import annotations

import copy
from typing import Any, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from keras_relu.config import Config
from keras_relu.errors import unknown_key

__all__ = ["PRESETS", "Distillation", "Finetune", "ReduceConfig", "Search", "SiteBudget", "preset"]

REPLACEMENTS = ("identity", "line", "quadratic", "scaled_quadratic", "moment_line", "moment_quadratic")
Replacement = Literal["identity", "line", "quadratic", "scaled_quadratic", "moment_line", "moment_quadratic"]


class Distillation(Config):
    """Learning from the unreduced network: weight * T^2 * KL(softmax(teacher / T) || softmax(student / T))."""

    weight: float = Field(1.0, gt=0)
    temperature: float = Field(4.0, gt=0)


class Optimization(Config):
    """How the weights are trained in one phase."""

    epochs: int = Field(6, ge=0)
    optimizer: Literal["sgd", "adam"] = "adam"
    learning_rate: float = Field(1e-3, gt=0)
    minimum_learning_rate: float = Field(0.0, ge=0)
    schedule: Literal["constant", "cosine", "step", "polynomial"] = "constant"
    warmup_fraction: float = Field(0.02, ge=0, lt=1, description="fraction of the phase's steps with a rising rate")
    momentum: float | None = Field(None, ge=0, lt=1, description="of sgd, 0.9 when not given")
    weight_decay: float = Field(0.0, ge=0)
    coefficient_learning_rate: float = Field(1e-3, gt=0, description="peak rate of the polynomials (Adam)")
    coefficient_optimizer: Literal["adam", "same"] = Field(
        "adam", description="of the polynomials; same = the weights'"
    )
    clip_norm: float | None = Field(1.0, gt=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _check_optimization(self) -> Self:
        if self.optimizer != "sgd":
            self._refuse("optimizer sgd", "momentum")
        if self.schedule == "constant":
            self._refuse("a schedule that falls", "minimum_learning_rate")
        return self

    def _refuse(self, needed: str, *names: str) -> None:
        """An option that would have no effect is an error, unless it stands at its default."""
        for name in names:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect without {needed}")


class Search(Optimization):
    """The phase that decides which ReLUs stay."""

    method: Literal["schedule", "penalty"] = "schedule"
    saliency: Literal["fisher", "straight_through"] = "fisher"
    saliency_decay: float = Field(
        0.99, ge=0, lt=1, description="of the running mean of squared gate gradients (fisher)"
    )
    score_learning_rate: float = Field(1e-2, gt=0, description="Adam rate of the scores (straight_through)")
    score_weight_decay: float = Field(0.0, ge=0, description="coupled decay of the scores (straight_through)")
    alternating: bool = Field(False, description="scores and weights in two passes per batch instead of one")
    score_interval: int = Field(2, ge=1, description="steps between two measurements of the gate gradients")
    mask_interval: int = Field(10, ge=1, description="steps between two updates of the masks")
    ramp_fraction: float = Field(0.7, gt=0, le=1, description="fraction of the search in which the kept count falls")
    ramp_power: float = Field(3.0, gt=0)
    margin: float = Field(0.02, ge=0, le=1, description="head start of kept ReLUs, as a fraction of the ranking")
    penalty_weight: float = Field(1.0, gt=0, description="start weight of the penalty, in units of the data gradient")
    penalty_growth: float = Field(1.1, ge=1, description="factor of the controller; 1 = constant weight")

    @model_validator(mode="after")
    def _check_search(self) -> Self:
        if self.method == "penalty" and self.saliency != "straight_through":
            raise ValueError("method penalty trains the scores by gradient, it needs saliency straight_through")
        if self.method == "penalty":
            self._refuse("method schedule", "margin")
        else:
            self._refuse("method penalty", "penalty_weight", "penalty_growth")
        if self.saliency == "fisher":
            self._refuse("saliency straight_through", "score_learning_rate", "score_weight_decay", "alternating")
        else:
            self._refuse("saliency fisher", "saliency_decay")
        return self


class Finetune(Optimization):
    """The phase after the search: masks fixed, weights and coefficients trained."""

    schedule: Literal["constant", "cosine", "step", "polynomial"] = "cosine"
    mask_dropout: float = Field(0.0, ge=0, lt=1)


class SiteBudget(Config):
    """What a plan gives one site."""

    kept: int = Field(ge=0)
    replacement: Replacement = "identity"


class ReduceConfig(Config):
    """Everything that `reduce` does to a network."""

    budget: int | float | str = Field(description="ReLUs kept per image: a number, 94k, or a fraction in (0, 1]")
    replacement: Replacement = "quadratic"
    replacement_options: dict[str, Any] = Field(default_factory=dict)
    sites: dict[str, SiteBudget] | None = Field(None, description="budgets of single sites, from a cost plan")
    gate: Literal["threshold", "hysteresis"] = "hysteresis"
    tau: float = Field(0.003, ge=0, description="half width of the hysteresis (method penalty)")
    surrogate: Literal["true", "relu"] = "true"
    granularity: Literal["element", "channel", "layer"] = "element"
    batch_size: int = Field(128, ge=1)
    seed: int = Field(0, ge=0)
    distillation: Distillation | None = Distillation()
    search: Search = Search()
    finetune: Finetune = Finetune()

    @model_validator(mode="after")
    def _check_sites(self) -> Self:
        if self.sites is None:
            return self
        if self.search.method != "schedule" or self.granularity != "element":
            raise ValueError("budgets of single sites need search.method schedule and granularity element")
        if self.replacement_options:
            raise ValueError("replacement_options have no effect beside the replacements of single sites")
        return self

    @model_validator(mode="after")
    def _check_gate(self) -> Self:
        if (self.gate, self.search.method) != ("hysteresis", "penalty") and self.tau != type(self).model_fields[
            "tau"
        ].default:
            raise ValueError(
                "tau has no effect without gate hysteresis and search.method penalty (schedule has search.margin)"
            )
        if (self.gate, self.search.method) == ("threshold", "schedule") and self.search.margin:
            raise ValueError("gate threshold has no hysteresis; set search.margin to 0, or take gate hysteresis")
        return self


_PLAIN = {"clip_norm": None, "warmup_fraction": 0.0, "coefficient_optimizer": "same"}


def _published(optimizer: str, rate: float, epochs: int, **search: Any) -> dict[str, Any]:
    return {
        "gate": "hysteresis",
        "tau": 0.003,
        "distillation": None,
        "search": {
            "weight_decay": 5e-4,
            "method": "penalty",
            "saliency": "straight_through",
            "optimizer": optimizer,
            "learning_rate": rate,
            "schedule": "cosine",
            "minimum_learning_rate": 1e-5,
            "warmup_fraction": 0.0,
            "clip_norm": None,
            "epochs": epochs,
            "score_interval": 1,
            "mask_interval": 1,
            "penalty_growth": 1.0,
            "coefficient_optimizer": "same",
            "coefficient_learning_rate": rate,
            **search,
        },
    }


# replacement.md 3.3 and 3.4: the settings that the originals' scripts use, network and budget apart.
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "identity-spgrad": {
        **_published("sgd", 0.02, 100, score_learning_rate=2e-4, score_weight_decay=1e-3, alternating=True),
        "replacement": "identity",
        "surrogate": "relu",
        "finetune": {
            "learning_rate": 0.01,
            "weight_decay": 1e-3,
            "epochs": 100,
            "mask_dropout": 0.01,
            "clip_norm": None,
        },
    },
    "quadratic-two-pass": {
        **_published("sgd", 0.01, 50, score_learning_rate=2e-4, score_weight_decay=1e-3, alternating=True),
        "replacement": "quadratic",
        "replacement_options": {"scale_x2": 0.2},
        "finetune": {
            "optimizer": "sgd",
            "weight_decay": 5e-4,
            "learning_rate": 0.001,
            "coefficient_learning_rate": 0.001,
            "epochs": 30,
            **_PLAIN,
        },
    },
    "moment-joint-adam": {
        **_published("adam", 1e-3, 200, score_learning_rate=1e-3, weight_decay=0.0),
        "replacement": "moment_quadratic",
        "distillation": {"weight": 1.0, "temperature": 4.0},
        "finetune": {
            "optimizer": "sgd",
            "weight_decay": 5e-4,
            "learning_rate": 0.002,
            "coefficient_learning_rate": 0.002,
            "epochs": 50,
            **_PLAIN,
        },
    },
}


def preset(name: str) -> dict[str, Any]:
    """The plain values of a named preset, to be completed with a budget.

    Raises:
        UserError: an unknown preset.
    """
    if name not in PRESETS:
        raise unknown_key("preset", name, PRESETS)
    return copy.deepcopy(PRESETS[name])
