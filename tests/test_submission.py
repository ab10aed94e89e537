"""The batch templates, run here without Slurm and, where one is installed, their directives."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from keras_relu.cli import main
from keras_relu.cli.app import command

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

    def test_resume_is_added_to_every_command_that_has_it(self, environment):
        """The shell's list is the command line's."""

        def resumable(group, path=()):
            for name, member in getattr(group, "commands", {}).items():
                yield from resumable(member, (*path, name))
            if any("--resume" in parameter.opts for parameter in group.params):
                yield path

        paths = list(resumable(command()))
        script = f"source {ROOT}/submission/lib.sh; "
        script += 'for c in "$@"; do kr_arguments $c; echo "${KR_ARGUMENTS[*]}"; done'
        done = subprocess.run(
            ["bash", "-c", script, "x", *(" ".join(path) for path in paths), "evaluate", "decompose select"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.stdout.splitlines() == [*(f"{' '.join(p)} --resume" for p in paths), "evaluate", "decompose select"]

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

    def test_an_array_requeues_its_own_task(self, slurm, tmp_path):
        """Even the last one, whose job number is that of the whole array."""
        (tmp_path / "keras-relu").write_text("#!/bin/bash\nexit 75\n")
        task = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_JOB_ID": "42"}
        assert "scontrol requeue 42_7\n" in run("array.sh", "sweep", environment={**slurm, **task}).stdout

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


class TestContainersAndModules:
    @pytest.fixture
    def site(self, environment, tmp_path) -> dict[str, str]:
        """A stand-in for Apptainer that prints its arguments, and an image."""
        (tmp_path / "apptainer").write_text('#!/bin/bash\nprintf "[%s]" "$@"; echo\n')
        (tmp_path / "apptainer").chmod(0o755)
        (tmp_path / "an image.sif").touch()
        path = f"{tmp_path}:{environment['PATH']}"
        return {**environment, "PATH": path, "CONTAINER": str(tmp_path / "an image.sif")}

    def test_the_command_runs_in_the_container(self, site, tmp_path):
        more = {"KERAS_RELU": "", "DATA_DIR": str(tmp_path), "CONTAINER_OPTIONS": "--writable-tmpfs --pid"}
        out = run("one_gpu.sh", "train", "--output", "a b", environment={**site, **more}).stdout
        assert f"[exec][--nv][--bind][{ROOT}]" in out
        assert f"[--bind][{tmp_path}][--writable-tmpfs][--pid][{tmp_path}/an image.sif][keras-relu]" in out
        assert "[train][--output][a b][--resume]" in out

    @pytest.mark.parametrize(
        ("change", "code", "words"),
        [
            ({"CONTAINER": "missing.sif"}, 2, "missing.sif does not exist"),
            ({"DATA_DIR": "/a:b"}, 2, "a colon or a comma"),
            ({"PATH": "/usr/bin:/bin"}, 127, "neither apptainer nor singularity"),
            ({"CONTAINER": "", "MODULES": "cuda/12"}, 127, "no command 'module'"),
        ],
    )
    def test_what_is_missing_is_explained(self, site, change, code, words):
        done = run("one_gpu.sh", "train", environment={**site, **change})
        assert (done.returncode, words in done.stderr) == (code, True), done.stderr


class TestExperiment:
    """submission.sh of an experiment's directory."""

    @pytest.fixture
    def folder(self, tmp_path) -> Path:
        folder = tmp_path / "it's; $(touch x) %j" / "vanilla"
        folder.mkdir(parents=True)
        shutil.copy(ROOT / "cnns/cifar10/fusionet/vanilla/submission.sh", folder)
        (folder / "experiment.yaml").write_text("stage: vanilla\ndataset: digits\nnetwork: resnet20\n")
        return folder

    def submit(self, folder, environment, *arguments, cwd=None):
        named = {**environment, "KERAS_RELU_ROOT": str(ROOT)}
        script = ["bash", str(folder / "submission.sh") if cwd else "submission.sh", *arguments]
        return subprocess.run(script, cwd=cwd or folder, env=named, capture_output=True, text=True, timeout=30)

    def test_it_runs_its_directory_from_anywhere(self, folder, environment, tmp_path):
        for cwd in (None, tmp_path):
            out = self.submit(folder, environment, "epochs=3", cwd=cwd).stdout
            assert f"arguments: experiment run {folder} epochs=3\n" in out

    def test_the_originals_variables(self, folder, environment):
        knobs = {"TRAINING": "False", "PRE_TRAINED": "True", "GPUS": "2", "DATA_DIR": "/d e"}
        out = self.submit(folder, {**environment, **knobs}).stdout
        assert f"{folder} --training False --pre-trained True --gpus 2 --data-dir /d e\n" in out

    def test_another_tree(self, environment, tmp_path):
        other = tmp_path / "elsewhere" / "cifar10/fusionet/vanilla"
        other.mkdir(parents=True)
        folder = ROOT / "cnns/cifar10/fusionet/vanilla"
        out = self.submit(folder, {**environment, "EXP_PATH": str(tmp_path / "elsewhere")}).stdout
        assert f"experiment run {other}\n" in out

    def test_the_script_that_submit_prints(self, folder, capsys, monkeypatch):
        monkeypatch.setenv("KERAS_RELU_ROOT", str(ROOT))
        assert (
            main(["submit", str(folder), "epochs=2", "--gpus", "4", "--mem", "64G", "--option=--qos=long", "--dry-run"])
            == 0
        )
        command, _, script = capsys.readouterr().out.partition("\n")
        quoted = "'" + str(folder).replace("'", "'\"'\"'") + "'"
        assert command.startswith("# sbatch --parsable '--chdir=")
        assert script == GOLDEN.format(root=ROOT, folder=quoted)
        assert subprocess.run(["bash", "-n"], input=script, text=True, timeout=30).returncode == 0

    def test_other_resources(self, folder, capsys, monkeypatch):
        monkeypatch.setenv("KERAS_RELU_ROOT", str(ROOT))

        def script(*arguments: str) -> str:
            assert main(["submit", str(folder), "--dry-run", *arguments]) == 0
            return capsys.readouterr().out

        nodes = script("--nodes", "3", "--gpus", "0", "--training", "false")
        assert "#SBATCH --nodes=3\n" in nodes
        assert "gres" not in nodes
        assert "#SBATCH --time=0:30:00\n" in nodes
        assert "kr_main --tasks experiment run " in nodes
        array = script("--sweep", "seed=0,1", "--sweep", "learning_rate=0.1,0.05")
        assert "#SBATCH --array=0-3\n" in array
        assert "#SBATCH --output=run/logs/slurm-%A-%a.log\n" in array
        assert "3) set -- seed=1 learning_rate=0.05 --output " in array

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("--mem", "1G\n#SBATCH"), "allowed are letters"),
            (("--option", "qos=long"), "written --name=value"),
            (("--sweep", "seed"), "key=value,value"),
            (("--sweep", "seed=1,1"), "twice"),
            (("--sweep", "seed=1", "--nodes", "2"), "one node per task"),
            (("--training", "perhaps"), "allowed: true, false"),
        ],
    )
    def test_what_submit_refuses(self, folder, capsys, arguments, words):
        assert main(["submit", str(folder), "--dry-run", *arguments]) == 2
        assert words in capsys.readouterr().err

    def test_a_control_character_and_a_missing_sbatch(self, folder, capsys, monkeypatch):
        odd = folder.parent / "line\nbreak"
        shutil.copytree(folder, odd)
        assert main(["submit", str(odd), "--dry-run"]) == 2
        assert "control character" in capsys.readouterr().err
        monkeypatch.setenv("KERAS_RELU_ROOT", str(ROOT))
        monkeypatch.setenv("PATH", str(folder))
        assert main(["submit", str(folder)]) == 2
        assert "no sbatch on this machine" in capsys.readouterr().err

    def test_a_chain_waits_for_its_parents(self, capsys):
        assert main(["submit", str(ROOT / "cnns/cifar10/fusionet"), "--dry-run", "pruned.epochs=90"]) == 0
        out = capsys.readouterr().out
        names = [line.split("=")[1] for line in out.splitlines() if line.startswith("#SBATCH --job-name")]
        assert names == [f"cifar10-fusionet-{stage}" for stage in ("vanilla", "pruned", "pqat", "pred")]
        assert out.count("epochs=90") == 1


