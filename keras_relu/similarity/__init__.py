"""How similar are two representations? Arrays in, floats out; no TensorFlow.

X and Y are representations of the same images, row by row: [N, D], or feature maps [N, H, W, C].

>>> from keras_relu import similarity
>>> similarity.cka(x, y)
0.8944
>>> similarity.MEASURES["svcca"](x, y)

A measure that is not defined on its input (a dead layer, too few images) raises `DegenerateError` with the reason; none
returns NaN. Streams and many layers at once: `Moments`, `MiniBatchCKA` and `gram_statistics`.

Source: specification `stitching` of the design, section 5.
"""

from __future__ import annotations

from keras_relu.similarity.arrays import DegenerateError
from keras_relu.similarity.canonical import (
    canonical_correlations,
    cca,
    l2,
    linear_regression,
    procrustes,
    pwcca,
    svcca,
)
from keras_relu.similarity.distances import mutual_nearest_neighbours, rsa
from keras_relu.similarity.grams import GramStatistics, gram_statistics
from keras_relu.similarity.kernels import MiniBatchCKA, cka, minibatch_cka, rbf_cka, unbiased_cka
from keras_relu.similarity.maps import AffineMap, least_squares, orthogonal_map, reduced_rank_map
from keras_relu.similarity.matching import correlation_match, correlation_matrix, match
from keras_relu.similarity.measures import MEASURES, Measure, get_measure
from keras_relu.similarity.moments import Moments
from keras_relu.similarity.original import cca_original, lr_original, r2_original, sq_sum_original

__all__ = [
    "MEASURES",
    "AffineMap",
    "DegenerateError",
    "GramStatistics",
    "Measure",
    "MiniBatchCKA",
    "Moments",
    "canonical_correlations",
    "cca",
    "cca_original",
    "cka",
    "correlation_match",
    "correlation_matrix",
    "get_measure",
    "gram_statistics",
    "l2",
    "least_squares",
    "linear_regression",
    "lr_original",
    "match",
    "minibatch_cka",
    "mutual_nearest_neighbours",
    "orthogonal_map",
    "procrustes",
    "pwcca",
    "r2_original",
    "rbf_cka",
    "reduced_rank_map",
    "rsa",
    "sq_sum_original",
    "svcca",
    "unbiased_cka",
]
