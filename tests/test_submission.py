"""The batch templates, run here without Slurm and, where one is installed, their directives."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEMPLATES = ("one_gpu.sh", "one_node.sh", "many_nodes.sh", "array.sh")

# Stands in for keras-relu: prints its arguments, and on USR1 "saves" and exits as the command does.
COMMAND = """#!/bin/bash
echo "arguments: $*"
if [ "$1" = fail ]; then exit 3; fi
if [ "$1" = train ] && [ -n "${WAIT:-}" ]; then
    trap 'echo saved; exit 75' USR1
    echo waiting
    for _ in $(seq 100); do sleep 0.1 & wait $!; done
fi
"""


@pytest.fixture
def environment(tmp_path) -> dict[str, str]:
    command = tmp_path / "keras-relu"
    command.write_text(COMMAND)
    command.chmod(0o755)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "KERAS_RELU"))}
    return {**kept, "KERAS_RELU": str(command)}


def run(template: str, *arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", str(ROOT / "submission" / template), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
    )


class TestWithoutSlurm:
    @pytest.mark.parametrize("template", TEMPLATES)
    def test_runs_the_command_and_adds_resume(self, environment, template):
        done = run(template, "train", "--arch", "resnet20", environment=environment)
        assert done.returncode == 0
        assert "arguments: train --arch resnet20 --resume\n" in done.stdout

    def test_resume_is_added_once_and_only_where_it_exists(self, environment):
        assert "train --resume\n" in run("one_gpu.sh", "train", "--resume", environment=environment).stdout
        assert "evaluate m\n" in run("one_gpu.sh", "evaluate", "m", environment=environment).stdout

    def test_arguments_keep_their_spaces(self, environment):
        assert "--output a  b" in run("one_gpu.sh", "train", "--output", "a  b", environment=environment).stdout

    def test_exit_codes_come_through(self, environment):
        assert run("one_gpu.sh", "fail", environment=environment).returncode == 3
        assert run("one_gpu.sh", environment=environment).returncode == 2

    def test_a_missing_command_is_explained(self, environment, tmp_path):
        shutil.copytree(ROOT / "submission", tmp_path / "elsewhere" / "submission")
        bare = {**environment, "KERAS_RELU": "", "PATH": "/usr/bin:/bin"}
        script = tmp_path / "elsewhere" / "submission" / "one_gpu.sh"
        done = subprocess.run(["bash", str(script), "train"], env=bare, capture_output=True, text=True, timeout=30)
        assert done.returncode == 127
        assert "make venv" in done.stderr

    @pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
    def test_a_stop_signal_reaches_the_command_and_its_code_comes_back(self, environment, number):
        process = subprocess.Popen(
            ["bash", str(ROOT / "submission" / "one_gpu.sh"), "train"],
            env={**environment, "WAIT": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        while "waiting" not in process.stdout.readline():
            time.sleep(0.01)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
        assert "saved" in out
        assert process.returncode == 75
        assert "goes on from its checkpoint" in err


class TestUnderSlurm:
    @pytest.fixture
    def slurm(self, environment, tmp_path) -> dict[str, str]:
        """Slurm's variables and stand-ins for the two commands that the library calls."""
        for name, script in (("scontrol", 'echo "scontrol $*"'), ("srun", 'echo "srun $1"; shift; exec "$@"')):
            (tmp_path / name).write_text(f"#!/bin/bash\n{script}\n")
            (tmp_path / name).chmod(0o755)
        job = {"SLURM_JOB_ID": "42", "SLURM_SUBMIT_DIR": str(ROOT), "PATH": f"{tmp_path}:{environment['PATH']}"}
        return {**environment, **job}

    def test_an_interrupted_job_is_requeued(self, slurm, tmp_path):
        (tmp_path / "keras-relu").write_text("#!/bin/bash\nexit 75\n")
        done = run("one_gpu.sh", "train", environment=slurm)
        assert (done.returncode, "scontrol requeue 42" in done.stdout) == (75, True)

    def test_a_failed_job_is_not(self, slurm):
        assert "requeue" not in run("one_gpu.sh", "fail", environment=slurm).stdout

    def test_many_nodes_go_through_srun(self, slurm):
        done = run("many_nodes.sh", "train", environment=slurm)
        assert "srun --kill-on-bad-exit=1\narguments: train --resume\n" in done.stdout

    def test_an_array_task_runs_its_cell(self, slurm):
        done = run("array.sh", "sweep", "m", environment={**slurm, "SLURM_ARRAY_TASK_ID": "7"})
        assert "arguments: sweep m --cell 7 --resume\n" in done.stdout


@pytest.mark.parametrize("template", TEMPLATES)
def test_directives(template):
    text = (ROOT / "submission" / template).read_text()
    for line in ("--signal=B:USR1@120", "--requeue", "--open-mode=append"):
        assert f"#SBATCH {line}" in text
