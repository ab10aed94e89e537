"""The whole run: the same files after a kill at any step, stages in sequence, the original's preset, early refusals."""

import json

import numpy as np
import pytest

from keras_relu import counting
from keras_relu.errors import UserError
from keras_relu.induction import PipelineConfig, preset, read_assignment, run_induction
from keras_relu.induction import run as pipeline
from keras_relu.runs import Run, load_model

STEM = "stem_relu"
MAPPING = {STEM: [STEM, "stage1_block1_relu1"], "stage2_block1_relu1": ["stage2_block1_relu1", "stage2_block1_relu2"]}
TRAINING = {"epochs": 1, "batch_size": 64, "learning_rate": 0.01, "optimizer": "sgd", "augment": False}
SETTINGS = {
    "model": "base",
    "dataset": "digits",
    "mapping": MAPPING,
    "prototypes": [12, 6],
    "images": 100,
    "energy_images": 100,
    "bn_images": 200,
    "finetune": TRAINING,
}
TIMES = ("wall_time_s", "seconds", "parent")


def settings(**changes):
    return PipelineConfig.parse({**SETTINGS, **changes})


def go(network, digits, path, config, **options):
    run = Run.create(path, config=config.to_dict(), stage="induce", resume=True)
    return run_induction(network, digits, config.induction, run, progress=False, **options)


def contents(path):
    """Everything a run wrote that does not hold a time: parsed JSON, arrays, weights."""
    found = {}
    for file in sorted(path.rglob("*")):
        name = str(file.relative_to(path))
        if file.suffix == ".json" and file.name != "elapsed.json":
            values = json.loads(file.read_text())
            found[name] = {key: value for key, value in values.items() if key not in TIMES}
        elif file.suffix in (".npz", ".npy", ".bits") and "checkpoints" not in file.parts:
            found[name] = file.read_bytes()
        elif file.suffix == ".keras":
            found[name] = [weight.tobytes() for weight in load_model(file).get_weights()]
        elif file.name == "config.yaml":
            found[name] = file.read_text()
    return found


class Killed(BaseException):
    """What a kill looks like from within: nothing catches it."""


def killed(*arguments, **options):
    raise Killed


@pytest.fixture(scope="module")
def whole(network, digits, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "run"
    steps = []
    result = go(network, digits, path, settings(sequential=True), on_step=steps.append)
    return path, result, steps


def test_what_a_run_leaves(whole, network):
    path, result, steps = whole
    assert steps[:4] == ["1 plan", "2 flatten", "3 cache, stage 1", "4 verify"]
    assert steps[4:] == [
        *(f"{step}, stage 1" for step in ("6 cluster", "5 and 7 build", "8 fine-tune and test")),
        *(f"{step}, stage 2" for step in ("3 cache", "6 cluster", "5 and 7 build", "8 fine-tune and test")),
    ]
    assert json.loads((path / "verified.json").read_text())["largest_logit_difference"] == 0.0
    assert json.loads((path / "flattened.json").read_text())["names"]["relu0"] == STEM
    joined = read_assignment(path / "assignment.npz")
    assert [group.inducer for group in joined.groups] == list(MAPPING)
    counts = counting.count(load_model(path))
    left = 256 + sum(joined.used.values())
    assert counts.comparison_count == result["comparison_count"] == left <= 256 + 18
    assert json.loads((path / "plan.json").read_text())["comparisons"] == 256 + 18
    assert len(list((path / "stage1" / "prototypes").iterdir())) == 1
    (file,) = (path / "stage2").glob("*_K*.npz")
    assert file.name.startswith("stage2_block1_relu1_K6_fps-energy-pc_seed0_M100_")
    assert result["accuracy"] > 0.3
    # The numbers of the whole: against the network before the first stage, with the prototypes of both.
    first, last = (json.loads((path / stage / "initial.json").read_text()) for stage in ("stage1", "stage2"))
    assert result["baseline_accuracy"] == first["baseline_accuracy"] > 0.5
    assert result["comparison_count_before"] == last["comparison_count_before"] == 960
    assert list(result["prototypes"]) == list(MAPPING)
    assert result["induced_elements"] == 512 + 192
    assert set(result["assignment"]["sites"]) == {name for induced in MAPPING.values() for name in induced}
    # The second stage saw the responses of the network fine-tuned in the first.
    hashes = [read_assignment(next((path / s).glob("*_K*.npz"))).facts["model_hash"] for s in ("stage1", "stage2")]
    assert hashes[0] != hashes[1]


KILLS = [
    ("aliases", 0),
    ("write_cache", 0),
    ("flatten", 0),
    ("cluster", 0),
    ("write_matrices", 0),
    ("write_assignment", 0),
    ("build", 0),
    ("finetune", 0),
    ("write_cache", 1),
    ("cluster", 1),
    ("build", 1),
    ("finetune", 1),
    ("write_assignment", 2),
]


@pytest.mark.parametrize("batch", [KILLS[:4], KILLS[4:8], KILLS[8:]], ids=["early", "first stage", "second stage"])
def test_a_killed_run_goes_on_to_the_same_files(whole, network, digits, tmp_path, monkeypatch, batch):
    """One run is killed several times, each time at a later step, and then left to end."""
    config, path = settings(sequential=True), tmp_path / "run"
    for name, calls in batch:
        with monkeypatch.context() as patch:
            original, seen = getattr(pipeline, name), []

            def counted(*arguments, original=original, seen=seen, calls=calls, name=name, **options):
                seen.append(1)
                return killed() if len(seen) > calls - done_before(path, name) else original(*arguments, **options)

            patch.setattr(pipeline, name, counted)
            with pytest.raises(Killed):
                go(network, digits, path, config)
        assert not (path / "result.json").exists()
    go(network, digits, path, config)
    expected, found = contents(whole[0]), contents(path)
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name] == value, name


