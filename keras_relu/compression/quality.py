"""How well predictors predict: for every site, which activations they call live and which are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from keras_relu.compression.predictors import predicted_sites
from keras_relu.errors import UserError

__all__ = ["QualityMeter", "joined_quality", "predictor_quality"]

# Counts per site: predicted live and live, predicted live only, live only, all.
_COUNTS = 4


def predictor_quality(
    model: keras.Model, split: Any, normalization: Any, *, batch_size: int = 250
) -> list[dict[str, Any]]:
    """The quality of every predictor of `model` on the images of a split.

    An activation is *live* where the exact value behind its batch normalisation is positive, given the masks of the sites
    before it, and *predicted* where the predictor's is.

    Args:
        split: its `batches(batch_size)` yields (uint8 [B, H, W, C], labels).
        normalization: its `apply` makes the model's input.

    Returns:
        Per site, in order: name, elements (per image), images; precision = predicted and live / predicted, recall =
        predicted and live / live (None where nothing is predicted or live); and as fractions of all activations:
        live_fraction, predicted_fraction, false_positive_fraction, false_negative_fraction.

    Raises:
        UserError: the model has no predictor.
    """
    return QualityMeter(model, normalization)(split, batch_size=batch_size)


class QualityMeter:
    """`predictor_quality` for one model and several calls: the graph is traced once."""

    def __init__(self, model: keras.Model, normalization: Any) -> None:
        self.sites = predicted_sites(model)
        if not self.sites:
            raise UserError(f"The model {model.name!r} has no predictors; put them in with `keras-relu predict-relus`.")
        tensors = [tensor for site in self.sites for tensor in (site.gate, site.norm.output)]
        self.probe = keras.Model(model.inputs, tensors)
        self.normalization = normalization
        images = tf.TensorSpec([None, *model.input_shape[1:]], tf.uint8)
        self._measure = tf.function(self._eagerly, input_signature=[images], autograph=False)

    def __call__(self, split: Any, *, batch_size: int = 250) -> list[dict[str, Any]]:
        """See `predictor_quality`."""
        sums, images = np.zeros((len(self.sites), _COUNTS)), 0
        for batch, _ in split.batches(batch_size):
            sums += self._measure(batch).numpy()
            images += len(batch)
        return [_entry(site.name, counts, images) for site, counts in zip(self.sites, sums, strict=True)]

    def _eagerly(self, images: tf.Tensor) -> tf.Tensor:
        """[sites, 4] counts of a batch, float64."""
        values = self.probe(self.normalization.apply(images), training=False)
        rows = []
        for gate, exact in zip(values[::2], values[1::2], strict=True):
            predicted, live = gate > 0, exact > 0
            both = tf.logical_and(predicted, live)
            numbers = [tf.math.count_nonzero(one) for one in (both, predicted, live)]
            hits, called, true = numbers
            rows.append(tf.stack([hits, called - hits, true - hits, tf.size(gate, tf.int64)]))
        return tf.cast(tf.stack(rows), tf.float64)


def joined_quality(entries: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The quality over all activations of all sites, as one entry without name and elements."""
    entries = list(entries)
    weights = [entry["elements"] for entry in entries]
    keys = ("live_fraction", "predicted_fraction", "false_positive_fraction", "false_negative_fraction")
    means = {key: float(np.average([entry[key] for entry in entries], weights=weights)) for key in keys}
    hits = means["predicted_fraction"] - means["false_positive_fraction"]
    return {
        "precision": _ratio(hits, means["predicted_fraction"]),
        "recall": _ratio(hits, means["live_fraction"]),
        **means,
    }


def _entry(name: str, counts: np.ndarray, images: int) -> dict[str, Any]:
    hits, false_positives, false_negatives, elements = (float(count) for count in counts)
    return {
        "name": name,
        "elements": round(elements / images) if images else 0,
        "images": images,
        "precision": _ratio(hits, hits + false_positives),
        "recall": _ratio(hits, hits + false_negatives),
        "live_fraction": _ratio(hits + false_negatives, elements),
        "predicted_fraction": _ratio(hits + false_positives, elements),
        "false_positive_fraction": _ratio(false_positives, elements),
        "false_negative_fraction": _ratio(false_negatives, elements),
    }


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
