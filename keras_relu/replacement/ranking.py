"""Which ReLUs to keep: the best scores of the whole network, exactly as many as the budget allows.

One global ranking decides over all sites together, so that a site that needs its ReLUs keeps them and another gives all of
its own away. Pure NumPy: scores in, masks out.
"""

from __future__ import annotations

import numpy as np

from keras_relu.errors import UserError

__all__ = ["check_budget", "kept_at", "parse_budget", "top_masks"]


def top_masks(
    scores: list[np.ndarray],
    budget: int,
    *,
    elements_per_score: list[int] | None = None,
    previous: list[np.ndarray] | None = None,
    margin: float = 0.0,
) -> list[np.ndarray]:
    """Masks that keep the highest scores of all sites together within `budget` ReLUs.

    Args:
        scores: one array per site, any shape.
        budget: largest number of ReLU elements kept, ties included.
        elements_per_score: ReLU elements that one score of the site decides (1 per element, H*W per channel, H*W*C per layer).
        previous: masks before; kept ones get a head start of `margin` in the ranking, which is hysteresis: a replaced ReLU
            returns only when its score has passed that of a kept one by more than `margin` of all places.
        margin: fraction of the ranking in [0, 1]; 0 = none.

    Returns:
        float32 masks of the shapes of `scores`, 1 = ReLU kept. With one element per score exactly `budget` are kept; with
        larger groups the best groups are taken in order and those that no longer fit are passed over.

    Raises:
        UserError: a score is NaN or infinite, or the budget is not within 0 and the number of elements.
    """
    sizes = elements_per_score or [1] * len(scores)
    flat = np.concatenate([np.asarray(score, np.float64).ravel() for score in scores])
    if not np.isfinite(flat).all():
        raise UserError("A gate score is NaN or infinite: the search diverged; lower the learning rates.")
    cost = np.concatenate([np.full(np.size(score), size, np.int64) for score, size in zip(scores, sizes, strict=True)])
    check_budget(budget, int(cost.sum()))
    if previous is not None and margin:
        places = np.empty(flat.size)
        places[np.argsort(flat, kind="stable")] = np.arange(flat.size) / flat.size
        flat = places + margin * np.concatenate([np.ravel(mask) for mask in previous])
    kept = _fill(flat, cost, budget)
    ends = np.cumsum([np.size(score) for score in scores])[:-1]
    return [part.reshape(np.shape(score)) for part, score in zip(np.split(kept, ends), scores, strict=True)]


def _fill(flat: np.ndarray, cost: np.ndarray, budget: int) -> np.ndarray:
    kept = np.zeros(flat.size, np.float32)
    if budget == 0:
        return kept
    if cost.min() == cost.max():
        count = min(budget // int(cost[0]), flat.size)
        # Stable, so that equal scores are taken in the order of sites and elements on every machine.
        kept[np.argsort(-flat, kind="stable")[:count]] = 1.0
        return kept
    left = budget
    for index in np.argsort(-flat, kind="stable"):
        if cost[index] <= left:
            kept[index] = 1.0
            left -= cost[index]
    return kept


def kept_at(step: int, *, total: int, budget: int, steps: int, power: float = 3.0) -> int:
    """Number of ReLUs kept at `step`: from `total` at 0 down to `budget` at `steps`, fast first and gently at the end.

    kept(s) = budget + (total - budget) * (1 - s/steps)^power, the shape of gradual pruning (Zhu and Gupta, arXiv 1710.01878).
    """
    left = max(0.0, 1.0 - step / steps) if steps > 0 else 0.0
    return round(budget + (total - budget) * left**power)


def check_budget(budget: int, total: int) -> None:
    """UserError unless 0 <= budget <= total."""
    if not 0 <= budget <= total:
        raise UserError(
            f"The budget {budget:,} is out of range: the network has {total:,} ReLUs, so allowed is 0 to {total:,}."
        )


def parse_budget(value: str | float | int, total: int) -> int:
    """A budget given as a number of ReLUs (`18841`, `94k`) or as a fraction of `total` (`0.1`; `1.0` = all).

    Raises:
        UserError: not a number, negative, or larger than `total`.
    """
    text = str(value).strip().lower().replace(",", "").replace("_", "")
    scale = 1000 if text.endswith("k") else 1
    try:
        number = float(text.removesuffix("k")) * scale
    except ValueError:
        raise UserError(
            f"The budget {value!r} is not a number; give ReLUs kept (18841, 94k) or a fraction (0.1)."
        ) from None
    if not np.isfinite(number):
        raise UserError(f"The budget {value!r} is not finite.")
    is_fraction = "." in text and scale == 1 and 0 < number <= 1
    budget = int(number * total) if is_fraction else int(number)
    if not is_fraction and number != budget:
        raise UserError(f"The budget {value!r} is neither a whole number of ReLUs nor a fraction in (0, 1].")
    check_budget(budget, total)
    return budget
