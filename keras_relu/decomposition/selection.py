"""Which filters belong to a class: statistics of pooled responses, and the rules that rank filters by them.

Arrays in, arrays out; nothing here knows Keras. Ties always go to the filter with the smaller number.

A number of filters k may be a fraction in (0, 1) instead, read as cumulative mass: a class then gets as many filters as
it takes to hold that share, and the lists of the classes differ in length.

Source: Badola et al., "Decomposing the Deep" (arXiv 2112.07719); specification `decomposition`, sections 4 and 5.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from keras_relu.errors import UserError, unknown_key

__all__ = [
    "RULES",
    "ResponseStatistics",
    "check_rule",
    "checked_sizes",
    "frequency_tail",
    "l1_mass",
    "leading_count",
    "select",
    "share_count",
    "top_scores",
]

RULES = {
    "frequency": "the k filters that are most often among an image's k strongest (the published rule)",
    "frequency-tail": "the published rule's own reading of a fraction; see `frequency_tail`",
    "response-weight": "the k largest products of the class's mean response and the last layer's weight",
    "weight": "the k largest weights of the class in the last layer; needs no images",
}

# Counters of every rank of every filter for every class; 2^27 of them are half a gigabyte.
_MOST_RANK_COUNTERS = 2**27


def checked_sizes(sizes: Iterable[float], filters: int | None = None) -> list[int | float]:
    """Numbers of filters per class: whole numbers from 1 to `filters`, or fractions in (0, 1), each once, sorted.

    Raises:
        UserError: none given, or one that is neither.
    """
    checked: set[int | float] = set()
    for size in sizes:
        whole = float(size).is_integer()
        if not (0 < size < 1 or (whole and size >= 1 and (filters is None or size <= filters))):
            upper = "the number of filters" if filters is None else str(filters)
            raise UserError(f"top_k is {size}; allowed is a whole number from 1 to {upper}, or a fraction in (0, 1).")
        checked.add(int(size) if whole else float(size))
    if not checked:
        raise UserError("At least one top_k is needed, received none.")
    return sorted(checked)


def check_rule(rule: str, sizes: Iterable[float] = ()) -> None:
    """Refuse a rule that is unknown, or that does not rank for one of these `checked_sizes`.

    Raises:
        UserError: as said.
    """
    if rule not in RULES:
        raise unknown_key("rule", rule, RULES)
    whole = [size for size in sizes if isinstance(size, int)]
    if rule == "frequency-tail" and whole:
        raise UserError(f"The rule 'frequency-tail' is for fractions in (0, 1), received {whole[0]}; use 'frequency'.")


def l1_mass(responses: np.ndarray) -> np.ndarray:
    """|r| / sum |r| for each image, [N, D] -> [N, D]; zeros where an image has no response at all."""
    sizes = np.abs(responses)
    total = sizes.sum(axis=-1, keepdims=True)
    return np.divide(sizes, total, out=np.zeros_like(sizes), where=total > 0)


def leading_count(sorted_mass: np.ndarray, fraction: float) -> np.ndarray:
    """How many leading entries have a cumulative mass below `fraction`: [N, D] sorted, largest first -> [N]."""
    return (np.cumsum(sorted_mass, axis=-1, dtype=np.float64) < fraction).sum(axis=-1)


def top_scores(scores: np.ndarray, size: int) -> np.ndarray:
    """The `size` largest of each row, largest first, ties to the smaller index: [C, D] -> [C, size]."""
    return np.argsort(-np.asarray(scores, np.float64), axis=-1, kind="stable")[..., :size]


def share_count(scores: np.ndarray, fraction: float) -> np.ndarray:
    """The fewest best filters that hold `fraction` of each class's positive score: [C, D] -> [C], at least 1."""
    positive = np.sort(np.maximum(np.asarray(scores, np.float64), 0), axis=-1)[:, ::-1]
    return np.maximum(np.minimum(leading_count(l1_mass(positive), fraction) + 1, (positive > 0).sum(axis=-1)), 1)


def frequency_tail(counts: np.ndarray, fraction: float) -> list[int]:
    """The filters that the published code keeps for a fraction, most frequent first.

    Its histogram is normalised to a sum of 1 and accumulated from the rarest filter upwards; the filters at which the
    sum exceeds `fraction` stay. A larger fraction therefore keeps fewer filters of the same histogram.

    Args:
        counts: [D], how often each filter is among an image's strongest ones, for one class.
    """
    order = np.argsort(-counts, kind="stable")[::-1]
    kept = np.cumsum(counts[order] / max(counts.sum(), 1)) > fraction
    return order[kept][::-1].tolist()


