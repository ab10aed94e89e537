"""The numbers of a report as text: the headline of each network and the table of all runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from keras_relu.report.load import RunData
from keras_relu.report.style import plain

__all__ = ["Card", "Headline", "headlines", "run_table"]

_EMPTY = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"
# How many epochs each phase took, in the order they run.
_PHASES = ("train", "search", "finetune")


@dataclass(frozen=True)
class Card:
    """One headline number: what it is, the number, what qualifies it."""

    title: str
    value: str
    detail: str


@dataclass(frozen=True)
class Headline:
    """The cards of one dataset and network."""

    heading: str
    cards: list[Card]


def percent(fraction: float | None) -> str:
    """91.71 % for 0.9171."""
    return _EMPTY if fraction is None else f"{100 * fraction:.2f} %"


def points(change: float | None) -> str:
    """Signed percentage points with a true minus sign."""
    if change is None:
        return _EMPTY
    return "0.00" if abs(change) < 0.005 else f"{change:+.2f}".replace("-", _MINUS)


def count(value: float | None) -> str:
    """18,841."""
    return _EMPTY if value is None else f"{value:,.0f}"


def share(fraction: float | None) -> str:
    """A kept fraction in percent with three significant digits."""
    return _EMPTY if fraction is None else f"{100 * fraction:.3g} %"


def duration(seconds: float | None) -> str:
    """1 h 02 min, 12 min 05 s or 8.1 s."""
    if seconds is None:
        return _EMPTY
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def epochs(run: RunData) -> str:
    """`6 search + 6 fine-tune`; for an unfinished run, what its metrics show so far."""
    told = run.result.get("epochs")
    if isinstance(told, dict):
        phases = {name: told[name] for name in (*_PHASES, *told) if name in told}
    elif told is not None:
        return str(told)
    else:
        done = run.metrics.dropna(subset=["epoch"]).groupby("phase", sort=False)["epoch"].nunique()
        phases = done.to_dict()
    return " + ".join(f"{value} {name.replace('finetune', 'fine-tune')}" for name, value in phases.items()) or _EMPTY


def budget_share(run: RunData) -> float | None:
    """The budget asked for, as a fraction of the ReLUs of the unreduced network."""
    budget, total = run.number("budget"), run.number("relu_count_before")
    return None if budget is None or not total else budget / total


def headlines(runs: Sequence[RunData]) -> list[Headline]:
    """Per dataset and network: the baseline, and at each budget the run that is best on the validation split."""
    groups: dict[tuple[str, str], list[RunData]] = {}
    for run in runs:
        if run.number("accuracy") is not None:
            key = str(run.setting("dataset", "unknown dataset")), str(run.setting("arch", "unknown network"))
            groups.setdefault(key, []).append(run)
    return [Headline(f"{network} on {dataset}", _cards(members)) for (dataset, network), members in groups.items()]


def _cards(runs: list[RunData]) -> list[Card]:
    reduced = [run for run in runs if run.reduced]
    cards = _baseline_cards(runs, reduced)
    budgets: dict[float, list[RunData]] = {}
    for run in reduced:
        asked = run.number("budget")
        budgets.setdefault(run.number("relu_count") if asked is None else asked, []).append(run)
    return cards + [_budget_card(budget, budgets[budget]) for budget in sorted(budgets, reverse=True)]


def _baseline_cards(runs: list[RunData], reduced: list[RunData]) -> list[Card]:
    found: dict[float, Card] = {}
    for run in reduced:
        accuracy, total = run.number("baseline_accuracy"), run.number("relu_count_before")
        if accuracy is not None:
            detail = f"all {count(total)} ReLUs" if total else "before the reduction"
            found.setdefault(accuracy, Card("Baseline", percent(accuracy), detail))
    for run in runs:
        if run not in reduced and run.number("accuracy") not in found:
            found[run.number("accuracy")] = Card("Baseline", percent(run.number("accuracy")), f"run {run.name}")
    return list(found.values())


def _budget_card(budget: float, runs: list[RunData]) -> Card:
    selectable = all(run.number("val_accuracy") is not None for run in runs)
    best = max(runs, key=lambda run: run.number("val_accuracy" if selectable else "accuracy"))
    kept = share(best.kept_fraction)
    detail = [str(best.setting("replacement", "")), f"{points(best.change)} points" if best.change is not None else ""]
    if len(runs) > 1:
        detail.append(f"best of {len(runs)} on {'validation' if selectable else 'the test split'}")
    title = f"{kept} of the ReLUs" if best.kept_fraction is not None else "Reduced"
    return Card(f"{title} ({count(budget)})", percent(best.number("accuracy")), ", ".join(filter(None, detail)))


def _status(run: RunData) -> str:
    if not run.finished:
        return "unfinished"
    budget, kept = run.number("budget"), run.number("relu_count")
    return "over budget" if None not in (budget, kept) and kept > budget else "finished"


def _row(run: RunData) -> dict[str, str]:
    correct, total = run.number("correct"), run.number("total")
    budget = run.setting("budget")
    return {
        "Run": run.name,
        "Replacement": str(run.setting("replacement", _EMPTY)),
        "Budget asked": count(budget) if isinstance(budget, (int, float)) else str(budget or _EMPTY),
        "ReLUs kept": count(run.number("relu_count")),
        "Kept": share(run.kept_fraction),
        "Validation accuracy": percent(run.number("val_accuracy")),
        "Test accuracy": percent(run.number("accuracy")),
        "Change (points)": points(run.change),
        "Epochs": epochs(run),
        "Seed": str(run.setting("seed", _EMPTY)),
        "Wall time": duration(run.number("wall_time_s")),
        "Correct": _EMPTY if correct is None or total is None else f"{count(correct)} of {count(total)}",
        "MACs": count(run.number("macs")),
        "Stage": run.stage,
        "Dataset": str(run.setting("dataset", _EMPTY)),
        "Network": str(run.setting("arch", _EMPTY)),
        "Gate": str(run.setting("gate", _EMPTY)),
        "Normalisation": str(run.setting("normalization", _EMPTY)),
        "State": _status(run),
    }


def run_table(runs: Sequence[RunData]) -> pd.DataFrame:
    """One row of display text per run; columns that no run has a value for are left out."""
    table = pd.DataFrame([{key: plain(value) for key, value in _row(run).items()} for run in runs])
    if (table["State"] != "finished").any():
        # Something to know before reading the numbers.
        table.insert(1, "State", table.pop("State"))
    return table.loc[:, [name for name in table.columns if (table[name] != _EMPTY).any()]]


def standard_error(run: RunData) -> float | None:
    """Sampling error (one standard deviation, in points) of a test accuracy on `total` images."""
    accuracy, total = run.number("accuracy"), run.number("total")
    return None if accuracy is None or not total else 100 * math.sqrt(accuracy * (1 - accuracy) / total)
