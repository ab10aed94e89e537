"""Direct matching in closed form, layer by layer: what maps that need no training are worth, by the task and by the
activations. Fitting takes one pass over the images of a split, judging all maps of a layer one pass over the test images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tf_keras as keras

from keras_relu import splitting
from keras_relu.data import Dataset
from keras_relu.errors import UserError
from keras_relu.stitching import maps
from keras_relu.stitching.fit_split import fit_moments
from keras_relu.stitching.layers import choose_layers
from keras_relu.stitching.pair import Joint, make_pair
from keras_relu.stitching.readings import Candidate, read

__all__ = ["Matching", "match_layers"]


@dataclass(frozen=True)
class Matching:
    """Two networks matched directly.

    Attributes:
        networks: the readings of "front" and "end" (see `readings.read`).
        layers: one entry per pair of layers: front_layer, end_layer, shapes, l2 and cka before any map, images fitted on.
        rows: one entry per pair of layers and map: front_layer, end_layer, map, its reading, hits of the end network and
            the stitched one, norm of W and of b.
    """

    networks: dict[str, dict[str, Any]]
    layers: list[dict[str, Any]]
    rows: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"networks": self.networks, "layers": self.layers, "rows": self.rows}


def match_layers(
    front: keras.Model,
    end: keras.Model,
    dataset: Dataset,
    *,
    layers: Sequence[str] = ("cuts",),
    names: Sequence[str] | None = ("least_squares", "orthogonal"),
    ranks: Sequence[int] = (),
    ridge: float = 0.0,
    fit_split: str = "train",
    fit_images: int | None = None,
    cka_images: int | None = 2000,
    seed: int = 0,
    on_layer: Callable[[str], None] | None = None,
) -> Matching:
    """Fit maps in closed form at every pair of layers, and judge each behind the end network on the test images.

    Args:
        layers: patterns as in `choose_layers`; pairs of layers of one name, or `x:y`.
        names: of `maps.DIRECT_MAPS`; None = all that the widths of a layer allow.
        ranks: also the least-squares map of each rank, without bias.
        ridge: of the least squares, in units of the mean variance.
        fit_split, fit_images: see `fit_split.fit_batches`.
        cka_images: test images for the CKA of the readings; None = all, 0 = no CKA.
        on_layer: called with the name of each layer before its turn.

    Raises:
        UserError: layers that are unknown, no valid cut or of unequal size; unknown maps; a rank out of range.
        DegenerateError: a dead layer.
    """
    if names is not None and not names and not ranks:
        raise UserError("No maps were asked for.")
    chosen = choose_layers(splitting.unpack(front), splitting.unpack(end), layers)
    if not chosen.matched:
        raise UserError(f"No layer of {front.name!r} and {end.name!r} has the same name; give pairs x:y.")
    made = Matching({}, [], [])
    for i, j in chosen.matched:
        if on_layer:
            on_layer(chosen.a[i])
        joint = Joint(make_pair(front, end, chosen.a[i], chosen.b[j]))
        moments = fit_moments(joint, dataset, fit_split, images=fit_images, seed=seed)
        candidates = maps.direct_maps(moments, ridge=ridge, ranks=ranks, names=names)
        readings = read(
            joint,
            {name: Candidate(affine) for name, affine in candidates.items()},
            dataset.test,
            dataset.normalization,
            cka_images=cka_images,
        )
        where = {"front_layer": chosen.a[i], "end_layer": chosen.b[j]}
        made.networks.update(readings.networks)
        shapes = {"front_shape": list(joint.pair.front_shape), "end_shape": list(joint.pair.end_shape)}
        made.layers.append({**where, **shapes, **readings.layer, "samples": moments.count})
        for name, affine in candidates.items():
            norms = {
                "weight_norm": float(np.linalg.norm(affine.weight)),
                "bias_norm": float(np.linalg.norm(affine.bias)),
            }
            hits = readings.hits("end", name)
            made.rows.append({**where, "map": name, **readings.maps[name], **hits, **norms})
    return made
