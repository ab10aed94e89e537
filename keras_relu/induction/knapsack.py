"""The multiple-choice knapsack: one option per group, least damage within a number of comparisons, exactly.

Source: specification `induction` of the design, section 8; dynamic programme over the budget.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from keras_relu.errors import UserError

__all__ = ["choose"]

# Budgets beyond are counted in larger units, costs rounded up, so that the result still keeps within the budget.
_LARGEST_TABLE = 2_000_000


def choose(options: Sequence[Sequence[tuple[int, float]]], budget: int) -> list[int]:
    """Index of the chosen option of every group.

    Args:
        options: per group its (cost, damage) pairs; costs are whole numbers.
        budget: largest sum of costs.

    Returns:
        The choice with the smallest sum of damages, the cheaper one at ties.

    Raises:
        UserError: even the cheapest options together cost more than the budget.
    """
    cheapest = sum(min(cost for cost, _ in group) for group in options)
    if cheapest > budget:
        raise UserError(f"The cheapest choice leaves {cheapest:,} comparisons, the budget is {budget:,}.")
    most = min(budget, sum(max(cost for cost, _ in group) for group in options))
    unit = -(-max(most, 1) // _LARGEST_TABLE)
    found = _solve([[(-(-cost // unit), damage) for cost, damage in group] for group in options], most // unit)
    # Rounding up may make a tight budget look impossible: then nothing but the cheapest fits.
    return found or [min(range(len(group)), key=lambda i: group[i]) for group in options]


def _solve(options: Sequence[Sequence[tuple[int, float]]], budget: int) -> list[int]:
    best = np.zeros(budget + 1)
    tables = []
    for group in options:
        after, pick = np.full(budget + 1, np.inf), np.zeros(budget + 1, np.int16)
        for index, (cost, damage) in enumerate(group):
            if cost > budget:
                continue
            value = best[: budget + 1 - cost] + damage
            better = value < after[cost:]
            after[cost:][better], pick[cost:][better] = value[better], index
        best = after
        tables.append(pick)
    if not np.isfinite(best[budget]):
        return []
    left, chosen = int(np.flatnonzero(best == best[budget])[0]), []
    for group, pick in zip(reversed(options), reversed(tables), strict=True):
        index = int(pick[left])
        chosen.append(index)
        left -= group[index][0]
    return chosen[::-1]
