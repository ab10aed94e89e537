"""SIGUSR1, as Slurm sends it before the time limit: the run is saved, says so with its exit code, and goes on later."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

PROGRAM = "import sys; from keras_relu.cli import main; sys.exit(main())"
SETTINGS = ("--dataset", "digits", "--limit", "100", "--batch-size", "50", "--epochs", "5", "--checkpoint-every", "1")
DEADLINE_S = 600


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGUSR1], ids=lambda number: number.name)
def test_a_signal_saves_the_run_and_resume_finishes_it(call, tmp_path, number):
    run = tmp_path / "run"
    command = ["train", "--arch", "resnet20", *SETTINGS, "--output", str(run)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *command], stderr=subprocess.PIPE, env=environment
    ) as process:
        until = time.monotonic() + DEADLINE_S
        while not list(run.glob("checkpoints/train-*.npz")) and process.poll() is None and time.monotonic() < until:
            time.sleep(0.1)
        process.send_signal(number)
        _, errors = process.communicate(timeout=DEADLINE_S)
    text = errors.decode()
    assert process.returncode == 75, text
    assert f"keras-relu: Stopped by {number.name} after step" in text
    assert "resume with the same command and --resume" in text
    assert "Traceback" not in text
    assert not (run / "result.json").exists()
    assert not (run / "model.keras").exists()

    assert call(*command, "--resume", "--json").code == 0
    result = json.loads((run / "result.json").read_text())
    assert (result["total"], result["epochs"]) == (360, {"train": 5})
    lines = (run / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("epoch")
    epochs = [int(line.split(",")[column]) for line in lines[1:]]
    assert epochs == sorted(epochs)
    assert set(epochs) == set(range(1, 6))
