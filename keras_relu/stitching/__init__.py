"""Stitching: the front of one network, a trained affine layer, the back of another; and two networks compared layer by layer.

>>> pair = make_pair(a, b, "bn3", "bn3")
>>> result = stitch(a, b, "bn3", "bn3", dataset, {"init": "ps_inv", "target": "soft_2"}).result
>>> compare(a, b, dataset, layers=["bn*"], measures=["cka", "ls"])

Source: specification `stitching` of the design; Csiszarik et al., "Similarity and Matching of Neural Network
Representations" (NeurIPS 2021, arXiv 2110.14633).
"""

from __future__ import annotations

from keras_relu.stitching.closed import Matching, match_layers
from keras_relu.stitching.compare import compare
from keras_relu.stitching.comparison import Comparison, Parting, Table
from keras_relu.stitching.config import DirectConfig, StitchConfig
from keras_relu.stitching.fit_split import fit_moments
from keras_relu.stitching.maps import direct_maps, init_map, mask_matrix
from keras_relu.stitching.pair import Joint, Pair, make_pair, weights_hash
from keras_relu.stitching.readings import Candidate, Readings, read
from keras_relu.stitching.recalibrate import recalibrated
from keras_relu.stitching.run import Stitching, stitch

__all__ = [
    "Candidate",
    "Comparison",
    "DirectConfig",
    "Joint",
    "Matching",
    "Pair",
    "Parting",
    "Readings",
    "StitchConfig",
    "Stitching",
    "Table",
    "compare",
    "direct_maps",
    "fit_moments",
    "init_map",
    "make_pair",
    "mask_matrix",
    "match_layers",
    "read",
    "recalibrated",
    "stitch",
    "weights_hash",
]
