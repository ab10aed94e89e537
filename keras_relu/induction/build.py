"""From an assignment to a network: the graph edit, the statistics of batch normalisation, the counts.

Source: specification `induction` of the design, sections 1.2, 1.3 and 10.4 (d).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import tf_keras as keras

from keras_relu import counting, splitting, surgery
from keras_relu.activations import InducedReLU, InducerReLU, PrototypeBits
from keras_relu.errors import UserError, unknown_key
from keras_relu.evaluate import Evaluator
from keras_relu.fingerprint import model_hash
from keras_relu.induction.assignment import Assignment, GroupAssignment
from keras_relu.training.recalibrate import reestimate_batch_norm

if TYPE_CHECKING:
    from keras_relu.data import Dataset

__all__ = ["bits_name", "build", "count_facts", "flat_copy", "induce", "prepare"]


def flat_copy(model: keras.Model) -> keras.Model:
    """`model` itself, or a copy in which the models nested in it are replaced by their layers: bits cross their borders."""
    nested = any(isinstance(layer, keras.Model) for layer in surgery.require_functional(model).layers)
    return splitting.unpack(model) if nested else model


def bits_name(inducer: str) -> str:
    """Name of the layer that compares the prototypes of a self-induced site."""
    return f"{inducer}_bits"


def prepare(model: keras.Model, identity: tuple[str, ...] = ()) -> keras.Model:
    """The network whose responses are cached: flat, and with the identity at those sites that will be one."""
    flat = flat_copy(model)
    if not identity:
        return flat
    return surgery.replace_sites(flat, lambda site: _linear(site.name) if site.name in identity else None)


def _linear(name: str) -> keras.layers.Layer:
    return keras.layers.Activation("linear", name=name)


def induce(model: keras.Model, assignment: Assignment, *, cap: str = "drop") -> keras.Model:
    """A copy of `model` whose induced sites borrow their bits as `assignment` says.

    Prototypes that nobody borrows are left out. Other sites stay as they are.

    Args:
        model: any functional tf_keras model.
        cap: "drop" lets induced ReLU6 sites grow without bound, so that they compare nothing; "keep" keeps the bound, at
            one comparison per element.

    Raises:
        UserError: a site that the model does not have as a plain ReLU, or with another shape; an unknown cap.
    """
    if cap not in ("drop", "keep"):
        raise unknown_key("cap", cap, ("drop", "keep"))
    flat = flat_copy(model)
    groups = {group.inducer: group.pruned() for group in assignment.groups}
    sources = {name: group.inducer for group in groups.values() for name in group.codes}
    sites = {site.name: site for site in surgery.find_sites(flat)}
    for group in groups.values():
        _check_shapes(group, sites)

    def make(site: surgery.Site) -> keras.layers.Layer | None:
        if site.name in assignment.identity:
            return _linear(site.name)
        if site.name in sources:
            return InducedReLU(site.max_value if cap == "keep" else None, name=site.name)
        if site.name in groups:
            return InducerReLU(len(groups[site.name].prototypes), site.max_value, name=site.name)
        return None

    taps = {
        name: PrototypeBits(len(group.prototypes), name=bits_name(name))
        for name, group in groups.items()
        if name in group.codes
    }
    made = surgery.replace_sites(flat, make, taps=taps, sources=sources)
    for name, group in groups.items():
        made.get_layer(bits_name(name) if name in group.codes else name).set_indices(group.prototypes)
        for site_name, codes in group.codes.items():
            made.get_layer(site_name).set_codes(codes)
    return made


def _check_shapes(group: GroupAssignment, sites: Mapping[str, surgery.Site]) -> None:
    for name, shape in ((group.inducer, group.shape), *group.shapes.items()):
        if name not in sites:
            raise unknown_key("ReLU site of the assignment", name, sites)
        if sites[name].shape != tuple(shape):
            raise UserError(
                f"The assignment was made for site {name!r} of shape {tuple(shape)}, the model has {sites[name].shape}."
            )


def build(
    model: keras.Model,
    assignment: Assignment,
    dataset: Dataset,
    *,
    bn_images: int = 10_000,
    cap: str = "drop",
    test: bool = True,
) -> tuple[keras.Model, dict[str, Any]]:
    """Induce, re-estimate batch normalisation, count and measure.

    Args:
        bn_images: training images for the statistics, at most those there are; 0 leaves the statistics as they are.
        test: also measure on the test split, before and after the re-estimation.

    Returns:
        (the induced model, {comparison_count, comparison_count_before, relu_count, accuracies on validation and test before
        and after, ...}).

    Raises:
        UserError: as `induce`; an assignment made from other weights.
    """
    made_for = assignment.facts.get("model_hash")
    if made_for is not None and made_for != model_hash(prepare(model, assignment.identity)):
        raise UserError(
            "The assignment was made from the responses of other weights than this model has; cluster again."
        )
    induced = induce(model, assignment, cap=cap)
    splits = [("val_accuracy", dataset.validation)] if dataset.validation.size else []
    splits += [("accuracy", dataset.test)] if test else []
    baseline = _accuracies(model, dataset, splits)
    before = _accuracies(induced, dataset, splits)
    normalised = 0
    if bn_images:
        images = min(bn_images, dataset.train.size)
        normalised = reestimate_batch_norm(induced, dataset.train, dataset.normalization, images=images)
    after = _accuracies(induced, dataset, splits) if normalised else before
    result = {
        **count_facts(model, induced, assignment),
        **{f"baseline_{key}": value for key, value in baseline.items()},
        **{f"{key}_before_bn": value for key, value in before.items()},
        **after,
        "bn_images": bn_images,
        "bn_layers": normalised,
    }
    return induced, result


def _accuracies(model: keras.Model, dataset: Dataset, splits: list[tuple[str, Any]]) -> dict[str, float]:
    evaluator = Evaluator(model, dataset.normalization)
    return {key: evaluator(split)["accuracy"] for key, split in splits}


def count_facts(model: keras.Model, induced: keras.Model, assignment: Assignment) -> dict[str, Any]:
    """Comparisons and ReLUs before and after, prototypes chosen and used, statistics of the assignment by site."""
    before, after = counting.count(model), counting.count(induced)
    prototypes = {
        group.inducer: {
            "nominal": assignment.facts.get("prototypes", {}).get(group.inducer, len(group.prototypes)),
            "selected": len(group.prototypes),
            "used": assignment.used[group.inducer],
            "shape": list(group.shape),
            "places": group.prototypes.tolist(),
            "usage": group.usage.tolist(),
        }
        for group in assignment.groups
    }
    return {
        "comparison_count_before": before.comparison_count,
        "comparison_count": after.comparison_count,
        "comparison_fraction": after.comparison_count / max(1, before.comparison_count),
        "relu_count_before": before.relu_count,
        "relu_count": after.relu_count,
        "induced_elements": sum(math.prod(s) for group in assignment.groups for s in group.shapes.values()),
        "prototypes": prototypes,
        "assignment": dict(assignment.facts),
    }
