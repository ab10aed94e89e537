"""Which sites to induce, and with how many prototypes: measured on validation images, never on test images.

Every candidate is switched on and off in one network that holds both its ReLU and its borrowed gate, so that a trial costs one
pass over the images and no new graph. Trials normalise by the statistics of their batch, which is what the re-estimation of
batch normalisation will give the finished network.

- *greedy*: start with no site induced; add the site that costs least, again and again (the original's procedure).
- *knapsack*: the sites are cut into groups (`pairs`, `stages`, or each by itself); each group is measured alone at several K,
  and the choice of K or a plain ReLU per group that loses least within a number of comparisons is found exactly.

Source: specification `induction` of the design, sections 4.6, 8 (knapsack) and 10.4 (f).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from keras_relu import surgery
from keras_relu.activations.induced import gate_bits
from keras_relu.errors import UserError, unknown_key
from keras_relu.induction.assignment import Assignment
from keras_relu.induction.build import flat_copy, induce
from keras_relu.induction.cache import Cache, take_images
from keras_relu.induction.cluster import cluster
from keras_relu.induction.config import ClusterConfig
from keras_relu.induction.knapsack import choose
from keras_relu.induction.mapping import Plan, make_plan
from keras_relu.surgery import Site
from keras_relu.training import losses

if TYPE_CHECKING:
    from keras_relu.data import Dataset

__all__ = ["METHODS", "SCHEMES", "Trials", "cost_of", "groups_of", "search"]

METHODS = ("greedy", "knapsack")
SCHEMES = ("pairs", "self", "stages")
_BATCH = 250


def search(
    model: keras.Model,
    dataset: Dataset,
    cache: Cache,
    budget: int,
    *,
    method: str = "knapsack",
    prototypes: Sequence[int] = (100, 250, 500, 1000),
    scheme: str = "stages",
    inducer: str | None = None,
    config: ClusterConfig | Mapping[str, Any] | None = None,
    images: int = 1000,
    on_trial: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """A mapping that leaves at most `budget` comparisons.

    Args:
        cache: responses of all sites of `model`, see `cache.write_cache`.
        method: greedy or knapsack.
        prototypes: the K to choose from; greedy takes one.
        scheme: how knapsack cuts the sites into groups: `pairs` of neighbours, `stages` of one shape, or each by it`self`.
        inducer: greedy's only inducer, which induces itself too; None takes the first site.
        config: selection and association.
        images: validation images per trial.
        on_trial: called with a line of text per trial.

    Returns:
        {"mapping": {"inducer_to_induced", "order", "num_prototypes"}, "comparisons", "comparisons_before", "budget",
        "baseline_loss", "trials": [...]}; the mapping is what `make_plan` reads.

    Raises:
        UserError: an unknown method or scheme, a budget that cannot be met, K out of range, no validation images.
    """
    if method not in METHODS:
        raise unknown_key("search method", method, METHODS)
    config = config if isinstance(config, ClusterConfig) else ClusterConfig.parse(config or {})
    if not dataset.validation.size:
        raise UserError("The search chooses on validation images; set validation_fraction above 0.")
    flat = flat_copy(model)
    part = take_images(dataset, "validation", min(images, dataset.validation.size))
    say = on_trial or (lambda text: None)
    task = _Task(flat, dataset, cache, config, part, say)
    if method == "greedy":
        if len(prototypes) != 1:
            raise UserError(f"The greedy search takes one number of prototypes, received {list(prototypes)}.")
        return _greedy(task, budget, prototypes[0], inducer)
    if inducer is not None:
        raise UserError("An inducer can be given to the greedy search only; knapsack has one per group.")
    return _knapsack(task, budget, sorted(set(prototypes)), scheme)


class _Task:
    """What both methods share."""

    def __init__(
        self,
        model: keras.Model,
        dataset: Dataset,
        cache: Cache,
        config: ClusterConfig,
        part: Any,
        say: Callable[[str], None],
    ) -> None:
        self.model, self.dataset, self.cache, self.config, self.part, self.say = (
            model,
            dataset,
            cache,
            config,
            part,
            say,
        )
        self.sites = surgery.find_sites(model)

    def assign(self, plan: Plan) -> Assignment:
        return cluster(plan, self.cache, self.config, model=self.model, dataset=self.dataset)

    def trials(self, assignment: Assignment) -> Trials:
        return Trials(self.model, assignment, self.part, self.dataset.normalization)


def groups_of(sites: Sequence[Site], scheme: str) -> list[list[str]]:
    """The sites cut into groups; the first of each is its inducer.

    Raises:
        UserError: an unknown scheme.
    """
    names = [site.name for site in sites]
    if scheme == "self":
        return [[name] for name in names]
    if scheme == "pairs":
        return [names[at : at + 2] for at in range(0, len(names), 2)]
    if scheme == "stages":
        return [[site.name for site in part] for _, part in itertools.groupby(sites, key=lambda site: site.shape)]
    raise unknown_key("scheme", scheme, SCHEMES)


def _result(mapping: dict[str, Any], task: _Task, budget: int, baseline: float, trials: list[Any]) -> dict[str, Any]:
    plan = make_plan(task.sites, mapping) if mapping["inducer_to_induced"] else None
    total = sum(cost_of(site) for site in task.sites)
    return {
        "mapping": mapping,
        "comparisons": total if plan is None else plan.comparison_count(),
        "comparisons_before": total,
        "budget": budget,
        "images": task.part.size,
        "baseline_loss": baseline,
        "trials": trials,
    }


def cost_of(site: Site) -> int:
    """Comparisons of a plain ReLU site."""
    return math.prod(site.shape) * (1 if site.max_value is None else 2)


def _greedy(task: _Task, budget: int, prototypes: int, inducer: str | None) -> dict[str, Any]:
    names = [site.name for site in task.sites]
    inducer = names[0] if inducer is None else inducer
    plan = make_plan(
        task.sites, {inducer: names[names.index(inducer) :] if inducer in names else [inducer]}, prototypes
    )
    lowest = plan.comparison_count()
    if budget < lowest:
        raise UserError(
            f"Inducing everything from {inducer!r} leaves {lowest:,} comparisons; the budget is {budget:,}."
        )
    costs = {site.name: cost_of(site) for site in task.sites}
    trials = task.trials(task.assign(plan))
    left, chosen, rows = sum(costs.values()), [inducer], []
    baseline = trials.loss([])
    loss = trials.loss(chosen) if left > budget else baseline
    left += prototypes - costs[inducer]
    rows.append({"added": inducer, "loss": loss, "comparisons": left, "candidates": {inducer: loss}})
    open_ = [name for name in plan.groups[0].induced if name != inducer]
    while left > budget and open_:
        tried = {name: trials.loss([*chosen, name]) for name in open_}
        best = min(open_, key=lambda name: (tried[name] - loss) / costs[name])
        chosen, loss, left = [*chosen, best], tried[best], left - costs[best]
        open_.remove(best)
        rows.append({"added": best, "loss": loss, "comparisons": left, "candidates": tried})
        task.say(f"{left:,} comparisons, loss {loss:.4f}: {best}")
    ordered = [name for name in names if name in chosen]
    mapping = {"inducer_to_induced": {inducer: ordered}, "order": [inducer], "num_prototypes": [prototypes]}
    return _result(mapping, task, budget, baseline, rows)


def _knapsack(task: _Task, budget: int, counts: Sequence[int], scheme: str) -> dict[str, Any]:
    groups = groups_of(task.sites, scheme)
    sizes = {site.name: math.prod(site.shape) for site in task.sites}
    costs = {site.name: cost_of(site) for site in task.sites}
    baseline, rows = None, []
    # Per group {K or None for plain ReLUs: (comparisons, damage)}.
    options: list[dict[int | None, tuple[int, float]]] = [
        {None: (sum(costs[n] for n in names), 0.0)} for names in groups
    ]
    for count in counts:
        tried = [(names, known) for names, known in zip(groups, options, strict=True) if count < sizes[names[0]]]
        if not tried:
            continue
        # All groups in one network, measured one at a time.
        plan = make_plan(task.sites, {names[0]: names for names, _ in tried}, count)
        trials = task.trials(task.assign(plan))
        baseline = trials.loss([]) if baseline is None else baseline
        for names, known in tried:
            loss = trials.loss(names)
            known[count] = (count, max(0.0, loss - baseline))
            saved = known[None][0] - count
            rows.append({"inducer": names[0], "induced": names, "prototypes": count, "loss": loss, "saved": saved})
            task.say(f"{names[0]} and {len(names) - 1} more with {count} prototypes: loss {loss:.4f}")
    if baseline is None:
        raise UserError(f"No group has more than {counts[0]} elements; choose fewer prototypes.")
    picked = choose([list(known.values()) for known in options], budget)
    pairs = [(names, list(known)[pick]) for names, known, pick in zip(groups, options, picked, strict=True)]
    taken = [(names, count) for names, count in pairs if count is not None]
    mapping = {
        "inducer_to_induced": {names[0]: names for names, _ in taken},
        "order": [names[0] for names, _ in taken],
        "num_prototypes": [count for _, count in taken],
    }
    return _result(mapping, task, budget, baseline, rows)


class Trials:
    """One network in which every site of an assignment can be switched between its ReLU and its borrowed gate.

    Args:
        model: flat.
        part: images of a trial, in batches of up to 250; a last smaller batch is left out, unless it is the only one.
    """

    def __init__(self, model: keras.Model, assignment: Assignment, part: Any, normalization: Any) -> None:
        self.part, self.normalization = part, normalization
        self.batch = min(_BATCH, part.size)
        induced = induce(model, assignment)
        self.switches: dict[str, tf.Variable] = {}
        for group in assignment.groups:
            for name in group.codes:
                self.switches[name] = tf.Variable(False, trainable=False)
        self.limits = {site.name: site.max_value for site in surgery.find_sites(model)}
        self.network = surgery.replace_layers(induced, self._switched)
        _copy_codes(induced, self.network, list(self.switches))
        spec = [tf.TensorSpec([None, *model.input_shape[1:]], tf.uint8), tf.TensorSpec([None], tf.int32)]
        self._measure = tf.function(self._batch_loss, input_signature=spec, autograph=False)

    def _switched(self, layer: keras.layers.Layer) -> keras.layers.Layer | None:
        if layer.name in self.switches:
            return _SwitchedReLU(self.switches[layer.name], self.limits[layer.name], name=layer.name)
        if isinstance(layer, (keras.layers.Dropout, keras.layers.SpatialDropout2D)):
            return keras.layers.Activation("linear", name=layer.name)
        return None

    def loss(self, sites: Sequence[str]) -> float:
        """Mean cross entropy over the images with just these sites induced, normalised by batch statistics."""
        for name, switch in self.switches.items():
            switch.assign(name in sites)
        total, count = 0.0, 0
        for images, labels in self.part.batches(self.batch):
            if len(labels) == self.batch:
                total, count = total + float(self._measure(images, labels)), count + 1
        value = total / count
        return value if math.isfinite(value) else float(np.finfo(np.float32).max)

    def _batch_loss(self, images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        logits = self.network(self.normalization.apply(images), training=True)
        return tf.reduce_mean(losses.cross_entropy(labels, logits))


def _copy_codes(source: keras.Model, target: keras.Model, names: Sequence[str]) -> None:
    for name in names:
        target.get_layer(name).codes.assign(source.get_layer(name).codes)


class _SwitchedReLU(keras.layers.Layer):
    """relu(x) or x times the borrowed gate, by a variable; lives within one search and is never saved."""

    def __init__(self, switch: tf.Variable, max_value: float | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._switch, self._limit = switch, math.inf if max_value is None else max_value

    def build(self, input_shape: Any) -> None:
        """Creates `codes`, int32 [N]."""
        size = math.prod(tuple(input_shape[0])[1:])
        self.codes = self.add_weight("codes", (size,), dtype="int32", initializer="zeros", trainable=False)
        super().build(input_shape)

    def call(self, inputs: Any) -> tf.Tensor:
        """The output for [x, bits]."""
        x, bits = inputs
        borrowed = tf.reshape(gate_bits(bits, self.codes), tf.shape(x))
        gate = tf.where(self._switch, borrowed, x >= 0)
        limit = tf.where(self._switch, tf.constant(math.inf, x.dtype), tf.constant(self._limit, x.dtype))
        return tf.minimum(tf.where(gate, x, tf.zeros([], x.dtype)), limit)
