"""One update of every experiment in cnns/, each from its parent, with its own recipe, on a few random images.

The networks are narrow, and each kind of block stands in them once or twice: that is what the stages depend on, and the
real tables are counted in tests/models. Batches are of two images; the masks of the stage pruned, which a single update of
the original ramp would leave open, are closed at once, so that later stages have zeros to keep.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import tf_keras as keras

from keras_relu.experiments import load_experiment
from keras_relu.experiments.run import Mode, run_experiment
from keras_relu.experiments.tree import find_experiments, in_order
from keras_relu.models import fusionet, registry, shufflenet
from keras_relu.runs import Run
from keras_relu.training.checkpoint import read
from keras_relu.training.segments import epoch_rates

ROOT = Path(__file__).parents[2]
CHAINS = sorted({e.directory.parent.relative_to(ROOT).as_posix() for e in find_experiments(ROOT / "cnns")})
OVERRIDES = {"vanilla": {"network_options": {"width": 0.0625}}, "pruned": {"ramp": "updates"}}


def shallow(rows):
    """The first two rows, and of the others the first of each kind."""
    kinds, chosen, channels = set(), [], None
    for index, row in enumerate(rows):
        kind = (row.kernel, row.strides, row.se > 0, row.residual, row.outputs == channels)
        if index < 2 or kind not in kinds:
            kinds.add(kind)
            chosen.append(row)
            channels = row.outputs
    return tuple(chosen)


@pytest.fixture(scope="module", autouse=True)
def shallow_networks():
    with pytest.MonkeyPatch.context() as patch:
        for name in [*registry.list_models("mobilenet*"), *registry.list_models("mnasnet*")]:
            entry = registry.get_entry(name)
            fixed = {**entry.fixed, "table": shallow(entry.fixed["table"])}
            patch.setitem(registry._ENTRIES, name, dataclasses.replace(entry, fixed=fixed))
        for module, table in ((shufflenet, "_BASELINE"), (shufflenet, "_MODIFIED"), (fusionet, "_TABLE")):
            patch.setattr(module, table, shallow(getattr(module, table)))
        yield


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder with few and random images in the official files of both data sets."""
    folder, random = tmp_path_factory.mktemp("cifar"), np.random.default_rng(0)

    def write(path, size, *labels):
        path.parent.mkdir(exist_ok=True)
        pixels = random.integers(0, 256, (size, 3072), np.uint8)
        np.column_stack([*(column.astype(np.uint8) for column in labels), pixels]).tofile(path)

    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        write(folder / "cifar-10-batches-bin" / f"{name}.bin", 10, np.arange(10))
    for name in ("train", "test"):
        write(folder / "cifar-100-binary" / f"{name}.bin", 100, np.arange(100) // 5, np.arange(100))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("chain", CHAINS)
def test_one_update_of_every_stage(chain, images, tmp_path):
    shutil.copytree(ROOT / chain, tmp_path / chain, ignore=shutil.ignore_patterns("run*"))
    for found in in_order(find_experiments(tmp_path / chain)):
        stage = found.config.stage
        experiment = load_experiment(found.directory, {"batch_size": 2, **OVERRIDES.get(stage, {})})
        options = {"data_dir": str(images), "progress": False, "log_every": 1, "max_steps": 1}
        result = run_experiment(experiment, Mode(training=True, pre_trained=False), **options)
        keras.backend.clear_session()
        assert (result["stage"], result["parameters"] > 0) == (stage, True)
        check_update(experiment)
        check_zeros(experiment, result)


def check_update(experiment):
    """One update at the first rate of the recipe; the momenta in its checkpoint are the gradients it was made of."""
    (row,) = [row for row in Run.open(experiment.run_path).rows() if row["seconds"] is None]
    settings = experiment.settings
    first = epoch_rates(settings["schedule_options"]["segments"])[0] if settings["schedule"] == "segments" else None
    assert row["step"] == 1
    assert np.isfinite(row["loss"])
    assert first is None or row["learning_rate"] == pytest.approx(first * settings["learning_rate"], rel=1e-5)
    arrays, _ = read(experiment.run_path / "checkpoints" / "train-step-00000001.npz")
    momenta = [value for key, value in arrays.items() if key.startswith("optimizer/")]
    assert np.mean([np.any(value) for value in momenta]) > 0.5
    assert all(np.isfinite(value).all() for value in momenta)


def check_zeros(experiment, result):
    """The stage pruned leaves what its recipe says, and every kernel of the later ones has as many zeros at least."""
    stage = experiment.config.stage
    if stage == "pruned":
        for kind in ("pointwise", "depthwise"):
            wanted = experiment.settings[f"{kind}_sparsity"]
            assert result["pruned"][kind]["sparsity"] == pytest.approx(wanted, abs=0.03)
    elif stage != "vanilla":
        pruned = Run.open(experiment.parent / "run").result["kernels"]
        zeros = {kernel["name"]: kernel["zeros"] for kernel in result["kernels"]}
        assert sum(kernel["zeros"] for kernel in pruned) > 0
        assert all(zeros[kernel["name"]] >= kernel["zeros"] for kernel in pruned)