class ResponseStatistics:
    """Everything the rules need to know about the responses, gathered in one pass over batches.

    Args:
        classes: C.
        filters: D.
        sizes: whole numbers k to count the k strongest for, and fractions in (0, 1).

    Attributes:
        images: [C], images seen per class.
        sums: [C, D], summed responses.
        counts: k -> [C, D], in how many images of the class the filter is among the k strongest.
        masses: k -> [C], summed L1 mass that an image's own k strongest hold.

    Raises:
        UserError: sizes out of range, or fractions of so many filters and classes that ranks cannot be counted.
    """

    def __init__(self, classes: int, filters: int, sizes: Sequence[float] = ()) -> None:
        sizes = checked_sizes(sizes, filters) if sizes else []
        self.classes, self.filters = classes, filters
        self.whole = [size for size in sizes if isinstance(size, int)]
        self.fractions = [size for size in sizes if isinstance(size, float)]
        if self.fractions and classes * filters**2 > _MOST_RANK_COUNTERS:
            raise UserError(
                f"Fractions need {classes} x {filters} x {filters} counters, more than {_MOST_RANK_COUNTERS:,}; give whole "
                "numbers as top_k, or choose the rule 'weight'."
            )
        self.images = np.zeros(classes, np.int64)
        self.sums = np.zeros((classes, filters))
        self.counts = {k: np.zeros((classes, filters), np.int64) for k in self.whole}
        self.masses = {k: np.zeros(classes) for k in self.whole}
        self._leading = {fraction: np.zeros(classes, np.int64) for fraction in self.fractions}
        self._ranks = np.zeros((classes, filters, filters if self.fractions else 0), np.int32)

    @property
    def means(self) -> np.ndarray:
        """Mean responses [C, D]; zeros for a class without images."""
        return self.sums / np.maximum(self.images, 1)[:, None]

    def update(self, responses: np.ndarray, labels: np.ndarray) -> None:
        """Count one batch of responses [B, D] with labels [B].

        Raises:
            UserError: other sizes, a label out of range, or a response that is not finite.
        """
        self._check(responses, labels)
        self.images += np.bincount(labels, minlength=self.classes)
        np.add.at(self.sums, labels, responses)
        if not self.whole and not self.fractions:
            return
        order = np.argsort(-responses, axis=-1, kind="stable")
        mass = np.take_along_axis(l1_mass(responses), order, axis=-1)
        owners = np.broadcast_to(labels[:, None], order.shape)
        for k in self.whole:
            np.add.at(self.counts[k], (owners[:, :k], order[:, :k]), 1)
            np.add.at(self.masses[k], labels, mass[:, :k].sum(axis=-1))
        for fraction in self.fractions:
            np.add.at(self._leading[fraction], labels, leading_count(mass, fraction))
        if self.fractions:
            np.add.at(self._ranks, (owners, order, np.broadcast_to(np.arange(self.filters), order.shape)), 1)

    def _check(self, responses: np.ndarray, labels: np.ndarray) -> None:
        if responses.ndim != 2 or responses.shape[1] != self.filters or labels.shape != responses.shape[:1]:
            raise UserError(
                f"Responses {list(responses.shape)} with labels {list(labels.shape)}; allowed is [images, {self.filters}] "
                "with one label each."
            )
        if labels.size and not (labels.min() >= 0 and labels.max() < self.classes):
            raise UserError(f"Labels go from {labels.min()} to {labels.max()}; allowed is 0 to {self.classes - 1}.")
        if not np.isfinite(responses).all():
            raise UserError("A response is NaN or infinite; its network diverged, or its input is scaled otherwise.")

    def mean_mass(self, k: int) -> float:
        """Mean share of the L1 mass that an image's own k strongest filters hold."""
        return float(self.masses[k].sum() / max(int(self.images.sum()), 1))

    def sizes_for(self, fraction: float) -> np.ndarray:
        """K of each class, [C]: integer part of the mean number of leading filters with a mass below `fraction`; >= 1."""
        return np.maximum(self._leading[fraction] // np.maximum(self.images, 1), 1)

    def frequency(self, size: int | float) -> np.ndarray:
        """In how many images of each class each filter is among the strongest: [C, D]; K of the class for a fraction."""
        if isinstance(size, int):
            return self.counts[size]
        return np.stack([ranks[:, :k].sum(axis=-1) for ranks, k in zip(self._ranks, self.sizes_for(size), strict=True)])


def select(
    rule: str, size: int | float, statistics: ResponseStatistics | None = None, kernel: np.ndarray | None = None
) -> tuple[list[list[int]], np.ndarray]:
    """The filters of each class, best first, and the scores [C, D] they were ranked by.

    Args:
        rule: key of `RULES`.
        size: k, or a fraction in (0, 1).
        statistics: of the responses; not needed for `weight`.
        kernel: weights [D, C] of the last layer; not needed for the frequency rules.

    Raises:
        UserError: an unknown rule, something it needs is missing, or `frequency-tail` with a whole number.
    """
    check_rule(rule, [size])
    scores = _scores(rule, size, statistics, kernel)
    if rule == "frequency-tail":
        return [frequency_tail(row, size) for row in scores], scores
    if isinstance(size, int):
        lengths = np.full(len(scores), size)
    elif rule == "frequency" and statistics is not None:
        lengths = statistics.sizes_for(size)
    else:
        lengths = share_count(scores, size)
    order = top_scores(scores, scores.shape[1])
    return [row[:length].tolist() for row, length in zip(order, lengths, strict=True)], scores


def _scores(
    rule: str, size: int | float, statistics: ResponseStatistics | None, kernel: np.ndarray | None
) -> np.ndarray:
    if rule == "weight":
        return _weights(rule, kernel)
    if statistics is None:
        raise UserError(f"The rule {rule!r} needs images; give a data set, or choose 'weight'.")
    if rule == "response-weight":
        return statistics.means * _weights(rule, kernel)
    return statistics.frequency(size)


def _weights(rule: str, kernel: np.ndarray | None) -> np.ndarray:
    if kernel is None:
        raise UserError(f"The rule {rule!r} needs the weights of the last layer, so it works at no other layer.")
    if not np.isfinite(kernel).all():
        raise UserError("A weight of the last layer is NaN or infinite; its network diverged.")
    return np.asarray(kernel).T