GOLDEN = """#!/bin/bash
#SBATCH --job-name=it-s-touch-x-j-vanilla
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=32
#SBATCH --gres=gpu:4
#SBATCH --mem=64G
#SBATCH --time=24:00:00
#SBATCH --output=run/logs/slurm-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --qos=long

KR_ROOT=${{KERAS_RELU_ROOT:-{root}}}
source "$KR_ROOT/submission/lib.sh" || exit 2

kr_main experiment run {folder} epochs=2

"""

SCRIPTS = [*sorted((ROOT / "submission").glob("*.sh")), ROOT / "tests/slurm/cluster.sh"]
SUBMISSIONS = sorted((ROOT / "cnns").rglob("submission.sh"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_every_script_parses(path):
    assert subprocess.run(["bash", "-n", str(path)], timeout=30).returncode == 0


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="no shellcheck on this machine")
def test_shellcheck():
    found = subprocess.run(
        ["shellcheck", "-x", "-P", str(ROOT), *map(str, SCRIPTS)], capture_output=True, text=True, timeout=120
    )
    assert found.stdout == ""
    found = subprocess.run(
        ["shellcheck", "-e", "SC1091", *map(str, SUBMISSIONS)], capture_output=True, text=True, timeout=120
    )
    assert found.stdout == ""


def test_every_submission_is_three_lines():
    """They differ in the job's name and in how deep they lie."""
    assert len(SUBMISSIONS) == 35
    for path in SUBMISSIONS:
        lines = path.read_text().splitlines()
        parts = path.parent.relative_to(ROOT).parts
        assert len(lines) == 3
        assert f"--job-name={'-'.join(parts[1:])} " in lines[1]
        assert f"{{KERAS_RELU_ROOT:-{'/'.join(['..'] * len(parts))}}}" in lines[2]
        assert os.access(path, os.X_OK)
