"""How a stitch starts, which of its entries may move, and the maps that direct matching knows in closed form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from keras_relu.errors import UserError, unknown_key
from keras_relu.similarity import AffineMap, Moments, least_squares, match, orthogonal_map, reduced_rank_map
from keras_relu.similarity.moments import correlations
from keras_relu.stitching.config import INITS, MASKS

__all__ = ["DIRECT_MAPS", "direct_maps", "init_map", "mask_matrix", "needs_moments"]

DIRECT_MAPS = (
    "least_squares",
    "orthogonal",
    "orthogonal_original",
    "identity",
    "ones",
    "semi_match",
    "abs_semi_match",
    "optimal_match",
)


def needs_moments(init: str, mask: str) -> bool:
    """Whether the start of a stitch depends on data."""
    return init == "ps_inv" or "match" in mask


def init_map(
    init: str,
    channels: tuple[int, int],
    *,
    moments: Moments | None = None,
    ridge: float = 0.0,
    rank: int | None = None,
    seed: int = 0,
) -> AffineMap:
    """The map that a stitch starts from.

    * random: W and b uniform in +-1/sqrt(in), PyTorch's default; with a rank two orthogonal factors and b = 0;
    * perm: W a random permutation matrix, b = 0; eye: W = I, b = 0; ones-zeros: W all 1, b = 0;
    * ps_inv: least squares on `moments`; with a rank the best map of that rank.

    Args:
        channels: (in, out).

    Raises:
        UserError: an unknown init, perm or eye for unequal widths, ps_inv without moments.
    """
    if init not in INITS:
        raise unknown_key("init", init, INITS)
    inputs, outputs = channels
    if init in ("perm", "eye") and inputs != outputs:
        raise UserError(f"init {init!r} needs equally many channels on both sides, received {inputs} and {outputs}.")
    generator = np.random.default_rng((seed, 1))
    if init == "random":
        return _random(channels, generator) if rank is None else _orthogonal_factors(channels, rank, generator)
    if init == "ps_inv":
        if moments is None:
            raise UserError("init 'ps_inv' is fitted on data; pass moments.")
        return least_squares(moments, ridge=ridge) if rank is None else reduced_rank_map(moments, rank)
    weight = np.ones((outputs, inputs)) if init == "ones-zeros" else np.eye(outputs, inputs)
    return AffineMap(weight[generator.permutation(outputs)] if init == "perm" else weight, np.zeros(outputs))


def mask_matrix(
    mask: str, channels: tuple[int, int], *, moments: Moments | None = None, seed: int = 0
) -> np.ndarray | None:
    """Which entries of W [out, in] exist, as 0/1; None for all.

    * semi-match: each output keeps its most correlated input, which may serve several; abs-: by absolute correlation;
    * optimal-match, abs-optimal-match: the one-to-one matching with the largest sum of correlations;
    * random-permutation: one input each, all different.

    Raises:
        UserError: an unknown mask, a matching without moments, a one-to-one mask with fewer inputs than outputs.
    """
    if mask not in MASKS:
        raise unknown_key("mask", mask, MASKS)
    if mask == "identity":
        return None
    inputs, outputs = channels
    if ("optimal" in mask or mask == "random-permutation") and inputs < outputs:
        raise UserError(
            f"mask {mask!r} gives every output an input of its own; {inputs} inputs are fewer than {outputs}."
        )
    if mask == "random-permutation":
        return _one_hot(np.random.default_rng((seed, 2)).permutation(inputs)[:outputs], inputs)
    if moments is None:
        raise UserError(f"mask {mask!r} is chosen on data; pass moments.")
    table = correlations(moments)
    matching = "optimal" if "optimal" in mask else "semi"
    return _one_hot(match(np.abs(table) if mask.startswith("abs-") else table, matching), inputs)


def direct_maps(
    moments: Moments, *, ridge: float = 0.0, ranks: Sequence[int] = (), names: Sequence[str] | None = None
) -> dict[str, AffineMap]:
    """Maps from front to end that need no training, by name (`DIRECT_MAPS`, and `rank_R` for each of `ranks`).

    `names` None gives all that the widths of the layers allow; `orthogonal_original` and `rank_R` are uncentred and have
    no bias, as in the original; the matches have weights of 1.

    Raises:
        UserError: an unknown name, one that these widths do not allow, a rank out of range.
    """
    outputs, inputs = moments.xy.T.shape
    possible = [n for n in DIRECT_MAPS if _allowed(n, inputs, outputs)]
    chosen = possible if names is None else list(names)
    for name in chosen:
        if name not in possible:
            raise unknown_key(f"direct map from {inputs} to {outputs} channels", name, possible)
    table = correlations(moments)
    zeros = np.zeros(outputs)
    makers = {
        "least_squares": lambda: least_squares(moments, ridge=ridge),
        "orthogonal": lambda: orthogonal_map(moments),
        "orthogonal_original": lambda: orthogonal_map(moments, centred=False),
        "identity": lambda: AffineMap(np.eye(outputs), zeros),
        "ones": lambda: AffineMap(np.ones((outputs, inputs)), zeros),
        "semi_match": lambda: AffineMap(_one_hot(match(table, "semi"), inputs), zeros),
        "abs_semi_match": lambda: AffineMap(_one_hot(match(np.abs(table), "semi"), inputs), zeros),
        "optimal_match": lambda: AffineMap(_one_hot(match(table, "optimal"), inputs), zeros),
    }
    made = {name: makers[name]() for name in chosen}
    return made | {f"rank_{rank}": reduced_rank_map(moments, rank, bias=False) for rank in ranks}


def _allowed(name: str, inputs: int, outputs: int) -> bool:
    return inputs == outputs if name == "identity" else inputs >= outputs if name == "optimal_match" else True


def _random(channels: tuple[int, int], generator: np.random.Generator) -> AffineMap:
    bound = 1.0 / np.sqrt(channels[0])
    weight = generator.uniform(-bound, bound, channels[::-1])
    return AffineMap(weight, generator.uniform(-bound, bound, channels[1]))


def _orthogonal_factors(channels: tuple[int, int], rank: int, generator: np.random.Generator) -> AffineMap:
    first, second = (np.linalg.qr(generator.normal(size=(width, rank)))[0] for width in channels)
    return AffineMap(second @ first.T, np.zeros(channels[1]))


def _one_hot(columns: np.ndarray, width: int) -> np.ndarray:
    return (columns[:, None] == np.arange(width)).astype(np.float64)
