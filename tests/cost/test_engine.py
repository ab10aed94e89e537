"""The engine itself: its counters against the presets, and its answers against clear ones."""

import numpy as np
import pytest

from keras_relu import lowering
from keras_relu.cost import engine
from keras_relu.cost.estimate import estimate
from keras_relu.cost.link import Link
from keras_relu.cost.measure import measure
from keras_relu.errors import KerasReLUError, UserError


def test_engines_that_are_none_are_refused(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="does not exist"):
        engine.find_engine(tmp_path / "nowhere")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "bin" / "python").chmod(0o755)
    with pytest.raises(UserError, match="no Python with the package spu"):
        engine.find_engine(tmp_path)
    monkeypatch.setenv(engine.VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="does not exist"):
        engine.find_engine()


def test_images_and_names_are_checked_before_anything_starts(network):
    with pytest.raises(UserError, match="needs images of shape"):
        measure(network, np.zeros((2, 4, 4, 3), np.float32))
    with pytest.raises(UserError, match="batches of 2"):
        measure(network, np.zeros((3, 8, 8, 3), np.float32), batch_size=2)
    with pytest.raises(UserError, match="kind of weights"):
        measure(network, np.zeros((3, 8, 8, 3), np.float32), weights="mine")
    with pytest.raises(UserError, match="protocol"):
        engine.run_job(engine.Job("spdz", []))


def test_a_failing_engine_is_one_sentence(tmp_path, monkeypatch):
    """A program that ends with an error, and one that does not end: its processes are gone afterwards."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\ncase $1 in -c) exit 0;; esac\necho 'engine: party 1 fell over' >&2\nexit 3\n")
    python.chmod(0o755)
    job = engine.Job("semi2k", [], timeout_s=1)
    with pytest.raises(KerasReLUError, match="party 1 fell over"):
        engine.run_job(job, engine=python)
    python.write_text("#!/bin/sh\ncase $1 in -c) exit 0;; esac\nexec sleep 600\n")
    monkeypatch.setattr(engine, "_GRACE_S", 0.5)
    with pytest.raises(KerasReLUError, match="were ended"):
        engine.run_job(job, engine=python)


@pytest.mark.mpc
@pytest.mark.parametrize("protocol", ["semi2k", "aby3"])
def test_secure_logits_and_counted_bytes(network, reduced, protocol):
    images = np.random.default_rng(5).normal(size=(100, 8, 8, 3)).astype(np.float32)
    low = lowering.lower_masks(reduced["line"]).model
    nets = {"all": lowering.lower_masks(network).model, "low": low}
    found = measure(nets, images, protocol=protocol, weights="public", batch_size=50, timeout_s=120)
    for name, one in found.items():
        assert one.max_error < 1e-2 * max(one.logit_scale, 1.0)
        assert one.same_argmax >= 99
        made = estimate(nets[name], f"spu-{protocol}-64", weights="public")
        assert made.comparison_bytes == pytest.approx(one.comparison_bytes, rel=0.2)
    assert found["low"].comparison_bytes < 0.6 * found["all"].comparison_bytes
    one = found["low"]
    link = Link.parse("8Mbps", "1s")
    assert one.simulated_seconds(link) == pytest.approx(one.seconds + one.bytes / 1e6 + one.rounds / 2)


@pytest.mark.mpc
def test_the_time_limit_ends_everything(network):
    """No machine starts two Pythons that import the engine within this limit."""
    with pytest.raises(KerasReLUError, match="time limit"):
        measure(network, np.zeros((1, 8, 8, 3), np.float32), timeout_s=0.02)
