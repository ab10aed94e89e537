"""What an activation site costs per image, in the words that counting and cost use."""

from __future__ import annotations

import math

__all__ = ["gated_facts", "runtime_facts"]


def gated_facts(shape: tuple[int, ...], relu_count: int, degree: int | None, max_value: float | None) -> dict[str, int]:
    """Facts of a site of `shape` [..., C] that keeps `relu_count` ReLUs and replaces the others.

    `multiplications` and `multiplicative_depth` count products of two secret values (x times x); a product with a known
    coefficient is local in secret sharing and is not counted.

    Args:
        shape: of one input, without the batch.
        relu_count: kept elements.
        degree: of the polynomial at the other elements, None for the identity.
        max_value: where the kept ReLUs are cut off, which is a second comparison each; None = nowhere.

    Returns:
        relu_count, comparison_count, polynomial_count, multiplications, multiplicative_depth.
    """
    polynomials = 0 if degree is None else math.prod(shape) - relu_count
    squares = degree is not None and degree > 1 and polynomials > 0
    return {
        "relu_count": relu_count,
        "comparison_count": relu_count * (1 if max_value is None else 2),
        "polynomial_count": polynomials,
        "multiplications": polynomials if squares else 0,
        "multiplicative_depth": int(squares),
    }


def runtime_facts(compared: int, polynomials: int, degree: int | None, max_value: float | None) -> dict[str, int]:
    """What a tensor runtime executes at a site, per image, whatever the mask says about it.

    Args:
        compared: elements that go through the ReLU.
        polynomials: elements at which the replacement is computed (by Horner's rule, with public coefficients).
        degree: of the replacement, None for the identity, which is not computed.
        max_value: where ReLUs are cut off, which is a second comparison after the first; None = nowhere.

    Returns:
        comparison_count, comparison_levels (one after the other), constant_products (with a public number), products (of
        two secret values) and multiplicative_depth.
    """
    levels = 1 if max_value is None else 2
    power = degree or 0
    return {
        "comparison_count": compared * levels,
        "comparison_levels": levels if compared else 0,
        "constant_products": polynomials if power else 0,
        "products": polynomials if power > 1 else 0,
        "multiplicative_depth": int(power > 1 and polynomials > 0),
    }
