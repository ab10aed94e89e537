"""What a map between two networks is worth: by the task (accuracy of the stitched network) and by the activations.

Both are read in one pass over the images, for any number of maps, since either alone can mislead: a stitch that is trained
for the task finds its way around a mismatch that least squares would show, and the other way round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from keras_relu import surgery
from keras_relu.data import Normalization, Split
from keras_relu.similarity import AffineMap, gram_statistics
from keras_relu.stitching.pair import Joint
from keras_relu.stitching.spill import Spill, spilled

__all__ = ["Candidate", "Readings", "hits", "read"]


@dataclass(frozen=True)
class Candidate:
    """A map from front to end, and the back network to judge it with (None: the pair's own)."""

    affine: AffineMap
    back: keras.Model | None = None


@dataclass(frozen=True)
class Readings:
    """All numbers of one pass.

    Attributes:
        networks: "front" and "end": accuracy, correct, total, loss, and for the front its agreement with the end.
        maps: the same for each candidate, with l2 and CKA of its activations to the end network's.
        layer: l2 and CKA of the two untouched representations.
        predictions: the predicted class of each image, by network or candidate.
        labels: the true classes.
    """

    networks: dict[str, dict[str, Any]]
    maps: dict[str, dict[str, Any]]
    layer: dict[str, Any]
    predictions: dict[str, np.ndarray]
    labels: np.ndarray

    def hits(self, first: str, second: str) -> dict[str, int]:
        """How often two networks are right together and apart, see `hits`."""
        return hits(self.predictions[first], self.predictions[second], self.labels)


def hits(first: np.ndarray, second: np.ndarray, labels: np.ndarray) -> dict[str, int]:
    """Images on which (first, second) are right or wrong: rr, rw, wr, ww, in that order of letters."""
    a, b = first == labels, second == labels
    counts = {"rr": a & b, "rw": a & ~b, "wr": ~a & b, "ww": ~a & ~b}
    return {name: int(np.sum(both)) for name, both in counts.items()}


def read(
    joint: Joint,
    candidates: Mapping[str, Candidate],
    split: Split,
    normalization: Normalization,
    *,
    cka_images: int | None = None,
    batch_size: int = 250,
) -> Readings:
    """Judge all candidates on the images of `split`.

    Every reading has correct, total, accuracy, loss (cross entropy with the labels) and, against the end network:
    crossentropy (mean over images *and* classes, as in the original), same_class (share of equal predictions),
    relative_accuracy, logit_l2 and logit_cka. A candidate also has l2, cka and cka_after_relu, which compare T(A1) with A2,
    before and behind the first ReLU of the back network (None where there is none).

    Args:
        candidates: by name; the names front, end, a1 and a2 are taken.
        cka_images: compute CKA on the first so many images only; None = all, 0 = none.
    """
    images = split.size if cka_images is None else min(cka_images, split.size)
    pass_ = _Pass(joint, candidates, normalization, images)
    with spilled(pass_.widths(), images) as rows:
        for pictures, labels in split.batches(batch_size):
            pass_.batch(pictures, labels, rows)
        return pass_.result(_cka_of(rows) if images > 1 else lambda a, b: None)


def _cka_of(rows: Mapping[str, Spill]) -> Callable[[str, str], float | None]:
    """CKA of two of the representations by name; None where it is not defined."""
    names = list(rows)
    statistics = gram_statistics([rows[name] for name in names])
    similarity = statistics.cka()
    dead = {names[i] for i in statistics.degenerate()}

    def cka(a: str, b: str) -> float | None:
        if a not in names or b not in names or dead & {a, b}:
            return None
        return float(similarity[names.index(a), names.index(b)])

    return cka


class _Sums:
    """Running sums of one network or candidate against the end network."""

    def __init__(self) -> None:
        self.values = np.zeros(4)
        self.classes: list[np.ndarray] = []


class _Pass:
    def __init__(
        self, joint: Joint, candidates: Mapping[str, Candidate], normalization: Normalization, images: int
    ) -> None:
        self.joint, self.pair, self.normalization = joint, joint.pair, normalization
        self.candidates = dict(candidates)
        self.sums = {name: _Sums() for name in ("front", "end", *self.candidates)}
        self.labels: list[np.ndarray] = []
        self.images, self.seen = images, 0
        self.difference = 0.0
        self.same_shape = self.pair.front_shape == self.pair.end_shape
        sites = surgery.find_sites(self.pair.back)
        self.relu = _until(self.pair.back, sites[0].name) if sites and _has(self.pair.back, sites[0].name) else None
        images = tf.TensorSpec([None, *self.pair.front.input_shape[1:]], tf.uint8)
        self.networks = tf.function(self._networks, input_signature=[images], autograph=False)
        self.judge = {
            id(back): tf.function(self._judge(back), input_signature=self._signature(), autograph=False)
            for back in {id(c.back): c.back or self.pair.back for c in self.candidates.values()}.values()
        }

    def widths(self) -> dict[str, int]:
        """Features of everything that CKA compares."""
        end, classes = int(np.prod(self.pair.end_shape)), self.pair.back.output_shape[-1]
        behind = {} if self.relu is None else {"r:end": int(np.prod(self.relu.output_shape[1:]))}
        widths = {"t:front": int(np.prod(self.pair.front_shape)), "t:end": end, "z:front": classes, "z:end": classes}
        for name in self.candidates:
            widths |= {f"t:{name}": end, f"z:{name}": classes}
            widths |= {f"r:{name}": behind["r:end"]} if behind else {}
        return widths | behind

    def batch(self, pictures: tf.Tensor, labels: tf.Tensor, rows: Mapping[str, Spill]) -> None:
        a1, a2, z1, z2, r2 = self.networks(pictures)
        self._keep(rows, {"t:front": a1, "t:end": a2, "z:front": z1, "z:end": z2, "r:end": r2})
        self.labels.append(labels.numpy())
        for name, z in (("front", z1), ("end", z2)):
            self._add(name, _agreement(z, z2, labels), z)
        if self.same_shape:
            self.difference += float(tf.reduce_sum(tf.reduce_mean(tf.square(a1 - a2), axis=range(1, a1.shape.rank))))
        for name, candidate in self.candidates.items():
            kernel = tf.constant(candidate.affine.weight.T, tf.float32)
            bias = tf.constant(candidate.affine.bias, tf.float32)
            judge = self.judge[id(candidate.back or self.pair.back)]
            t, r, z, sums = judge(a1, a2, z2, labels, kernel, bias)
            self._add(name, sums, z)
            self._keep(rows, {f"t:{name}": t, f"z:{name}": z, f"r:{name}": r})
        self.seen += len(labels)

    def _networks(self, pictures: tf.Tensor) -> tuple[tf.Tensor, ...]:
        pair = self.pair
        x = self.normalization.apply(pictures)
        a1, a2 = pair.front(x, training=False), pair.end_start(x, training=False)
        z1, z2 = pair.front_rest(a1, training=False), pair.back(a2, training=False)
        return a1, a2, z1, z2, z2 if self.relu is None else self.relu(a2, training=False)

    def _signature(self) -> list[tf.TensorSpec]:
        inputs, outputs = self.joint.channels
        shapes = ([None, *self.pair.front_shape], [None, *self.pair.end_shape], [None, self.pair.back.output_shape[-1]])
        a1, a2, z2 = (tf.TensorSpec(shape, tf.float32) for shape in shapes)
        return [a1, a2, z2, tf.TensorSpec([None], tf.int32), tf.TensorSpec([inputs, outputs]), tf.TensorSpec([outputs])]

    def _judge(self, back: keras.Model) -> Callable[..., tuple[tf.Tensor, ...]]:
        def judge(a1: Any, a2: Any, z2: Any, labels: Any, kernel: Any, bias: Any) -> tuple[tf.Tensor, ...]:
            t = self.joint.apply_weights(a1, kernel, bias)
            z = back(t, training=False)
            behind = z if self.relu is None else self.relu(t, training=False)
            square = tf.reduce_sum(tf.reduce_mean(tf.square(t - a2), axis=range(1, t.shape.rank)))
            return t, behind, z, tf.concat([_agreement(z, z2, labels)[:3], [square]], axis=0)

        return judge

    def _keep(self, rows: Mapping[str, Spill], tensors: Mapping[str, tf.Tensor]) -> None:
        room = self.images - self.seen
        for name, tensor in tensors.items():
            if room > 0 and name in rows:
                rows[name].append(tensor[:room].numpy())

    def _add(self, name: str, sums: tf.Tensor, z: tf.Tensor) -> None:
        self.sums[name].values += sums.numpy().astype(np.float64)
        self.sums[name].classes.append(np.argmax(z.numpy(), axis=-1))

    def result(self, cka: Callable[[str, str], float | None]) -> Readings:
        labels = np.concatenate(self.labels)
        predictions = {name: np.concatenate(sums.classes) for name, sums in self.sums.items()}
        end_correct = max(1, int(np.sum(predictions["end"] == labels)))
        values = {}
        for name, sums in self.sums.items():
            correct = int(np.sum(predictions[name] == labels))
            loss, crossentropy, logit_l2, square = (float(value) for value in sums.values / self.seen)
            values[name] = {
                "correct": correct,
                "total": self.seen,
                "accuracy": correct / self.seen,
                "loss": loss,
                "crossentropy": crossentropy,
                "same_class": float(np.mean(predictions[name] == predictions["end"])),
                "relative_accuracy": correct / end_correct,
                "logit_l2": logit_l2,
                "logit_cka": cka(f"z:{name}", "z:end"),
            }
            if name in self.candidates:
                similar = {"cka": cka(f"t:{name}", "t:end"), "cka_after_relu": cka(f"r:{name}", "r:end")}
                values[name] |= {"l2": square, **similar}
        layer = {"l2": self.difference / self.seen if self.same_shape else None, "cka": cka("t:front", "t:end")}
        maps = {name: values[name] for name in self.candidates}
        return Readings({n: values[n] for n in ("front", "end")}, maps, layer, predictions, labels)


def _agreement(z: tf.Tensor, z2: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Sums over a batch: cross entropy with the labels, mean over classes of that with the end network, squared
    differences of logits, and a place for those of activations."""
    logs = tf.nn.log_softmax(tf.cast(z, tf.float32))
    hard = -tf.reduce_sum(tf.gather(logs, labels, axis=1, batch_dims=1))
    soft = -tf.reduce_sum(tf.reduce_mean(tf.nn.softmax(tf.cast(z2, tf.float32)) * logs, axis=-1))
    return tf.stack([hard, soft, tf.reduce_sum(tf.reduce_mean(tf.square(z - z2), axis=-1)), 0.0])


def _has(model: keras.Model, name: str) -> bool:
    return any(layer.name == name for layer in model.layers)


def _until(model: keras.Model, layer: str) -> keras.Model:
    return keras.Model(model.input, model.get_layer(layer).output)
