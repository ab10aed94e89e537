"""Compare two networks layer by layer: any measures, all pairs of layers, one pass over the images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from keras_relu import splitting
from keras_relu.data import Normalization, Split
from keras_relu.errors import UserError
from keras_relu.similarity import get_measure
from keras_relu.stitching.comparison import Comparison
from keras_relu.stitching.gather import Gatherer
from keras_relu.stitching.layers import choose_layers
from keras_relu.stitching.spill import spilled

__all__ = ["compare"]


def compare(
    a: keras.Model,
    b: keras.Model,
    split: Split,
    normalization: Normalization,
    *,
    layers: Sequence[str] = ("sites",),
    measures: Sequence[str] = ("cka",),
    images: int | None = 2000,
    null: bool = False,
    permutations: int = 20,
    bootstrap: int = 0,
    seed: int = 0,
    batch_size: int = 250,
    memory_bytes: int = 2**29,
    names: tuple[str, str] = ("a", "b"),
    on_batch: Callable[[int], None] | None = None,
) -> Comparison:
    """Similarity of the layers of two networks on the first `images` images of a split.

    Every measure of `similarity.MEASURES` is computed for all pairs of layers, except those that need whole
    representations (`rsa`, `mnn`, `cca`, ...), which are computed for matched pairs. A cell that cannot have a value holds a
    reason instead: a dead layer, too few images, maps of different size.

    Args:
        a, b: functional networks on the same images, in any state of reduction.
        layers: see `choose_layers`.
        images: None = all of the split.
        null: also the mean and standard deviation of each measure when images are paired at random: exact for CKA,
            from `permutations` permutations for the others.
        bootstrap: replicates for standard errors (0 = none), resampling up to 100 groups of images; for CKA and the
            measures of channels.
        memory_bytes: representations beyond it go to temporary files.
        names: what to call the networks.
        on_batch: called with the number of images of every batch.

    Raises:
        UserError: unknown layers or measures, unequal images, numbers out of range, no room on the disk.
    """
    kinds = [get_measure(name) for name in measures]
    count = split.size if images is None else images
    _check(kinds, count, split, permutations, bootstrap)
    a, b = splitting.unpack(a), splitting.unpack(b)
    if a.input_shape[1:] != b.input_shape[1:]:
        raise UserError(f"The networks take different images: {list(a.input_shape[1:])} and {list(b.input_shape[1:])}.")
    chosen = choose_layers(a, b, layers)
    outputs = _outputs(a, b, chosen.a, chosen.b, normalization)
    gatherer = Gatherer(
        chosen,
        _shapes(a, chosen.a),
        _shapes(b, chosen.b),
        kinds,
        images=count,
        null=null,
        permutations=permutations,
        bootstrap=bootstrap,
        seed=seed,
    )
    with spilled(gatherer.widths(), count, memory_bytes=memory_bytes) as rows:
        seen = 0
        for pictures, _ in split.batches(min(batch_size, count)):
            pictures = pictures[: count - seen]
            gatherer.batch([[tensor.numpy() for tensor in side] for side in outputs(pictures)], rows)
            seen += len(pictures)
            if on_batch:
                on_batch(len(pictures))
            if seen == count:
                break
        tables = gatherer.tables(rows)
    return Comparison(chosen.a, chosen.b, chosen.matched, tables, names)


def _check(kinds: Sequence[Any], count: int, split: Split, permutations: int, bootstrap: int) -> None:
    if not kinds:
        raise UserError("No measures were asked for.")
    if not 2 <= count <= split.size:
        raise UserError(f"images is {count}; allowed is 2 to {split.size}, the size of the {split.name} split.")
    if permutations < 2 or bootstrap < 0 or bootstrap == 1:
        raise UserError(
            f"permutations must be at least 2, bootstrap 0 or at least 2; received {permutations} and {bootstrap}."
        )


def _outputs(
    a: keras.Model, b: keras.Model, names_a: list[str], names_b: list[str], normalization: Normalization
) -> Callable[[tf.Tensor], tuple[list[tf.Tensor], list[tf.Tensor]]]:
    nets = [keras.Model(m.input, [m.get_layer(n).output for n in names]) for m, names in ((a, names_a), (b, names_b))]

    @tf.function(input_signature=[tf.TensorSpec([None, *a.input_shape[1:]], tf.uint8)], autograph=False)
    def outputs(pictures: tf.Tensor) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        x = normalization.apply(pictures)
        first, second = (tf.nest.flatten(net(x, training=False)) for net in nets)
        return first, second

    return outputs


def _shapes(model: keras.Model, names: list[str]) -> list[tuple[int, ...]]:
    return [tuple(model.get_layer(name).output.shape[1:]) for name in names]
