"""From a cost budget to budgets of layers: which sites keep how many ReLUs, and what replaces the others.

A multiple-choice knapsack. Each site has one option per kept count and replacement, with what it costs under a preset and
the damage it does; removing elements saves bytes, linearising a whole site saves its rounds, and a replacement that is
cheap under one protocol is dear under another. Pure NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from keras_relu.cost.estimate import Estimate, estimate_work
from keras_relu.cost.link import Link
from keras_relu.cost.presets import Preset
from keras_relu.cost.work import LayerWork
from keras_relu.errors import UserError

__all__ = ["DAMAGE", "Limits", "Plan", "SitePlan", "make_plan"]

# Mean squared distance to ReLU of the best replacement of each kind, as a part of the identity's, for a standard normal
# input: 1/2 for the identity, less the Hermite terms that the line and the quadratic can take up.
DAMAGE = {"identity": 1.0, "line": (1 - 2 / math.pi) / 2, "quadratic": (1 - 3 / math.pi) / 2}
_DEGREES = {"identity": 0, "line": 1, "quadratic": 2}
_FRACTIONS = (0.0, 0.01, 0.02, 0.04, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
_BINS = 2000


@dataclass(frozen=True)
class Limits:
    """What must not be exceeded: bytes and seconds of one inference, sites that keep ReLUs, ReLUs. None = free."""

    bytes: float | None = None
    seconds: float | None = None
    relu_layers: int | None = None
    relus: int | None = None


@dataclass(frozen=True)
class SitePlan:
    """One site: `kept` ReLUs of its `elements`, the others through `replacement`."""

    name: str
    elements: int
    kept: int
    replacement: str


@dataclass(frozen=True)
class Plan:
    """The chosen `sites`, their `estimate`, the `damage` they are predicted to do, and the same for a uniform budget.

    `damage` is the sum over replaced elements of saliency times DAMAGE: it ranks plans, it is no accuracy.
    """

    sites: tuple[SitePlan, ...]
    estimate: Estimate
    damage: float
    uniform_sites: tuple[SitePlan, ...]
    uniform_estimate: Estimate
    uniform_damage: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        costs = {"": self.estimate, "uniform_": self.uniform_estimate}
        totals = {
            f"{prefix}{key}": getattr(made, key)
            for prefix, made in costs.items()
            for key in ("relu_count", "relu_layers", "bytes", "comparison_bytes", "rounds", "seconds")
        }
        return {
            "preset": self.estimate.preset.name,
            "link": str(self.estimate.link),
            "weights": self.estimate.weights,
            "sites": [asdict(site) for site in self.sites],
            "damage": self.damage,
            "uniform_sites": [asdict(site) for site in self.uniform_sites],
            "uniform_damage": self.uniform_damage,
            **totals,
        }


def make_plan(
    saliency: Mapping[str, np.ndarray],
    rest: Sequence[LayerWork],
    limits: Limits,
    *,
    preset: Preset,
    link: Link,
    weights: str = "secret",
    replacements: Sequence[str] = ("identity", "line", "quadratic"),
) -> Plan:
    """The plan of least damage within `limits`.

    Args:
        saliency: per site, of each element: the damage done when the identity replaces its ReLU, any non-negative unit.
        rest: the work of the network without its sites (folded: linear layers, pooling).
        limits: at least one.
        replacements: those to choose from (keys of DAMAGE).

    Raises:
        UserError: no limit; one that not even a network without any ReLU meets, or that the preset cannot price.
    """
    if limits == Limits():
        raise UserError("A plan needs a limit: bytes, seconds, ReLU layers or ReLUs.")
    problem = _Problem(saliency, rest, limits, preset, link, weights, tuple(replacements))
    sites = problem.filled(problem.solve())
    uniform = problem.uniform()
    return Plan(
        sites,
        problem.estimate(sites),
        problem.damage(sites),
        uniform,
        problem.estimate(uniform),
        problem.damage(uniform),
    )


class _Problem:
    def __init__(
        self,
        saliency: Mapping[str, np.ndarray],
        rest: Sequence[LayerWork],
        limits: Limits,
        preset: Preset,
        link: Link,
        weights: str,
        replacements: tuple[str, ...],
    ) -> None:
        self.rest, self.limits, self.preset, self.link, self.weights = list(rest), limits, preset, link, weights
        self.replacements = replacements
        self.elements = {name: np.size(values) for name, values in saliency.items()}
        # Damage that is left when the best k of a site are kept: index k.
        self.left = {name: _left(np.ravel(values)) for name, values in saliency.items()}
        self._one = SitePlan("one", 1, 1, "identity")
        base = self.estimate(())
        self.room = {
            "bytes": self._room("bytes", limits.bytes, base.bytes),
            "seconds": self._room("seconds", limits.seconds, base.seconds),
            "relus": None if limits.relus is None else float(limits.relus),
        }

    def _room(self, what: str, limit: float | None, used: float | None) -> float | None:
        if limit is None:
            return None
        if used is None or getattr(self.estimate([self._one]), what) is None:
            raise UserError(f"The preset {self.preset.name!r} does not know the {what} of this network.")
        if limit <= used:
            raise UserError(
                f"The limit of {limit:,.6g} {what} cannot be met: without any ReLU the network takes {used:,.6g} under "
                f"{self.preset.name}."
            )
        return limit - used

    def estimate(self, sites: Sequence[SitePlan]) -> Estimate:
        works = [*self.rest, *map(_work, sites)]
        return estimate_work(works, self.preset, link=self.link, weights=self.weights)

    def damage(self, sites: Sequence[SitePlan]) -> float:
        return float(sum(self.left[site.name][site.kept] * DAMAGE[site.replacement] for site in sites))

    def share(self, site: SitePlan) -> float:
        """The part of the room that a site takes: of the resource it takes most of, so that sums stay within all."""
        made = estimate_work([_work(site)], self.preset, link=self.link, weights=self.weights)
        seconds = None if made.seconds is None else made.seconds - (self.preset.get("base_seconds") or 0.0)
        used: dict[str, Any] = {"bytes": made.bytes, "seconds": seconds, "relus": float(site.kept)}
        shares = [used[key] / room if used[key] is not None else math.inf for key, room in self.room.items() if room]
        return max([*shares, 0.0 if self.limits.relus != 0 or not site.kept else math.inf])

    def options(self, name: str) -> list[SitePlan]:
        size = self.elements[name]
        kept = sorted({math.floor(size * fraction) for fraction in _FRACTIONS})
        return [
            SitePlan(name, size, count, g)
            for count in kept
            for g in self.replacements
            if count < size or g == self.replacements[0]
        ]

    def solve(self) -> list[SitePlan]:
        """Dynamic programming over (sites with ReLUs, room used in bins)."""
        count = len(self.elements)
        layers = count if self.limits.relu_layers is None else min(self.limits.relu_layers, count)
        best = np.full((layers + 1, _BINS + 1), np.inf)
        best[0, :] = 0.0
        picks: list[np.ndarray] = []
        choices = [self.options(name) for name in self.elements]
        for options in choices:
            new, pick = np.full_like(best, np.inf), np.full(best.shape, -1, np.int16)
            for index, option in enumerate(options):
                share = self.share(option)
                _try(
                    best,
                    new,
                    pick,
                    index,
                    option.kept > 0,
                    math.ceil(share * _BINS) if share <= 1 else None,
                    self.damage([option]),
                )
            best = new
            picks.append(pick)
        if not np.isfinite(best[:, -1]).any():
            raise UserError(
                "No plan meets the limits: even without any ReLU the replacements cost more. Allow the identity."
            )
        return self._walk_back(best, picks, choices)

    def _walk_back(self, best: np.ndarray, picks: list[np.ndarray], choices: list[list[SitePlan]]) -> list[SitePlan]:
        row, column = int(np.argmin(best[:, -1])), _BINS
        sites = []
        for pick, options in zip(reversed(picks), reversed(choices), strict=True):
            option = options[pick[row, column]]
            sites.append(option)
            row -= int(option.kept > 0)
            column -= math.ceil(self.share(option) * _BINS)
        return sites[::-1]

    def filled(self, sites: list[SitePlan]) -> tuple[SitePlan, ...]:
        """The plan with what rounding left over given to the sites that keep ReLUs, most worth first."""
        for _ in range(4 * len(sites)):
            spare = 1.0 - sum(map(self.share, sites))
            grown = [
                (self._gain(site, spare), index) for index, site in enumerate(sites) if 0 < site.kept < site.elements
            ]
            (gain, kept), index = max(grown, default=((0.0, 0), -1))
            if gain <= 0:
                break
            sites[index] = SitePlan(sites[index].name, sites[index].elements, kept, sites[index].replacement)
        return tuple(sites)

    def _gain(self, site: SitePlan, spare: float) -> tuple[float, int]:
        """(damage avoided, kept count) when all of `spare` goes to one site."""
        now = self.share(site)
        low, high = site.kept, site.elements
        while low < high:
            middle = (low + high + 1) // 2
            fits = self.share(SitePlan(site.name, site.elements, middle, site.replacement)) <= now + spare
            low, high = (middle, high) if fits else (low, middle - 1)
        values = self.left[site.name]
        return float(values[site.kept] - values[low]) * DAMAGE[site.replacement], low

    def uniform(self) -> tuple[SitePlan, ...]:
        """The same part of every site and one replacement, the best of those that fit the limits other than of layers."""
        found = [sites for name in self.replacements if (sites := self._uniform(name)) is not None]
        if not found:
            return tuple(SitePlan(name, size, 0, self.replacements[0]) for name, size in self.elements.items())
        return min(found, key=self.damage)

    def _uniform(self, replacement: str) -> tuple[SitePlan, ...] | None:
        def sites(fraction: float) -> tuple[SitePlan, ...]:
            return tuple(
                SitePlan(n, size, math.floor(size * fraction), replacement) for n, size in self.elements.items()
            )

        steps = [sites(fraction / 1000) for fraction in range(1001)]
        low, high = -1, 1000
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if sum(map(self.share, steps[middle])) <= 1 else (low, middle - 1)
        return steps[low] if low >= 0 else None


def _left(values: np.ndarray) -> np.ndarray:
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise UserError("A saliency is negative or not finite.")
    falling = np.sort(values)[::-1]
    return np.concatenate([[falling.sum()], falling.sum() - np.cumsum(falling)]).clip(min=0.0)


def _work(site: SitePlan) -> LayerWork:
    replaced, degree = site.elements - site.kept, _DEGREES[site.replacement]
    return LayerWork(
        site.name,
        "LoweredActivation",
        (site.elements,),
        relu_count=site.kept,
        comparisons=site.kept,
        comparison_levels=int(site.kept > 0),
        constant_products=replaced if degree else 0,
        products=replaced if degree > 1 else 0,
    )


def _try(
    best: np.ndarray,
    new: np.ndarray,
    pick: np.ndarray,
    index: int,
    has_relus: bool,
    bins: int | None,
    damage: float,
) -> None:
    """Offer one option of a site: `new` and `pick` take it wherever it does less damage."""
    if bins is None or bins > _BINS or (has_relus and best.shape[0] == 1):
        return
    source = best[: best.shape[0] - has_relus, : _BINS + 1 - bins] + damage
    target, chosen = new[int(has_relus) :, bins:], pick[int(has_relus) :, bins:]
    better = source < target
    target[better] = source[better]
    chosen[better] = index
