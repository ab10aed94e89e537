"""What a comparison gathers while the images pass, and the tables it makes of that.

Three stores, each only when a measure asks for it: rows of whole representations (in files when they are large), second
moments of channels (all layers of one map size together), and unbiased HSIC batch by batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from keras_relu.similarity import DegenerateError, GramStatistics, Measure, Moments, gram_statistics
from keras_relu.similarity.grams import unbiased_null_variance
from keras_relu.stitching.comparison import Table
from keras_relu.stitching.layers import LayerChoice
from keras_relu.stitching.spill import Spill

__all__ = ["Gatherer"]

_GROUPS = 100
# Measures that hold whole representations: at most so many features, and so many images for those with a table of pairs.
_MOST_FEATURES = 4096
_MOST_PAIR_IMAGES = 2000


class Gatherer:
    """See the module; `batch` for every batch of images, then `tables`.

    Args:
        choice: the layers.
        shapes_a, shapes_b: their per-image shapes.
        measures: what to compute.
        images: number of images to come.
        null, permutations, bootstrap, seed: see `compare`.
    """

    def __init__(
        self,
        choice: LayerChoice,
        shapes_a: list[tuple[int, ...]],
        shapes_b: list[tuple[int, ...]],
        measures: Sequence[Measure],
        *,
        images: int,
        null: bool,
        permutations: int,
        bootstrap: int,
        seed: int,
    ) -> None:
        self.choice, self.shapes, self.measures = choice, (shapes_a, shapes_b), measures
        self.images, self.null, self.permutations, self.bootstrap = images, null, permutations, bootstrap
        self.seed, self.generator = seed, np.random.default_rng((seed, 3))
        self.group = -(-images // min(images, _GROUPS)) if bootstrap else images
        self.seen = 0
        self.by_batch: list[np.ndarray] = []
        self.batch_sizes: list[int] = []
        pixels = any(m.needs == "moments" and m.samples == "pixels" for m in measures)
        sizes = {s[:-1] for s in shapes_a} & {s[:-1] for s in shapes_b} if pixels else set()
        self.channels = {size: _Channels(size, *self.shapes, permutations if null else 0) for size in sizes}

    def widths(self) -> dict[str, int]:
        """Features of the representations that must be kept whole, by "a/layer" and "b/layer"."""
        grams = any(measure.needs == "grams" for measure in self.measures)
        whole = any(measure.needs == "rows" or _of_whole_maps(measure) for measure in self.measures)
        kept: list[set[int]] = [set(range(len(shapes))) if grams else set() for shapes in self.shapes]
        for pair in self.choice.matched if whole else []:
            for side in (0, 1):
                kept[side].add(pair[side])
        names = (self.choice.a, self.choice.b)
        return {
            f"{'ab'[side]}/{names[side][i]}": math.prod(self.shapes[side][i])
            for side in (0, 1)
            for i in sorted(kept[side])
        }

    def batch(self, outputs: Sequence[Sequence[np.ndarray]], rows: Mapping[str, Spill]) -> None:
        """Add the representations of one batch: a list of arrays [n, ...] for each network.

        Raises:
            DegenerateError: a value is NaN or infinite; names the layer.
        """
        for side, names in enumerate((self.choice.a, self.choice.b)):
            for name, array in zip(names, outputs[side], strict=True):
                if not np.isfinite(array.sum(dtype=np.float64)):
                    raise DegenerateError(
                        f"Layer {name!r} of the {('first', 'second')[side]} network gives NaN or infinite values; no "
                        "similarity is defined on them."
                    )
                if f"{'ab'[side]}/{name}" in rows:
                    rows[f"{'ab'[side]}/{name}"].append(array)
        count = len(outputs[0][0])
        if any(measure.needs == "batches" for measure in self.measures) and count >= 4:
            flat = [array.reshape(count, -1) for side in outputs for array in side]
            self.by_batch.append(gram_statistics(flat).hsic(unbiased=True))
            self.batch_sizes.append(count)
        orders = [self.generator.permutation(count) for _ in range(self.permutations)] if self.null else []
        for store in self.channels.values():
            store.update(outputs, self.seen, self.group, orders)
        self.seen += count

    def tables(self, rows: Mapping[str, Spill]) -> dict[str, Table]:
        """One table per measure."""
        statistics: dict[str, GramStatistics] = {}
        made = {}
        for measure in self.measures:
            if measure.needs == "grams":
                kernel = "rbf" if measure.name == "cka_rbf" else "linear"
                if kernel not in statistics:
                    groups = _GROUPS if self.bootstrap else 1
                    statistics[kernel] = gram_statistics(list(rows.values()), kernel=kernel, groups=groups)
                made[measure.name] = self._from_grams(measure, statistics[kernel])
            elif measure.needs == "batches":
                made[measure.name] = self._from_batches()
            elif measure.needs == "moments" and measure.samples == "pixels":
                made[measure.name] = self._from_channels(measure)
            else:
                made[measure.name] = self._from_rows(measure, rows)
        return made

    def _empty(self, images: int | None = None) -> Table:
        shape = tuple(len(shapes) for shapes in self.shapes)
        error = np.full(shape, np.nan) if self.bootstrap else None
        mean, std = (np.full(shape, np.nan) if self.null else None for _ in range(2))
        return Table(np.full(shape, np.nan), error, mean, std, {}, images or self.images)

    def _from_grams(self, measure: Measure, statistics: GramStatistics) -> Table:
        unbiased = measure.name == "cka_unbiased"
        table, cross = self._empty(), (slice(0, len(self.shapes[0])), slice(len(self.shapes[0]), None))
        if unbiased and self.images < 4:
            return _refused(table, f"{self.images} images are too few for an unbiased estimate")
        table.values = statistics.cka(unbiased=unbiased)[cross]
        if self.bootstrap:
            table.error = statistics.bootstrap(self.bootstrap, seed=self.seed, unbiased=unbiased)[cross]
        if self.null and self.images >= 4:
            table.null_mean, table.null_std = (array[cross] for array in statistics.null(unbiased=unbiased))
        self._blank(table, statistics.degenerate(unbiased=unbiased))
        return table

    def _from_batches(self) -> Table:
        table, cut = self._empty(sum(self.batch_sizes)), len(self.shapes[0])
        if not self.by_batch:
            return _refused(table, "every batch has fewer than four images")
        stack, sizes = np.array(self.by_batch), np.array(self.batch_sizes)
        dead = {
            int(i): "its unbiased self-similarity is not positive" for i in np.flatnonzero(np.diag(stack.sum(0)) <= 0)
        }

        def values(weights: np.ndarray) -> np.ndarray:
            total = np.tensordot(weights, stack, 1)
            norms = np.sqrt(np.where(np.diag(total) > 0, np.diag(total), 1.0))
            return (total / np.outer(norms, norms))[:cut, cut:]

        table.values = values(np.ones(len(stack)))
        if self.bootstrap:
            table.error = self._deviation(values, len(stack))
        if self.null:
            selves = np.einsum("bll->bl", stack)
            spread = np.einsum("b,bi,bj->ij", unbiased_null_variance(sizes), selves[:, :cut], selves[:, cut:])
            norms = np.where(selves.sum(0) > 0, selves.sum(0), 1.0)
            table.null_mean = np.zeros_like(table.values)
            table.null_std = np.sqrt(np.maximum(spread, 0.0) / np.outer(norms[:cut], norms[cut:]))
        self._blank(table, dead)
        return table

    def _deviation(self, values: Callable[[np.ndarray], np.ndarray], units: int) -> np.ndarray:
        """Standard deviation of `values` over bootstrap weights of `units`."""
        generator = np.random.default_rng((self.seed, 4))
        drawn = (np.bincount(generator.integers(units, size=units), minlength=units) for _ in range(self.bootstrap))
        return np.std([values(weights.astype(np.float64)) for weights in drawn], axis=0, ddof=1)

    def _from_channels(self, measure: Measure) -> Table:
        table = self._empty()
        assert measure.from_moments is not None
        for i, shape_a in enumerate(self.shapes[0]):
            for j, shape_b in enumerate(self.shapes[1]):
                if shape_a[:-1] != shape_b[:-1]:
                    table.reasons[i, j] = f"maps of different size, {list(shape_a)} and {list(shape_b)}"
                elif measure.equal_features and shape_a != shape_b:
                    table.reasons[i, j] = f"different numbers of channels, {shape_a[-1]} and {shape_b[-1]}"
                else:
                    self._channel_cell(table, measure.from_moments, (i, j))
        return table

    def _channel_cell(self, table: Table, value: Callable[[Moments], float], cell: tuple[int, int]) -> None:
        store = self.channels[self.shapes[0][cell[0]][:-1]]
        parts = [part.select(*store.slices(*cell)) for part in store.groups]
        try:
            table.values[cell] = value(Moments.merged(parts))
            if table.error is not None and len(parts) > 1:

                def resampled(weights: np.ndarray) -> np.ndarray:
                    repeated = (part for part, n in zip(parts, weights, strict=True) for _ in range(int(n)))
                    return np.array(value(Moments.merged(repeated)))

                table.error[cell] = self._deviation(resampled, len(parts))
            if table.null_mean is not None and table.null_std is not None:
                drawn = [value(permuted.select(*store.slices(*cell))) for permuted in store.permuted]
                table.null_mean[cell], table.null_std[cell] = np.mean(drawn), np.std(drawn, ddof=1)
        except DegenerateError as error:
            table.reasons[cell] = str(error)

    def _from_rows(self, measure: Measure, rows: Mapping[str, Spill]) -> Table:
        images = self.images if _of_whole_maps(measure) else min(self.images, _MOST_PAIR_IMAGES)
        table = self._empty(images)
        table.error = None
        for i, j in self.choice.matched:
            x, y = rows[f"a/{self.choice.a[i]}"], rows[f"b/{self.choice.b[j]}"]
            if _of_whole_maps(measure) and max(x.width, y.width) > _MOST_FEATURES:
                table.reasons[i, j] = (
                    f"{max(x.width, y.width):,} features; whole maps are held up to {_MOST_FEATURES:,}, use the measure "
                    f"{measure.name}_pixels or cka"
                )
                continue
            self._row_cell(table, measure, (i, j), (x[:images], y[:images]))
        matched = set(self.choice.matched)
        for i, j in np.ndindex(*table.values.shape):
            if (i, j) not in matched:
                table.reasons[i, j] = "computed for matched layers only"
        return table

    def _row_cell(
        self, table: Table, measure: Measure, cell: tuple[int, int], pair: tuple[np.ndarray, np.ndarray]
    ) -> None:
        x, y = pair
        try:
            table.values[cell] = measure(x, y)
            if table.null_mean is not None and table.null_std is not None:
                orders = [self.generator.permutation(len(y)) for _ in range(self.permutations)]
                drawn = [measure(x, y[order]) for order in orders]
                table.null_mean[cell], table.null_std[cell] = np.mean(drawn), np.std(drawn, ddof=1)
        except DegenerateError as error:
            table.reasons[cell] = str(error)

    def _blank(self, table: Table, dead: Mapping[int, str]) -> None:
        """Empty the rows and columns of layers without a value; they are numbered through both networks."""
        cut = len(self.shapes[0])
        for index, reason in dead.items():
            name = (self.choice.a + self.choice.b)[index]
            where = (index, slice(None)) if index < cut else (slice(None), index - cut)
            for array in (table.values, table.error, table.null_mean, table.null_std):
                if array is not None:
                    array[where] = np.nan
            for i, j in np.ndindex(*table.values.shape):
                if index in (i, j + cut):
                    table.reasons[i, j] = f"layer {name!r} of {'ab'[index >= cut]}: {reason}"


class _Channels:
    """Moments of all layers with maps of one size, their channels side by side."""

    def __init__(
        self,
        size: tuple[int, ...],
        shapes_a: list[tuple[int, ...]],
        shapes_b: list[tuple[int, ...]],
        permutations: int,
    ) -> None:
        self.members = [[i for i, s in enumerate(shapes) if s[:-1] == size] for shapes in (shapes_a, shapes_b)]
        self.places: list[dict[int, slice]] = [{}, {}]
        for side, shapes in enumerate((shapes_a, shapes_b)):
            start = 0
            for i in self.members[side]:
                self.places[side][i] = slice(start, start + shapes[i][-1])
                start += shapes[i][-1]
        self.total = [max(place.stop for place in side.values()) for side in self.places]
        self.groups: list[Moments] = []
        self.permuted = [Moments(*self.total) for _ in range(permutations)]

    def slices(self, i: int, j: int) -> tuple[slice, slice]:
        """Where the channels of layer i of a and layer j of b stand."""
        return self.places[0][i], self.places[1][j]

    def update(
        self, outputs: Sequence[Sequence[np.ndarray]], seen: int, group: int, orders: Sequence[np.ndarray]
    ) -> None:
        """Add a batch that follows `seen` images; `orders` pair its images anew for the null."""
        x, y = (
            np.concatenate([side[i] for i in members], axis=-1)
            for side, members in zip(outputs, self.members, strict=True)
        )
        at = 0
        while at < len(x):
            room = group - (seen + at) % group
            if (seen + at) // group == len(self.groups):
                self.groups.append(Moments(*self.total))
            self.groups[-1].update(_rows(x[at : at + room]), _rows(y[at : at + room]))
            at += room
        for moments, order in zip(self.permuted, orders, strict=True):
            moments.update(_rows(x), _rows(y[order]))


def _rows(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1, array.shape[-1])


def _of_whole_maps(measure: Measure) -> bool:
    return measure.needs == "moments" and measure.samples == "images"


def _refused(table: Table, reason: str) -> Table:
    table.reasons = dict.fromkeys(np.ndindex(*table.values.shape), reason)
    return table
