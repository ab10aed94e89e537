"""Plans against brute force, and their promises."""

import itertools

import numpy as np
import pytest

from keras_relu.cost import plan
from keras_relu.cost.link import Link
from keras_relu.cost.presets import get_preset
from keras_relu.cost.work import LayerWork
from keras_relu.errors import UserError

LINK = Link.parse("384Mbps", "40ms")
REST = [LayerWork("conv", "Conv2D", (4,), linear_outputs=4000, linear_inputs=9000, linear_weights=500, macs=10**6)]
SALIENCY = {
    name: np.random.default_rng(index).exponential(scale, size)
    for index, (name, size, scale) in enumerate([("a", 1000, 1.0), ("b", 2000, 0.1), ("c", 500, 3.0)])
}


def make(preset="spu-semi2k-64", **limits):
    return plan.make_plan(SALIENCY, REST, plan.Limits(**limits), preset=get_preset(preset), link=LINK)


def kept(made):
    return {site.name: site.kept for site in made.sites}


def test_damages_are_those_of_the_best_fits():
    x = np.random.default_rng(0).normal(size=400_000)
    relu = np.maximum(x, 0)
    errors = {
        name: np.mean((relu - np.polyval(np.polyfit(x, relu, degree), x)) ** 2)
        for name, degree in (("line", 1), ("quadratic", 2))
    }
    identity = np.mean((relu - x) ** 2)
    for name, error in errors.items():
        assert error / identity == pytest.approx(plan.DAMAGE[name], rel=0.03)


def test_limits_hold_and_beat_uniform():
    free = make(relus=3500).estimate
    for limits in (
        {"relus": 350},
        {"relus": 700, "relu_layers": 1},
        {"bytes": 0.6 * free.bytes},
        {"seconds": 0.9 * free.seconds},
    ):
        made = make(**limits)
        assert made.estimate.relu_count <= limits.get("relus", 10**9)
        assert made.estimate.relu_layers <= limits.get("relu_layers", 3)
        assert made.estimate.bytes <= limits.get("bytes", 10**12)
        assert made.estimate.seconds <= limits.get("seconds", 10**12)
        if "relu_layers" not in limits:
            assert made.damage <= made.uniform_damage * 1.001


def test_a_budget_of_relus_is_used_up():
    assert sum(kept(make(relus=350)).values()) == pytest.approx(350, abs=4)


def test_the_solution_is_as_good_as_trying_everything():
    made = plan.make_plan(
        SALIENCY,
        REST,
        plan.Limits(relus=600, relu_layers=2),
        preset=get_preset("spu-semi2k-64"),
        link=LINK,
        replacements=["identity"],
    )
    best = min(
        sum(np.sort(values)[::-1][count:].sum() for values, count in zip(SALIENCY.values(), counts, strict=True))
        for counts in itertools.product(range(0, 1001, 20), repeat=3)
        if sum(counts) <= 600
        and sum(count > 0 for count in counts) <= 2
        and all(count <= values.size for count, values in zip(counts, SALIENCY.values(), strict=True))
    )
    assert made.damage <= 1.02 * best


def test_the_protocol_chooses_the_replacement():
    """Squares are cheap under SEMI2K and dear under Cheetah."""
    semi2k, cheetah = (
        plan.make_plan({"a": np.ones(60_000)}, [], plan.Limits(bytes=5e6), preset=get_preset(name), link=LINK).sites[0]
        for name in ("spu-semi2k-64", "spu-cheetah-64")
    )
    assert semi2k.replacement == "quadratic"
    assert cheetah.replacement == "line"


def test_what_cannot_be_met_says_what_would_be_needed():
    with pytest.raises(UserError, match="without any ReLU the network takes"):
        make(bytes=10)
    with pytest.raises(UserError, match="needs a limit"):
        make()
    with pytest.raises(UserError, match="does not know"):
        make("delphi-reported", bytes=1e9)
    with pytest.raises(UserError, match="not finite"):
        plan.make_plan(
            {"a": np.array([np.nan])}, [], plan.Limits(relus=1), preset=get_preset("spu-semi2k-64"), link=LINK
        )


def test_no_relus_at_all():
    made = make(relu_layers=0)
    assert made.estimate.relu_count == made.estimate.relu_layers == 0
