"""The module names of the original PyTorch code and the composition that each of them is here.

| original name                       | gate       | replacement                             | surrogate |
|-------------------------------------|------------|-----------------------------------------|-----------|
| `ReLU_masked`                       | threshold  | identity                                | true      |
| `ReLU_masked_relay`                 | hysteresis | identity                                | true      |
| `ReLU_masked_spgrad`                | threshold  | identity                                | relu      |
| `ReLU_masked_spgrad_relay`          | hysteresis | identity                                | relu      |
| `ReLU_masked_poly`                  | threshold  | scaled_quadratic                        | true      |
| `ReLU_masked_poly_relay`            | hysteresis | scaled_quadratic                        | true      |
| `ReLU_masked_autopoly`              | threshold  | line (degree=1), quadratic (degree=2)   | true      |
| `ReLU_masked_autopoly_relay`        | hysteresis | line (degree=1), quadratic (degree=2)   | true      |
| `ReLU_masked_dapa_relay`            | hysteresis | moment_line, moment_quadratic by degree | true      |

The options carry the original's names and defaults: `threshold` (the hysteresis tau), `scale_x` and `scale_x2`,
`degree`, `var_min`, `clip_x2`. What differs on purpose: the moment fit receives the standard deviation where the
original passed the variance, and it is not shrunk; the original went on to train the coefficients after its last
refresh, here they follow the moments. The quadratic's slope bound, which the original lacks, is off.

Source: AutoReP (Peng et al., ICCV 2023), arXiv:2308.10134, and its published code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras_relu.activations.gates import Gate, Hysteresis, Threshold
from keras_relu.activations.replacements import (
    Identity,
    Line,
    MomentLine,
    MomentQuadratic,
    Quadratic,
    Replacement,
    ScaledQuadratic,
)
from keras_relu.errors import UserError, unknown_key

__all__ = ["list_aliases", "resolve"]

_OPTIONS: dict[str, dict[str, Any]] = {
    "spgrad": {},
    "identity": {},
    "poly": {"scale_x": 0.5, "scale_x2": 0.1},
    "autopoly": {"degree": 2, "scale_x2": 0.1},
    "dapa": {"degree": 2, "var_min": 0.5, "clip_x2": None},
}
_FAMILIES = {
    "ReLU_masked": "identity",
    "ReLU_masked_relay": "identity",
    "ReLU_masked_spgrad": "spgrad",
    "ReLU_masked_spgrad_relay": "spgrad",
    "ReLU_masked_poly": "poly",
    "ReLU_masked_poly_relay": "poly",
    "ReLU_masked_autopoly": "autopoly",
    "ReLU_masked_autopoly_relay": "autopoly",
    "ReLU_masked_dapa_relay": "dapa",
}


def list_aliases() -> list[str]:
    """The original names, sorted."""
    return sorted(_FAMILIES)


def resolve(name: str, **options: Any) -> dict[str, Any]:
    """Keyword arguments for `MaskedReLU` that make the original's module `name`.

    >>> MaskedReLU(**resolve("ReLU_masked_spgrad_relay", threshold=0.003))

    Raises:
        UserError: an unknown name, an option without effect on that module, or a degree other than 1 and 2.
    """
    if name not in _FAMILIES:
        raise unknown_key("activation alias", name, _FAMILIES)
    family, relay = _FAMILIES[name], name.endswith("_relay")
    allowed = ({"threshold": 0.001} if relay else {}) | _OPTIONS[family]
    for key in options:
        if key not in allowed:
            raise unknown_key(f"option of {name!r}", key, allowed)
    values = allowed | options
    gate: Gate = Hysteresis(values["threshold"]) if relay else Threshold()
    surrogate = "relu" if family == "spgrad" else "true"
    return {"gate": gate, "replacement": _REPLACEMENTS[family](values), "surrogate": surrogate}


def _polynomial(values: dict[str, Any]) -> Replacement:
    if _degree(values) == 1:
        return Line()
    return Quadratic(scale_x2=values["scale_x2"], slope_bound=None)


def _moment(values: dict[str, Any]) -> Replacement:
    if _degree(values) == 1:
        return MomentLine(variance_floor=values["var_min"])
    return MomentQuadratic(variance_floor=values["var_min"], clip=values["clip_x2"])


def _degree(values: dict[str, Any]) -> int:
    if values["degree"] not in (1, 2):
        raise UserError(f"The degree must be 1 or 2, received {values['degree']!r}.")
    return values["degree"]


_REPLACEMENTS: dict[str, Callable[[dict[str, Any]], Replacement]] = {
    "identity": lambda values: Identity(),
    "spgrad": lambda values: Identity(),
    "poly": lambda values: ScaledQuadratic(s2=values["scale_x2"], s1=values["scale_x"]),
    "autopoly": _polynomial,
    "dapa": _moment,
}