def done_before(path, name):
    """Calls of a step's function that earlier attempts have made unnecessary."""
    files = {
        "write_cache": "stage*/cache",
        "cluster": "stage*/*_K*.npz",
        "write_assignment": "stage*/*_K*.npz",
        "build": "stage*/initial.json",
        "finetune": "stage*/finetune/result.json",
    }
    return len(list(path.glob(files[name]))) if name in files else 0


def test_a_kill_within_the_fine_tuning(network, digits, tmp_path, monkeypatch):
    from keras_relu.training import supervised

    config = settings(finetune={**TRAINING, "epochs": 2}, mapping={STEM: [STEM]}, prototypes=5)
    results = []
    for path, kill in ((tmp_path / "whole", False), (tmp_path / "killed", True)):
        if kill:
            with monkeypatch.context() as patch:
                validate = supervised.Selection.validate
                seen = []

                def second(self, seen=seen, validate=validate):
                    seen.append(1)
                    return killed() if len(seen) == 2 else validate(self)

                patch.setattr(supervised.Selection, "validate", second)
                with pytest.raises(Killed):
                    go(network, digits, path, config)
            assert list(path.glob("stage1/finetune/checkpoints/*.npz"))
        go(network, digits, path, config)
        results.append(contents(path))
    assert results[0] == results[1]


def test_the_originals_preset(network, digits, tmp_path):
    values = {**SETTINGS, **preset("original"), "mapping": {STEM: [STEM, "stage1_block1_relu1"]}, "prototypes": 12}
    del values["energy_images"]
    config = PipelineConfig.parse({**values, "images": 60, "finetune": {**preset("original")["finetune"], "epochs": 0}})
    assert (config.association, config.polarity, config.constants, config.bn_images) == ("hamming", False, False, 0)
    original = preset("original")["finetune"]
    assert (original["learning_rate"], original["epochs"], original["batch_size"]) == (8e-4, 20, 64)
    assert (original["weight_decay"], original["schedule"]) == (1e-3, "constant")
    result = go(network, digits, tmp_path / "run", config)
    assert result["accuracy"] == result["accuracy_before_finetune"] == result["accuracy_before_bn"]
    assert result["assignment"]["split"] == "validation"
    assert not result["distilled"]
    (group,) = read_assignment(tmp_path / "run" / "assignment.npz").groups
    assert all(codes.max() < 12 for codes in group.codes.values())


def test_identity_sites_are_there_before_the_cache(network, digits, tmp_path):
    """The original caches the network with all its ReLUs, and assigns for another one than it trains (section 9.3)."""
    mapping = {"inducer_to_induced": {"stage1_block1_relu1": ["stage1_block1_relu2"]}, "set_as_identity": [STEM]}
    config = settings(mapping=mapping, prototypes=8, finetune={**TRAINING, "epochs": 0})
    result = go(network, digits, tmp_path / "run", config)
    assert result["comparison_count"] == 960 - 512
    model = load_model(tmp_path / "run")
    assert model.get_layer(STEM).activation.__name__ == "linear"
    assert np.isfinite(result["loss"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mapping": {"stem": [STEM]}}, "Unknown ReLU site"),
        ({"prototypes": [1, 2, 3]}, "2 inducers, but 3"),
        ({"images": 10**6}, "split has"),
        ({"split": "validation", "images": 1000}, "validation split has"),
        ({"finetune": {**TRAINING, "epoch": 3}}, "Did you mean 'epochs'"),
        ({"finetune": {**TRAINING, "optimizer": "sgdd"}}, "Did you mean 'sgd'"),
    ],
)
def test_wrong_settings_are_found_before_anything_is_written(network, digits, tmp_path, changes, message):
    path = tmp_path / "run"
    with pytest.raises(UserError, match=message):
        go(network, digits, path, settings(**changes))
    assert not list(path.glob("stage*"))
    assert not (path / "plan.json").exists()


def test_unknown_keys_name_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'sequential'"):
        settings(sequentiel=True)
