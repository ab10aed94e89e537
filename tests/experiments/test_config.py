"""The tree under cnns/, its recipes, and what a wrong experiment.yaml is told; and the curves of learning rates."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml

from keras_relu.errors import UserError
from keras_relu.experiments import list_recipes, load_experiment
from keras_relu.experiments.chain import overrides_for, plan_chain
from keras_relu.experiments.stages import parse_settings
from keras_relu.experiments.tree import find_experiments, in_order
from keras_relu.models import list_models
from keras_relu.training.segments import Segment, epoch_rates

ROOT = Path(__file__).parents[2]
TREE = find_experiments(ROOT / "cnns")
STAGES = ("baseline/vanilla baseline/pruned", "modified/vanilla modified/pruned modified/pred")
ORIGINAL = {
    *(f"cifar10/{n}/{s}" for n in ("mobilenet", "mnasnet", "shufflenet") for part in STAGES for s in part.split()),
    *(f"{data}/fusionet/{s}" for data in ("cifar10", "cifar100") for s in ("vanilla", "pruned", "pred")),
    *(f"cifar100/{n}/{s}" for n in ("mobilenet", "mnasnet") for s in ("vanilla", "pruned")),
}


def name_of(experiment) -> str:
    return experiment.directory.relative_to(ROOT / "cnns").as_posix()


def rates_of(experiment) -> list[float]:
    peak = experiment.settings["learning_rate"]
    return [peak * rate for rate in epoch_rates(experiment.settings["schedule_options"]["segments"])]


def test_every_directory_of_the_original_is_there_and_a_pqat_beside_every_pruned_one():
    names = {name_of(e) for e in TREE}
    pqat = {name.replace("pruned", "pqat") for name in ORIGINAL if name.endswith("/pruned")}
    assert len(ORIGINAL) == 25
    assert names == ORIGINAL | pqat


@pytest.mark.parametrize("experiment", TREE, ids=name_of)
def test_experiment(experiment):
    """Settings that its stage takes, a network that exists, a header, and nothing but two files in git."""
    settings = parse_settings(experiment)
    text = (experiment.directory / "experiment.yaml").read_text()
    assert experiment.config.stage == experiment.directory.name
    assert experiment.config.normalization == f"{experiment.config.dataset}_scalar"
    assert experiment.config.network is None or experiment.config.network in list_models()
    assert settings.seed == experiment.config.seed
    published = experiment.config.published_accuracy
    expected = f"{published:.2%}".replace("%", " %") if published else "none is published"
    for part in ("DOI 10.1145/3447818.3460378", f"Expected accuracy: {expected}", "Expected time: "):
        assert part in text
    if experiment.settings.get("schedule") == "segments":
        assert len(rates_of(experiment)) == settings.epochs


@pytest.mark.parametrize(
    ("name", "spots"),
    [
        (
            "cifar10/mobilenet/baseline/vanilla",
            {6: 0.10072, 31: 0.0903959, 63: 0.0546798, 94: 0.0173302, 125: 0.00081712},
        ),
        ("cifar10/mnasnet/modified/vanilla", {0: 1e-3, 2: 1e-2, 5: 0.1, 6: 0.10072, 126: 0.0008, 149: 0.0008}),
        ("cifar10/shufflenet/modified/vanilla", {6: 0.10036, 126: 0.0004, 145: 0.0004}),
        (
            "cifar10/fusionet/vanilla",
            {6: 0.1009, 36: 0.08627, 73: 0.0418473, 109: 0.00620329, 125: 0.000792429, 145: 0.0004},
        ),
        ("cifar100/fusionet/vanilla", {0: 0.5002, 35: 0.427006, 70: 0.2503, 105: 0.073594, 139: 0.000462916}),
        ("cifar10/mobilenet/modified/pruned", {0: 2e-2, 120: 0.00257, 240: 8e-5, 259: 8e-5}),
        ("cifar100/mnasnet/pruned", {0: 1e-4, 2: 4e-4, 7: 8e-2, 8: 1e-1, 87: 2.07e-4}),
        ("cifar10/mnasnet/modified/pruned", {0: 1e-3, 4: 8e-2, 5: 1e-1, 85: 1.34e-4}),
        ("cifar10/fusionet/pred", {0: 1e-3, 42: 8e-5, 49: 8e-5}),
        ("cifar10/shufflenet/modified/pred", {7: 1e-3, 8: 8e-4, 17: 8e-4, 18: 4e-4, 29: 4e-4}),
        ("cifar100/fusionet/pred", {0: 1e-2, 42: 1e-4}),
    ],
)
def test_learning_rates_of_the_originals(name, spots):
    rates = rates_of(load_experiment(ROOT / "cnns" / name))
    loose = 3e-3 if name.endswith("pruned") else 1e-5
    assert {epoch: rates[epoch] for epoch in spots} == pytest.approx(spots, rel=loose)


def test_a_training_follows_its_segments_and_a_shorter_one_keeps_their_shape():
    experiment = load_experiment(ROOT / "cnns/cifar10/fusionet/vanilla")
    schedule = parse_settings(experiment).make_schedule(1041)
    rates = rates_of(experiment)
    for epoch in (0, 5, 6, 105, 106, 145):
        for step in (epoch * 1041, epoch * 1041 + 1040):
            assert float(schedule(step)) == pytest.approx(rates[epoch], rel=1e-5)
    short = parse_settings(load_experiment(experiment.directory, {"epochs": 2})).make_schedule(730)
    assert float(short(60)) == pytest.approx(rates[6], rel=1e-5)
    assert float(short(1459)) == pytest.approx(rates[145], rel=1e-5)


@pytest.mark.parametrize(
    ("piece", "words"),
    [
        ({}, "either rates or a curve"),
        ({"rates": [1.0], "epochs": 2}, "epochs has no effect beside rates"),
        ({"curve": "cosine", "epochs": 2}, "needs an end"),
        ({"curve": "cosine", "end": 0.1}, "needs its epochs"),
        ({"curve": "constant", "epochs": 2, "end": 0.1}, "a start only"),
        ({"curve": "cosine", "epochs": 2, "end": 0, "power": 2}, "belongs to the curve polynomial"),
        ({"rates": [-1.0]}, "negative"),
        ({"curve": "sine", "epochs": 2}, "Allowed: constant, cosine, polynomial"),
        ({"rate": [1.0]}, "Did you mean 'rates'"),
        (3, "must be a mapping"),
    ],
)
def test_a_wrong_segment_is_explained(piece, words):
    with pytest.raises(UserError, match=words):
        epoch_rates([piece])


def test_segments_join():
    pieces = [
        Segment(rates=[0.5]),
        Segment(curve="cosine", epochs=3, end=0.1, period=2),
        {"curve": "constant", "epochs": 1},
    ]
    assert epoch_rates(pieces) == pytest.approx([0.5, 0.5, 0.3, 0.1, 0.1])
    assert math.isclose(sum(epoch_rates([Segment(curve="polynomial", epochs=2, start=1, end=0)])), 1.5)
    with pytest.raises(UserError, match="a list of segments"):
        epoch_rates([])


@pytest.fixture
def tree(tmp_path) -> Path:
    """vanilla -> pruned on digits."""
    write(tmp_path / "vanilla", stage="vanilla", dataset="digits", network="resnet20", epochs=1, limit=100)
    write(tmp_path / "pruned", stage="pruned", parent="../vanilla", epochs=2)
    return tmp_path


def write(directory: Path, **values) -> None:
    directory.mkdir(exist_ok=True)
    (directory / "experiment.yaml").write_text(yaml.safe_dump(values))


def test_a_stage_takes_its_data_from_its_parent(tree):
    experiment = load_experiment(tree / "pruned")
    assert (experiment.config.dataset, experiment.config.limit) == ("digits", 100)
    assert [e.directory.name for e in in_order(find_experiments(tree))] == ["vanilla", "pruned"]


def test_overrides(tree):
    experiment = load_experiment(tree / "vanilla", {"extends": "vanilla_126", "schedule": "cosine"})
    assert "schedule_options" not in experiment.settings
    assert experiment.settings["batch_size"] == 192
    replicas = load_experiment(tree / "vanilla", {"extends": "vanilla_126", "batch_per_replica": 24})
    assert parse_settings(replicas, replicas=4).batch_size == 96
    assert overrides_for("pruned", {"epochs": 3, "pruned": {"epochs": 4}, "vanilla": {"epochs": 5}}) == {"epochs": 4}
    with pytest.raises(UserError, match=r"write vanilla\.key=value"):
        overrides_for("vanilla", {"vanilla": 3})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"stage": "vanila"}, "Did you mean 'vanilla'"),
        ({"stage": "vanilla", "dataset": "digits"}, "needs a network"),
        ({"stage": "pruned", "dataset": "digits"}, "needs a parent"),
        ({"stage": "vanilla", "dataset": "digits", "network": "resnet20", "parent": "../vanilla"}, "no parent"),
        ({"stage": "pruned", "parent": "../vanilla", "network": "resnet20"}, "network has no effect"),
        ({"extends": "vanila_126"}, "Did you mean 'vanilla_126'"),
        ({"extends": "missing.yaml"}, "does not exist"),
        ({"extends": 3}, "a recipe's name or the path"),
        ({"extends": "experiment.yaml"}, "extends itself"),
        ({"stage": "pruned", "parent": "../nowhere"}, "does not exist"),
    ],
)
def test_a_wrong_experiment_is_explained(tree, values, words):
    write(tree / "vanilla2", **values)
    with pytest.raises(UserError, match=words):
        load_experiment(tree / "vanilla2")


def test_what_else_is_refused(tree):
    with pytest.raises(UserError, match="no experiment"):
        load_experiment(tree)
    (tree / "empty").mkdir()
    with pytest.raises(UserError, match="no directory there has"):
        find_experiments(tree / "empty")
    with pytest.raises(UserError, match="Did you mean 'epochs'"):
        parse_settings(load_experiment(tree / "vanilla", {"epoch": 3}))
    with pytest.raises(UserError, match="not trained"):
        plan_chain(tree / "pruned")
    with pytest.raises(UserError, match="no such stage"):
        plan_chain(tree, {"pred": {"epochs": 1}})
    write(
        tree / "vanilla",
        stage="pruned",
        parent="../pruned",
        dataset="digits",
        normalization=None,
        validation_fraction=0.1,
        limit=100,
        seed=0,
    )
    with pytest.raises(UserError, match="wait for each other"):
        in_order(find_experiments(tree))


def test_every_recipe_is_read_by_someone():
    used = {e.recipe for e in TREE}
    assert {name for name in list_recipes() if name not in used} == {
        "vanilla",
        "vanilla_original",
        "pruned",
        "pruned_original",
        "pred",
        "pred_original",
    }
