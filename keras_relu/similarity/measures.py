"""All measures by name, with what each one needs, so that a comparison can gather it in one pass over the images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from keras_relu.errors import unknown_key
from keras_relu.similarity import canonical, distances, kernels, matching, original
from keras_relu.similarity.moments import Moments

__all__ = ["MEASURES", "Measure", "get_measure"]


@dataclass(frozen=True)
class Measure:
    """One measure.

    Attributes:
        name: key of MEASURES.
        needs: "grams" (inner products of all pairs of images), "moments" (second moments of features), "batches"
            (one pass, batch by batch), "rows" (both representations whole).
        samples: "images": whole maps, one row per image; "pixels": channels, one row per pixel, which needs equal maps.
        of: from two arrays [N, ...] to the value.
        from_moments: from `Moments` to the value, where moments are enough.
        equal_features: whether both sides need equally many features.
        description: one line for people.
        best: the value of equal representations.
    """

    name: str
    needs: str
    samples: str
    of: Callable[[Any, Any], float]
    description: str
    from_moments: Callable[[Moments], float] | None = None
    equal_features: bool = False
    best: float = 1.0

    def __call__(self, x: Any, y: Any) -> float:
        """The value of two representations [N, ...] of the same images."""
        return self.of(x, y)


def _moments(name: str, of: Callable[..., float], function: Callable[[Moments], float], text: str) -> list[Measure]:
    """The same measure on whole maps and on channels."""
    return [
        Measure(name, "moments", "images", partial(of, samples="images"), f"{text}, of whole maps", function),
        Measure(f"{name}_pixels", "moments", "pixels", partial(of, samples="pixels"), f"{text}, of channels", function),
    ]


def _l2_of(moments: Moments) -> float:
    return moments.mean_square_difference()


def _corr(name: str, text: str, **options: Any) -> Measure:
    of = partial(matching.correlation_match, **options)
    function = partial(matching.correlation_match_of, **options)
    return Measure(name, "moments", "pixels", of, text, function)


_ALL = (
    Measure("cka", "grams", "images", kernels.cka, "linear CKA"),
    Measure("cka_rbf", "grams", "images", kernels.rbf_cka, "CKA with a Gaussian kernel of median width"),
    Measure("cka_unbiased", "grams", "images", kernels.unbiased_cka, "linear CKA, unbiased: 0 means unrelated"),
    Measure("cka_minibatch", "batches", "images", kernels.minibatch_cka, "unbiased linear CKA, summed over batches"),
    *_moments("cca", canonical.cca, canonical.cca_of, "mean squared canonical correlation"),
    *_moments("svcca", canonical.svcca, canonical.svcca_of, "canonical correlation of 99 % of the variance"),
    *_moments("pwcca", canonical.pwcca, canonical.pwcca_of, "projection-weighted canonical correlation"),
    *_moments("lr", canonical.linear_regression, canonical.linear_regression_of, "R2 of an affine map from A to B"),
    Measure(
        "ls",
        "moments",
        "pixels",
        partial(canonical.linear_regression, samples="pixels"),
        "R2 of the least-squares stitch from A to B",
        canonical.linear_regression_of,
    ),
    Measure(
        "procrustes",
        "moments",
        "pixels",
        partial(canonical.procrustes, samples="pixels"),
        "fit of the best rotation of channels",
        canonical.procrustes_of,
    ),
    Measure(
        "procrustes_images",
        "moments",
        "images",
        partial(canonical.procrustes, samples="images"),
        "fit of the best rotation of whole maps",
        canonical.procrustes_of,
    ),
    _corr("corr", "mean correlation of each channel of B with its best channel of A", matching="semi"),
    _corr("corr_optimal", "mean correlation under the best one-to-one matching of channels", matching="optimal"),
    Measure("l2", "moments", "pixels", canonical.l2, "mean squared difference", _l2_of, equal_features=True, best=0.0),
    Measure("rsa", "rows", "images", distances.rsa, "rank correlation of the distances between images"),
    Measure("mnn", "rows", "images", distances.mutual_nearest_neighbours, "share of common 10 nearest neighbours"),
    Measure("cca_original", "rows", "images", original.cca_original, "the original's uncentred CCA"),
    Measure("lr_original", "rows", "images", original.lr_original, "the original's uncentred regression of A on B"),
    Measure("r2_original", "rows", "images", original.r2_original, "the original's R2 of B taken for A"),
)

MEASURES: dict[str, Measure] = {measure.name: measure for measure in _ALL if measure.name != "lr_pixels"}


def get_measure(name: str) -> Measure:
    """The measure called `name`.

    Raises:
        UserError: there is none, with the nearest name.
    """
    if name not in MEASURES:
        raise unknown_key("measure", name, MEASURES)
    return MEASURES[name]
