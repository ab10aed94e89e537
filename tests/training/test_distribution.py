from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from keras_relu.errors import EXIT_INTERRUPTED
from keras_relu.runs import Run, load_model

JOB = Path(__file__).with_name("distributed_job.py")


def start(strategy: str, directory: Path, *arguments: str, **environment: str) -> subprocess.Popen:
    clean = {k: v for k, v in os.environ.items() if k != "TF_CONFIG" and not k.startswith("SLURM_")}
    command = [sys.executable, str(JOB), strategy, str(directory), *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**clean, **environment}
    )


def finish(process: subprocess.Popen, *, code: int = 0) -> dict:
    try:
        out, err = process.communicate(timeout=150)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == code, err[-3000:]
    return json.loads(out.splitlines()[-1])


def free_port() -> int:
    """The first of two free neighbouring ports, most likely."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def assert_same_training(ours: dict, expected: dict) -> None:
    for a, b in zip(ours["weights"], expected["weights"], strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
    for a, b in zip(ours["history"], expected["history"], strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        assert a["accuracy"] == pytest.approx(b["accuracy"], abs=1e-6)


@pytest.fixture(scope="module")
def one_device(tmp_path_factory) -> dict:
    return finish(start("one", tmp_path_factory.mktemp("one") / "run"))


@pytest.mark.slow
def test_two_replicas_train_like_one_device(tmp_path, one_device):
    mirrored = finish(start("mirrored", tmp_path / "run"))
    assert (one_device["replicas"], mirrored["replicas"]) == (1, 2)
    assert_same_training(mirrored, one_device)
    assert load_model(tmp_path / "run").count_params() > 0


@pytest.mark.slow
def test_two_workers_train_like_one_device_and_only_the_chief_writes(tmp_path, one_device):
    """Both workers stop at the same step on a signal that only one of them got, and both resume."""
    slurm = {
        "SLURM_STEP_NODELIST": "node[0-1]",
        "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
        "ONE_HOST": "127.0.0.1",
        "KERAS_RELU_BASE_PORT": str(free_port()),
    }

    def both(*second_arguments: str, code: int = 0) -> list[dict]:
        arguments = [(), second_arguments]
        workers = [
            start("multiworker", tmp_path / "run", *arguments[i], SLURM_PROCID=str(i), **slurm) for i in range(2)
        ]
        return [finish(worker, code=code) for worker in workers]

    stopped = both("5", code=EXIT_INTERRUPTED)
    assert all("after step 8 of 12" in answer["interrupted"] for answer in stopped)
    first, second = both()
    assert first["weights"] == second["weights"]
    assert_same_training(first, one_device)
    run = Run.open(tmp_path / "run")
    assert [row["step"] for row in run.rows() if row["seconds"] is None] == [4, 8, 12]
