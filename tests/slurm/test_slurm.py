"""A real Slurm of two pretend nodes: jobs that train, stop, go on, share a model between nodes, and arrays."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

pytestmark = pytest.mark.slurm

ROOT = Path(__file__).parents[2]
CLUSTER = Path(__file__).with_name("cluster.sh")
DEADLINE_S = 1200
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED")

# Stands in for keras-relu: counts its starts, and waits or stops as the file `plan` in its folder says.
STAND_IN = """#!/bin/bash
cd "$KR_TEST" || exit
me=${SLURM_ARRAY_TASK_ID:-x}
echo "$*" >>"starts.$me"
trap 'echo saved >>"saved.$me"; exit 75' USR1
if [ "$(wc -l <"starts.$me")" = 1 ]; then
    case "$(cat plan)" in
    stop-last) if [ "$me" = 2 ]; then exit 75; fi ;;
    wait) for _ in $(seq 600); do sleep 0.1 & wait $!; done ;;
    esac
fi
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    if os.geteuid() != 0 or not shutil.which("slurmctld"):
        pytest.skip("starting a Slurm of one's own needs root, slurmctld and munge")
    folder = tmp_path_factory.mktemp("slurm")
    subprocess.run(["bash", str(CLUSTER), "up", str(folder), "2"], check=True, timeout=120)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "KERAS_RELU", "TF_"))}
    program = folder / "keras-relu"
    program.write_text(
        f'#!/bin/bash\nexec {sys.executable} -c "import sys; from keras_relu.cli import main; sys.exit(main())" "$@"\n'
    )
    program.chmod(0o755)
    more = {
        "KERAS_RELU": str(program),
        "KERAS_RELU_ROOT": str(ROOT),
        "ONE_HOST": "127.0.0.1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    yield {**kept, "SLURM_CONF": str(folder / "slurm.conf"), "PYTHONPATH": str(ROOT), **more}
    subprocess.run(["bash", str(CLUSTER), "down", str(folder)], check=False, timeout=60)


def ask(environment: dict[str, str], *command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout.strip()


def states(environment: dict[str, str], job: str) -> list[str]:
    return re.findall(r"JobState=(\w+)", ask(environment, "scontrol", "show", "job", "--oneliner", job))


def until(condition, what: str):
    end = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        assert time.monotonic() < end, what
        time.sleep(0.1)
    return found


def hurry(environment: dict[str, str], job: str) -> None:
    """A requeued job need not wait until Slurm's credential of the first start has expired.

    Only its seconds must differ: a start in the second in which the first was revoked is killed as revoked.
    """
    time.sleep(2)
    subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], env=environment, capture_output=True)


def finish(environment: dict[str, str], job: str) -> list[str]:
    def ended():
        if any(state == "PENDING" for state in states(environment, job)):
            hurry(environment, job)
        found = states(environment, job)
        return found if all(state in ENDED for state in found) else None

    return until(ended, f"job {job} did not end: {states(environment, job)}")


def experiment(folder: Path, **settings) -> Path:
    """A directory as below cnns/, on digits, with a submission.sh of the tree."""
    folder.mkdir(parents=True)
    values = {
        "stage": "vanilla",
        "dataset": "digits",
        "network": "resnet20",
        "limit": 400,
        "batch_size": 50,
        "epochs": 12,
    }
    (folder / "experiment.yaml").write_text(yaml.safe_dump({**values, **settings}))
    shutil.copy(ROOT / "cnns/cifar10/fusionet/vanilla/submission.sh", folder)
    return folder


def sbatch(environment: dict[str, str], folder: Path, *options: str) -> str:
    return ask(environment, "sbatch", "--parsable", *options, "submission.sh", cwd=folder)


def log_of(folder: Path) -> str:
    return "".join(file.read_text() for file in sorted((folder / "run" / "logs").glob("*.log")))


def result_of(folder: Path, run: str = "run") -> dict:
    assert (folder / run / "result.json").exists(), log_of(folder)
    return json.loads((folder / run / "result.json").read_text())


@pytest.mark.slow
def test_a_signalled_job_is_requeued_and_ends_like_an_undisturbed_one(cluster, tmp_path):
    whole, cut = experiment(tmp_path / "whole"), experiment(tmp_path / "it's cut; $(x) %j")
    job = sbatch(cluster, cut)
    until(lambda: (cut / "run/metrics.csv").exists(), "the job did not start to train")
    ask(cluster, "scancel", "--batch", "--signal=USR1", job)
    until(lambda: "requeueing job" in log_of(cut), f"no requeue: {log_of(cut)}")
    assert not (cut / "run/result.json").exists()
    other = sbatch(cluster, whole)
    assert finish(cluster, job) == finish(cluster, other) == ["COMPLETED"], log_of(cut)
    assert "restart 1" in log_of(cut)
    assert list((cut / "run/logs").glob("slurm-*.log")) == [cut / f"run/logs/slurm-{job}.log"]
    one, two = result_of(whole), result_of(cut)
    assert {k: one[k] for k in ("accuracy", "loss", "val_loss", "epochs")} == {
        k: two[k] for k in ("accuracy", "loss", "val_loss", "epochs")
    }
    last = [max((f / "run/checkpoints").glob("train-step-*.npz")) for f in (whole, cut)]
    with np.load(last[0]) as a, np.load(last[1]) as b:
        assert all(np.array_equal(a[key], b[key]) for key in a.files if key != "__meta__")


