"""experiment run, chain, list and status, with every stage really trained, on a tree of a small network."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from reference import small_experiments
from reference.small_experiments import write_tree

from keras_relu.models import registry
from keras_relu.runs import load_model

STAGES = ("vanilla", "pruned", "pqat", "pred")


@pytest.fixture(scope="module", autouse=True)
def network():
    """The small network is registered while these tests run."""
    small_experiments.register_network()
    yield
    del registry._ENTRIES[small_experiments.NETWORK]


@pytest.fixture(scope="module")
def trained_tree(call, tmp_path_factory):
    """A tree whose chain has run, and what the command printed."""
    root = write_tree(tmp_path_factory.mktemp("experiments") / "cnns")
    return root, call("experiment", "chain", root, "--json").json["experiments"]


@pytest.fixture
def tree(trained_tree, tmp_path):
    """A copy of it to work in."""
    return shutil.copytree(trained_tree[0], tmp_path / "cnns")


@pytest.fixture
def untrained(tmp_path):
    return write_tree(tmp_path / "untrained")


def result_of(root, stage, run="run"):
    return json.loads((root / stage / run / "result.json").read_text())


def states(call, root):
    rows = call("experiment", "status", root, "--json").json["experiments"]
    return {(row["experiment"].rpartition("/")[2], row["run"]): row["state"] for row in rows}


class TestChain:
    def test_every_stage_is_trained_from_its_parent(self, trained_tree):
        root, rows = trained_tree
        assert [row["stage"] for row in rows] == list(STAGES)
        parents = {stage: result_of(root, stage)["parent"] for stage in STAGES}
        assert parents == {"vanilla": None, **dict.fromkeys(("pqat", "pred"), "../../pruned/run")} | {
            "pruned": "../../vanilla/run"
        }
        assert [row["accuracy"] for row in rows] == [result_of(root, stage)["accuracy"] for stage in STAGES]
        assert rows[1]["published_accuracy"] == 0.5

    def test_the_zeros_of_the_pruned_stage_are_in_every_later_model(self, trained_tree):
        root, _ = trained_tree
        pruned = load_model(root / "pruned" / "run")
        for stage in STAGES[1:]:
            model = load_model(root / stage / "run")
            for name, zeros in (("block1_depthwise_conv", 151), ("block2_project_conv", 96), ("tail_conv", 154)):
                kernel = model.get_layer(name).get_weights()[0]
                assert np.sum(kernel == 0) == zeros
                np.testing.assert_array_equal(kernel == 0, pruned.get_layer(name).get_weights()[0] == 0)

    def test_finished_stages_are_left_alone(self, call, tree):
        def times():
            return {path: path.stat().st_mtime_ns for path in tree.rglob("*") if path.is_file()}

        before = times()
        outcome = call("experiment", "chain", tree)
        assert outcome.err.count(": done") == 4
        assert times() == before

    def test_a_lost_stage_is_made_again_alone(self, call, tree):
        old = result_of(tree, "pred")
        shutil.rmtree(tree / "pred" / "run")
        outcome = call("experiment", "chain", tree)
        assert (outcome.err.count(": done"), outcome.err.count("pred: trained")) == (3, 1)
        assert result_of(tree, "pred")["loss"] == old["loss"]

    def test_settings_of_one_stage(self, call, tree):
        shutil.rmtree(tree / "pred" / "run")
        assert call("experiment", "chain", tree, "pred.epochs=0", "--json").code == 0
        assert result_of(tree, "pred")["epochs"] == {"pred": 0}

    def test_wrong_input(self, refused, tree, untrained):
        assert "'learning_rate' was 0.05, now it is 0.2" in refused("experiment", "chain", tree, "learning_rate=0.2")
        assert "no such stage" in refused("experiment", "chain", tree / "vanilla", "pred.epochs=1")
        assert "Did you mean 'epochs'" in refused("experiment", "chain", untrained, "vanilla.epoch=1")
        assert "A setting needs key=value, received 'epochs'" in refused("experiment", "chain", tree, "epochs")
        assert "not trained" in refused("experiment", "chain", untrained / "pruned")
        assert not list(untrained.rglob("run"))

    @pytest.mark.slow
    def test_a_killed_chain_goes_on_to_the_same_end(self, call, trained_tree, untrained):
        """Killed in vanilla, and in pruned; each time the same command goes on from the newest checkpoint."""
        folder = small_experiments.__file__
        for step, stage in ((4, "vanilla"), (3, "pruned")):
            chain = ["experiment", "chain", str(untrained), "--checkpoint-every", "2"]
            if stage == "pruned":
                assert call("experiment", "run", untrained / "vanilla", "--training", "true").code == 0
            done = subprocess.run([sys.executable, folder, str(step), *chain], capture_output=True, timeout=300)
            assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
            assert states(call, untrained)[stage, "run"] == "stopped"
            assert list((untrained / stage / "run" / "checkpoints").glob("*-00000002.npz"))
        rows = call("experiment", "chain", untrained, "--checkpoint-every", "2", "--json").json["experiments"]
        root, whole = trained_tree
        for row, expected in zip(rows, whole, strict=True):
            assert (row["accuracy"], row["loss"]) == (expected["accuracy"], expected["loss"])
            pair = (load_model(tree / row["stage"] / "run").get_weights() for tree in (untrained, root))
            for a, b in zip(*pair, strict=True):
                np.testing.assert_array_equal(a, b)


class TestModes:
    """The table of TRAINING and PRE_TRAINED in the README, on the stage pruned."""

    def run(self, call, directory, training, pre_trained, *arguments):
        modes = ("--training", training, "--pre-trained", pre_trained)
        return call("experiment", "run", directory, *modes, *arguments, "--json")

    def test_false_true_evaluates_the_stages_model(self, call, tree):
        answer = self.run(call, tree / "pruned", "False", "True").json
        assert answer["correct"] == result_of(tree, "pruned")["correct"]
        assert answer["model"] == str(tree / "pruned" / "run")
        assert call("experiment", "run", tree / "pruned", "--json").json == answer

    def test_a_pqat_model_is_evaluated_with_its_rounding(self, call, tree):
        answer = self.run(call, tree / "pqat", "false", "true").json
        expected = result_of(tree, "pqat")
        assert (answer["correct"], answer["loss"]) == (expected["correct"], pytest.approx(expected["loss"]))

    def test_false_false_evaluates_the_parents_model_or_a_fresh_network(self, call, tree):
        answer = self.run(call, tree / "pruned", "false", "false").json
        assert answer["correct"] == result_of(tree, "vanilla")["correct"]
        fresh = self.run(call, tree / "vanilla", "false", "false").json
        assert fresh["model"] == "a fresh network"
        assert fresh["accuracy"] < 0.5

    def test_true_true_goes_on_in_a_run_of_its_own(self, call, tree):
        before = result_of(tree, "pruned")
        answer = self.run(call, tree / "pruned", "true", "true", "ramp_epochs=0.1").json
        assert result_of(tree, "pruned") == before
        assert result_of(tree, "pruned", "run-continued")["parent"] == "../run"
        assert answer["loss"] != before["loss"]
        assert states(call, tree)["pruned", "run-continued"] == "done"

    def test_true_false_trains_and_never_writes_over_a_finished_run(self, call, tree):
        outcome = self.run(call, tree / "pruned", "true", "false")
        assert (outcome.code, "is finished" in outcome.err) == (2, True)
        shutil.rmtree(tree / "pruned" / "run")
        old = result_of(tree, "pqat")
        assert self.run(call, tree / "pruned", "true", "false").code == 0
        assert result_of(tree, "pqat") == old

    def test_without_a_model_there_is_nothing_to_evaluate(self, refused, untrained):
        for training in ("true", "false"):
            arguments = ("--training", training, "--pre-trained", "true")
            assert "has no finished run" in refused("experiment", "run", untrained / "vanilla", *arguments)
        assert "which has no finished run" in refused("experiment", "run", untrained / "pruned")
        assert not list(untrained.rglob("run*"))


class TestWrongInput:
    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("epoch=2",), "Unknown key for the stage 'vanilla' 'epoch'. Did you mean 'epochs'?"),
            (("epochs=-1",), "epochs"),
            (("network=fusionet_smal",), "Did you mean 'fusionet_small'"),
            (("network_options.width=2",), "Unknown option for model 'fusionet_small' 'width'"),
            (("dataset=digit",), "Did you mean 'digits'"),
            (("epochs",), "A setting needs key=value, received 'epochs'"),
            (("--training", "perhaps"), "--training is 'perhaps'; allowed: true, false."),
            (("--gpus", "64"), "--gpus is 64, this machine has"),
            (("--strategy", "all"), "strategy"),
            (("keep=best", "validation_fraction=0"), "needs a validation split"),
        ],
    )
    def test_a_setting(self, refused, untrained, arguments, words):
        assert words in refused("experiment", "run", untrained / "vanilla", *arguments)
        assert not (untrained / "vanilla" / "run").exists()

    def test_a_directory(self, refused, untrained, tmp_path):
        assert "does not exist" in refused("experiment", "run", tmp_path / "nowhere")
        assert "is no experiment" in refused("experiment", "run", untrained)
        assert "does not exist" in refused("experiment", "status", tmp_path / "nowhere")
        (tmp_path / "empty").mkdir()
        assert "no directory there has" in refused("experiment", "list", tmp_path / "empty")
        assert "no directory there has" in refused("experiment", "chain", tmp_path / "empty")


class TestTables:
    def test_list(self, call, untrained):
        rows = call("experiment", "list", untrained, "--json").json["experiments"]
        assert [(row["stage"], row["network"], row["dataset"]) for row in rows] == [
            (stage, "fusionet_small", "digits") for stage in STAGES
        ]
        assert rows[1]["parent"] == str(untrained / "vanilla")
        assert "fusionet_small" in call("experiment", "list", untrained).out

    def test_status_before_and_after(self, call, untrained, trained_tree):
        waiting = dict.fromkeys([(stage, "run") for stage in STAGES[1:]], "waits for its parent")
        assert states(call, untrained) == {("vanilla", "run"): "configured", **waiting}
        root, _ = trained_tree
        rows = call("experiment", "status", root, "--json").json["experiments"]
        assert {row["state"] for row in rows} == {"done"}
        assert [row["accuracy"] for row in rows] == [result_of(root, stage)["accuracy"] for stage in STAGES]
        assert [row["epoch"] for row in rows] == [1, 1, 1, 1]
        assert "done" in call("experiment", "status", root).out

    def test_a_damaged_result_is_named_so(self, call, tree):
        (tree / "pqat" / "run" / "result.json").write_text("{")
        assert states(call, tree)["pqat", "run"] == "damaged"

    def test_the_tree_of_exp_path(self, call, trained_tree, monkeypatch):
        """As submission.sh takes it: runs are where EXP_PATH says."""
        monkeypatch.setenv("EXP_PATH", str(trained_tree[0]))
        rows = call("experiment", "status", "--json").json["experiments"]
        assert {row["state"] for row in rows} == {"done"}
        assert len(call("experiment", "list", "--json").json["experiments"]) == 4

    def test_runs_elsewhere_are_known(self, call, refused, untrained, tmp_path):
        vanilla = untrained / "vanilla"
        elsewhere, beside = tmp_path / "scratch" / "it's %j", vanilla / "run-seed=4"
        train = ("experiment", "run", vanilla, "epochs=0")
        assert call(*train, "--output", elsewhere, "--json").code == 0
        assert call(*train, "seed=4", "--output", beside, "--json").code == 0
        found = {run: state for (stage, run), state in states(call, untrained).items() if stage == "vanilla"}
        assert found == {"run": "configured", "run-seed=4": "done", str(elsewhere): "done"}
        # Which mode follows from what is there, where it was asked for.
        answer = call(*train, "--output", elsewhere, "--json").json
        assert answer["model"] == str(elsewhere)
        assert f"one is in {str(elsewhere)!r}: move or link it there" in refused(
            "experiment", "run", untrained / "pruned"
        )
        (vanilla / "run").symlink_to(elsewhere)
        assert states(call, untrained)["pruned", "run"] == "configured"
        shutil.rmtree(tmp_path / "scratch")
        os.remove(vanilla / "run")
        assert set(states(call, untrained)) == {("vanilla", "run"), ("vanilla", "run-seed=4")} | {
            (stage, "run") for stage in STAGES[1:]
        }
