"""Centred kernel alignment (CKA) of two representations: linear and RBF, biased, unbiased and by mini-batches.

Kornblith et al. (2019, arXiv 1905.00414). All are invariant to rotations and to isotropic scaling of either side.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_relu.errors import UserError
from keras_relu.similarity.arrays import DegenerateError, flat, flat_pair
from keras_relu.similarity.grams import GramStatistics, gram_statistics
from keras_relu.similarity.moments import Moments

__all__ = ["MiniBatchCKA", "cka", "cka_of", "minibatch_cka", "rbf_cka", "unbiased_cka"]

_LEAST_UNBIASED = 4


def cka(x: Any, y: Any) -> float:
    """Linear CKA, ||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F) on centred columns, in [0, 1].

    Needs no Gram matrix of all images: features are used when there are fewer of them than images, tiles otherwise.
    With few images the value is high by construction, see `unbiased_cka`.

    Args:
        x, y: [N, ...], the same images row by row; everything behind the first axis is flattened.

    Raises:
        UserError: unequal numbers of images, empty arrays.
        DegenerateError: a dead layer, fewer than two images, values that are not finite.
    """
    x, y = flat(x, "X"), flat(y, "Y")
    if len(x) == len(y) and x.shape[1] + y.shape[1] <= len(x):
        return cka_of(Moments.of(*flat_pair(x, y)))
    return _value(gram_statistics([x, y], dtype=np.float64))


def cka_of(moments: Moments) -> float:
    """`cka` from moments."""
    moments.alive()
    cross = np.sum(np.square(moments.xy))
    return float(min(1.0, cross / np.sqrt(np.sum(np.square(moments.xx)) * np.sum(np.square(moments.yy)))))


def rbf_cka(x: Any, y: Any, *, bandwidth: float = 1.0) -> float:
    """CKA with the kernel exp(-|x - y|^2 / (2 bandwidth^2 m)), m the median squared distance; in [0, 1].

    Args:
        bandwidth: width of the kernel in units of the median distance of two different images.

    Raises:
        UserError, DegenerateError: as `cka`; a bandwidth that is not positive.
    """
    return _value(gram_statistics([flat(x, "X"), flat(y, "Y")], kernel="rbf", bandwidth=bandwidth, dtype=np.float64))


def unbiased_cka(x: Any, y: Any, *, kernel: str = "linear", bandwidth: float = 1.0) -> float:
    """CKA from unbiased estimates of HSIC: about 0 for independent representations however few the images are.

    May lie a little outside [0, 1]. Raises as `rbf_cka`, and DegenerateError for fewer than four images or when they
    are too few to normalise.
    """
    x, y = flat(x, "X"), flat(y, "Y")
    _at_least_four(min(len(x), len(y)))
    return _value(gram_statistics([x, y], kernel=kernel, bandwidth=bandwidth, dtype=np.float64), unbiased=True)


def minibatch_cka(x: Any, y: Any, *, batch_size: int = 256) -> float:
    """Linear CKA from sums of unbiased HSIC over batches; the last batch is left out when it has fewer than four images.

    The mean over batches does not depend on the batch size (Nguyen et al., 2021, arXiv 2010.15327, section 3).

    Raises:
        UserError, DegenerateError: as `unbiased_cka`; a batch size below four.
    """
    x, y = flat_pair(x, y, least=_LEAST_UNBIASED)
    if batch_size < _LEAST_UNBIASED:
        raise UserError(f"batch_size is {batch_size}; unbiased HSIC needs at least {_LEAST_UNBIASED} images per batch.")
    total = MiniBatchCKA()
    for start in range(0, len(x) - _LEAST_UNBIASED + 1, batch_size):
        total.update(x[start : start + batch_size], y[start : start + batch_size])
    return total.value()


class MiniBatchCKA:
    """`minibatch_cka` of a stream: memory does not grow with the number of batches.

    Attributes:
        sums: [3], sums over batches of the unbiased HSIC of (x, x), (x, y) and (y, y).
    """

    def __init__(self) -> None:
        self.sums = np.zeros(3)

    def update(self, x: np.ndarray, y: np.ndarray) -> None:
        """Add one batch, [n, ...] each.

        Raises:
            DegenerateError: fewer than four images.
        """
        _at_least_four(min(len(x), len(y)))
        dtype = np.result_type(x, y, np.float32)
        hsic = gram_statistics([flat(x, "X"), flat(y, "Y")], dtype=dtype).hsic(unbiased=True)
        self.sums += hsic[[0, 0, 1], [0, 1, 1]]

    def value(self) -> float:
        """CKA of all batches so far.

        Raises:
            DegenerateError: no batches, a dead layer, or too few images to normalise.
        """
        if not (self.sums[0] > 0 and self.sums[2] > 0):
            raise DegenerateError(
                "The unbiased self-similarity of one side is not positive: it is a dead layer, or the batches hold too "
                "few images to normalise by it."
            )
        return float(self.sums[1] / np.sqrt(self.sums[0] * self.sums[2]))


def _value(statistics: GramStatistics, *, unbiased: bool = False) -> float:
    for side, reason in statistics.degenerate(unbiased=unbiased).items():
        raise DegenerateError(f"CKA is not defined for {'XY'[side]}: {reason}.")
    return float(statistics.cka(unbiased=unbiased)[0, 1])


def _at_least_four(images: int) -> None:
    if images < _LEAST_UNBIASED:
        raise DegenerateError(
            f"{images} image(s) are too few for an unbiased estimate; at least {_LEAST_UNBIASED} are needed."
        )
