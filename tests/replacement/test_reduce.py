"""The main job on real (small) images: budgets met exactly, on the file that was written, and resumed to the bit."""

import os
import signal
import sys

import numpy as np
import pytest
import tf_keras as keras

from keras_relu import counting, data, replacement
from keras_relu.errors import Interrupted, TrainingDivergedError, UserError
from keras_relu.replacement.config import REPLACEMENTS
from keras_relu.runs import Run, load_model

BUDGET = 100
TOTAL = 8 * 8 * 4 + 4 * 4 * 8


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", limit=256)


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((8, 8, 1))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3, padding="same", use_bias=False)(x))
    x = keras.layers.ReLU(name="first")(x)
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(x))
    x = keras.layers.ReLU(name="second")(x)
    return keras.Model(inputs, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x)))


def config(**changes):
    phases = {"search": {"epochs": 2, "mask_interval": 2, **changes.pop("search", {})}, "finetune": {"epochs": 1}}
    return {"budget": BUDGET, "batch_size": 32, **phases, **changes}


@pytest.mark.parametrize("name", REPLACEMENTS)
def test_budget_is_met_exactly_by_every_replacement(network, digits, name):
    reduction = replacement.reduce(network, digits, config(replacement=name), progress=False)
    assert reduction.result["relu_count"] == BUDGET
    assert counting.count(reduction.model).relu_count == BUDGET
    assert sum(int(mask.sum()) for mask in reduction.masks.values()) == BUDGET
    assert reduction.result["relu_count_before"] == TOTAL
    assert 0.0 <= reduction.result["accuracy"] <= 1.0


@pytest.mark.parametrize("granularity", ["channel", "layer"])
def test_coarse_gates_stay_within_the_budget(network, digits, granularity):
    chosen = config(granularity=granularity, budget=128, replacement="identity")
    masks = replacement.reduce(network, digits, chosen, progress=False).masks
    assert 0 < sum(int(mask.sum()) for mask in masks.values()) <= 128
    for mask in masks.values():
        axes = (0, 1) if granularity == "channel" else (0, 1, 2)
        assert (mask.min(axis=axes) == mask.max(axis=axes)).all()


def test_penalty_with_its_controller_reaches_the_budget(network, digits):
    """At the end of the search the count is near the budget from the penalty alone; freezing then makes it exact."""
    gated = replacement.replace_relus(network, replacement="identity", gate={"name": "hysteresis", "tau": 0.003})
    search = replacement.Search(
        method="penalty",
        saliency="straight_through",
        epochs=8,
        mask_interval=2,
        score_interval=1,
        score_learning_rate=0.05,
    )
    replacement.search(gated, digits, BUDGET, search, batch_size=32, progress=False)
    kept = replacement.kept_count(gated)
    assert kept < 0.6 * TOTAL
    assert replacement.freeze(gated, BUDGET) == min(kept, BUDGET)


@pytest.mark.parametrize("changes", [{"search": {"saliency": "straight_through"}}, {"distillation": None}])
def test_variants_of_the_search(network, digits, changes):
    assert replacement.reduce(network, digits, config(**changes), progress=False).result["relu_count"] == BUDGET


@pytest.mark.parametrize("name", [name for name in replacement.PRESETS if name != "default"])
def test_published_presets_run(network, digits, name):
    chosen = {**replacement.preset(name), "budget": BUDGET, "batch_size": 32}
    for phase in ("search", "finetune"):
        chosen[phase] = {**chosen[phase], "epochs": 1}
    assert replacement.reduce(network, digits, chosen, progress=False).result["relu_count"] <= BUDGET


def test_the_given_model_is_untouched(network, digits):
    before = [weight.copy() for weight in network.get_weights()]
    replacement.reduce(network, digits, config(), progress=False)
    assert all(np.array_equal(a, b) for a, b in zip(before, network.get_weights(), strict=True))


class TestRun:
    def run(self, path, network, digits, *, resume=False, stop_at=None, monkeypatch=None):
        settings = replacement.ReduceConfig.parse(config())
        run = Run.create(path, config=settings.to_dict(), stage="reduce", resume=resume)
        if stop_at:
            _signal_at(monkeypatch, stop_at)
        return replacement.reduce(network, digits, settings, run=run, resume=resume, checkpoint_every=3, progress=False)

    def test_the_written_files_say_the_same(self, tmp_path, network, digits):
        reduction = self.run(tmp_path / "run", network, digits)
        result = Run.open(tmp_path / "run").result
        masks = np.load(tmp_path / "run" / "masks.npz")
        assert result["relu_count"] == BUDGET == sum(int(masks[site["name"]].sum()) for site in result["sites"])
        assert [site["kept"] for site in result["sites"]] == [int(m.sum()) for m in reduction.masks.values()]
        assert counting.count(load_model(tmp_path / "run")).relu_count == BUDGET
        assert not [w for w in load_model(tmp_path / "run").weights if "score" in w.name or "mask" in w.name]

    @pytest.mark.parametrize("stop_at", [5, 17])
    def test_resuming_changes_nothing(self, tmp_path, network, digits, monkeypatch, stop_at):
        """Interrupted in the search (step 5 of 14) or in the fine-tuning (step 3 of 7), then resumed."""
        whole = self.run(tmp_path / "whole", network, digits)
        with pytest.raises(Interrupted, match="resume"):
            self.run(tmp_path / "parts", network, digits, stop_at=stop_at, monkeypatch=monkeypatch)
        monkeypatch.undo()
        parts = self.run(tmp_path / "parts", network, digits, resume=True)
        assert all(np.array_equal(whole.masks[name], parts.masks[name]) for name in whole.masks)
        for a, b in zip(whole.model.get_weights(), parts.model.get_weights(), strict=True):
            assert np.array_equal(a, b)
        assert whole.result["loss"] == parts.result["loss"]


def _signal_at(monkeypatch, step):
    """Send SIGTERM to this process at the `step`-th optimiser step of the whole reduction."""
    # The package exports the function under the name of its module.
    module = sys.modules["keras_relu.replacement.reduce"]
    calls = {"count": 0}
    original = module.fit

    def counted(*args, on_step=None, **options):
        def hook(index):
            calls["count"] += 1
            if calls["count"] == step:
                os.kill(os.getpid(), signal.SIGTERM)
            if on_step:
                on_step(index)

        return original(*args, on_step=hook, **options)

    monkeypatch.setattr(module, "fit", counted)


class TestRefusals:
    @pytest.mark.parametrize("budget", [-1, TOTAL + 1, "many", "nan", 1.5, "inf"])
    def test_budget(self, network, digits, budget):
        with pytest.raises(UserError, match="budget"):
            replacement.reduce(network, digits, config(budget=budget), progress=False)

    def test_unknown_setting_names_the_nearest(self, network, digits):
        with pytest.raises(UserError, match="ramp_fraction"):
            replacement.reduce(network, digits, config(search={"ramp_fracton": 0.5}), progress=False)

    def test_penalty_needs_trained_scores(self):
        with pytest.raises(UserError, match="straight_through"):
            replacement.ReduceConfig.parse({"budget": 1, "search": {"method": "penalty"}})

    def test_unknown_preset(self):
        with pytest.raises(UserError, match="moment-joint-adam"):
            replacement.preset("moment-joint-adm")

    def test_a_diverging_search_names_its_step(self, network, digits):
        wild = config(search={"learning_rate": 1e30, "clip_norm": None, "warmup_fraction": 0.0}, replacement="identity")
        with pytest.raises(TrainingDivergedError, match="step"):
            replacement.reduce(network, digits, wild, progress=False)
