"""The published reference points of `published.yaml`: what others reported, with its source and standing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml

__all__ = ["STATUSES", "Series", "published_series"]

STATUSES = {
    "reported": "read in the authors' own publication or repository; not re-run here",
    "superseded": "as reported, and marked as out of date by the authors",
    "abstract": "only the abstract could be read",
    "third-party": "tabulated by other people than the authors",
    "disputed": "contradicts another published number for the same system and budget",
    "artefact": "produced with a known bug that leaves a ReLU at every element",
}


@dataclass(frozen=True)
class Series:
    """One published curve: one system, architecture, counting convention and source.

    `points` are (ReLUs kept per image, test top-1 in percent); `relu_count_total` is N of the unreduced network.
    Unknown facts are None.
    """

    id: str
    label: str
    source: str
    dataset: str
    architecture: str | None
    relu_count_total: int | None
    convention: str
    replacement: str | None
    baseline: float | None
    status: str
    draw: bool
    note: str
    points: tuple[tuple[int, float], ...]

    @property
    def legend(self) -> str:
        """System, architecture, N (ReLUs of the unreduced network) and, when the standing is not plain, the status."""
        network = self.architecture or "network not stated"
        count = f" (N {_thousands(self.relu_count_total)})" if self.relu_count_total else ""
        flag = "" if self.status == "reported" else f" [{self.status}]"
        return f"{self.label}, {network}{count}{flag}"


def _thousands(count: int) -> str:
    return f"{count / 1000:.0f}k"


@cache
def _all_series() -> tuple[Series, ...]:
    text = resources.files("keras_relu.report").joinpath("published.yaml").read_text(encoding="utf-8")
    return tuple(_series(entry) for entry in yaml.safe_load(text)["series"])


def _series(entry: dict) -> Series:
    points = tuple((int(count), float(accuracy)) for count, accuracy in entry["points"])
    return Series(**{**entry, "points": points})


def published_series(dataset: str | None = None, *, drawn_only: bool = True) -> list[Series]:
    """The series of one dataset (all datasets for None); with `drawn_only` those that a plot shows by default."""
    return [
        series
        for series in _all_series()
        if (dataset is None or series.dataset == dataset) and (series.draw or not drawn_only)
    ]