@pytest.mark.slow
def test_two_nodes_train_one_model(cluster, tmp_path):
    folder = experiment(tmp_path / "two", limit=100, epochs=1, batch_per_replica=25)
    values = yaml.safe_load((folder / "experiment.yaml").read_text())
    del values["batch_size"]
    (folder / "experiment.yaml").write_text(yaml.safe_dump(values))
    job = sbatch(cluster, folder, "--nodes=2")
    assert finish(cluster, job) == ["COMPLETED"], log_of(folder)
    assert "NumNodes=2" in ask(cluster, "scontrol", "show", "job", job)
    # 25 images on each of two workers.
    assert yaml.safe_load((folder / "run/config.yaml").read_text())["config"]["batch_size"] == 50
    assert result_of(folder)["total"] == 360


@pytest.mark.slow
def test_an_array_over_seeds(cluster, tmp_path):
    folder = experiment(tmp_path / "array", limit=100, epochs=1)
    command = (cluster["KERAS_RELU"], "submit", str(folder), "--sweep", "seed=0,1", "--json")
    job = next(iter(json.loads(ask(cluster, *command))["jobs"].values()))
    assert finish(cluster, job) == ["COMPLETED", "COMPLETED"], log_of(folder)
    assert [result_of(folder, f"run-seed={seed}")["seed"] for seed in (0, 1)] == [0, 1]


@pytest.fixture
def stand_in(cluster, tmp_path):
    """The cluster with a command that does not train, and the folder where it notes what it did."""
    (tmp_path / "keras-relu").write_text(STAND_IN)
    (tmp_path / "keras-relu").chmod(0o755)

    def prepare(plan: str) -> dict[str, str]:
        (tmp_path / "plan").write_text(plan)
        return {**cluster, "KERAS_RELU": str(tmp_path / "keras-relu"), "KR_TEST": str(tmp_path)}

    return prepare


def starts(folder: Path, task: str = "x") -> int:
    file = folder / f"starts.{task}"
    return len(file.read_text().splitlines()) if file.exists() else 0


def template(name: str, *arguments: str) -> tuple[str, ...]:
    return ("sbatch", "--parsable", "--output=log.%j", str(ROOT / "submission" / name), *arguments)


def test_of_an_array_only_the_interrupted_task_starts_again(stand_in, tmp_path):
    """The last task, which Slurm keeps under the number of the whole array."""
    environment = stand_in("stop-last")
    command = template("array.sh", "sweep", "m")
    job = ask(environment, command[0], "--array=0-2", *command[1:], cwd=tmp_path)
    until(lambda: starts(tmp_path, "2") == 1, "the last task did not start")
    assert finish(environment, job) == ["COMPLETED"] * 3
    assert [starts(tmp_path, str(task)) for task in range(3)] == [1, 1, 2]
    assert "sweep m --cell 2 --resume" in (tmp_path / "starts.2").read_text()


def test_a_cancelled_job_does_not_come_back(stand_in, tmp_path):
    environment = stand_in("wait")
    job = ask(environment, *template("one_gpu.sh", "train"), cwd=tmp_path)
    until(lambda: starts(tmp_path) == 1, "the job did not start")
    ask(environment, "scancel", job)
    assert finish(environment, job) == ["CANCELLED"]
    assert starts(tmp_path) == 1


def test_a_preempted_job_saves_and_comes_back(stand_in, tmp_path):
    environment = stand_in("wait")
    wide = ("--nodes=2", "--gres=gpu:2", "--cpus-per-task=8", "--ntasks=2")
    job = ask(
        environment, *template("one_gpu.sh", "train")[:2], *wide, *template("one_gpu.sh", "train")[2:], cwd=tmp_path
    )
    until(lambda: starts(tmp_path) == 1, "the job did not start")
    urgent = ask(
        environment, "sbatch", "--parsable", "--partition=urgent", *wide, "--output=/dev/null", "--wrap=sleep 1"
    )
    assert finish(environment, urgent) == ["COMPLETED"]
    assert finish(environment, job) == ["COMPLETED"]
    assert (tmp_path / "saved.x").read_text() == "saved\n"
    assert starts(tmp_path) == 2
