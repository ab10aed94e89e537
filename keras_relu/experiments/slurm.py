"""Batch scripts for Slurm, made from the templates in `submission/`.

A path is only ever an argument of a program or a quoted word of the script's body. The directives hold none, since their
quoting differs from the shell's and `%` has a meaning in them: the job starts in the experiment's directory (`--chdir`), and
the log's name is relative to that.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keras_relu.errors import KerasReLUError, UserError
from keras_relu.experiments.config import Experiment
from keras_relu.files import write_text

__all__ = ["Job", "Resources", "find_templates", "make_job", "parse_sweep", "render", "submit"]

EVALUATION_TIME, TRAINING_TIME = "0:30:00", "24:00:00"
MAX_CELLS = 1000

_DIRECTIVE = re.compile(r"#SBATCH --([a-z-]+)(?:=(.*))?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Resources:
    """What a job asks Slurm for; None leaves the template's choice.

    Attributes:
        gpus: per node; 0 asks for none.
        options: further options of sbatch, each `--name=value` or `--name`.
    """

    gpus: int = 1
    nodes: int = 1
    cpus: int | None = None
    memory: str | None = None
    time: str | None = None
    partition: str | None = None
    account: str | None = None
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """One batch job.

    Attributes:
        directory: where it runs.
        script: the text for sbatch.
        arguments: of sbatch, besides the script's directives.
        script_path: where the script is kept, beside the job's log.
    """

    directory: Path
    script: str
    arguments: tuple[str, ...]
    script_path: Path = field(repr=False)

    def command(self, after: str | None = None) -> list[str]:
        """The sbatch command; it starts after the job `after` has succeeded."""
        dependency = [f"--dependency=afterok:{after}"] if after else []
        return ["sbatch", "--parsable", *self.arguments, *dependency, str(self.script_path)]


def find_templates(start: Path) -> Path:
    """The repository whose `submission/` is used: $KERAS_RELU_ROOT, or the one that `start` or this package lies in.

    Raises:
        UserError: there is none.
    """
    named = os.environ.get("KERAS_RELU_ROOT")
    places = [Path(named)] if named else [*start.resolve().parents, *Path(__file__).resolve().parents]
    for place in places:
        if (place / "submission" / "lib.sh").is_file():
            return place.resolve()
    raise UserError(
        "The batch templates (submission/) were not found; set KERAS_RELU_ROOT to a checkout of the repository."
    )


def make_job(
    experiment: Experiment,
    arguments: Sequence[str],
    resources: Resources,
    *,
    training: bool = True,
    cells: Sequence[Mapping[str, str]] = (),
) -> Job:
    """The job that runs an experiment.

    Args:
        arguments: of `keras-relu experiment run` after the directory.
        training: chooses the time limit where the resources give none.
        cells: for an array, the settings of each of its tasks.

    Raises:
        UserError: a directory whose name has control characters, resources that contradict each other, no templates.
    """
    directory = experiment.directory.resolve()
    root = find_templates(directory)
    for path in (directory, root):
        if _CONTROL.search(str(path)):
            raise UserError(f"The directory {str(path)!r} has a control character in its name; rename it to submit it.")
    if cells and resources.nodes > 1:
        raise UserError("An array runs on one node per task; give either --sweep or --nodes.")
    script = render(
        (root / "submission" / _template(resources, cells)).read_text(encoding="utf-8"),
        directives=_directives(directory, resources, training=training, cells=len(cells)),
        body=_body(root, directory, arguments, tasks=resources.nodes > 1, cells=cells),
    )
    place = directory / "run" / "logs" / ("array.sh" if cells else "job.sh")
    return Job(directory, script, (f"--chdir={directory}",), place)


def _template(resources: Resources, cells: Sequence[Any]) -> str:
    if cells:
        return "array.sh"
    if resources.nodes > 1:
        return "many_nodes.sh"
    return "one_node.sh" if resources.gpus > 1 else "one_gpu.sh"


def _directives(directory: Path, resources: Resources, *, training: bool, cells: int) -> dict[str, str | None]:
    """Values that replace the template's; None removes a directive."""
    given: dict[str, str | None] = {
        "job-name": job_name(directory),
        "gres": f"gpu:{resources.gpus}" if resources.gpus else None,
        "time": resources.time or (TRAINING_TIME if training else EVALUATION_TIME),
        "output": f"run/logs/slurm-{'%A-%a' if cells else '%j'}.log",
    }
    if resources.nodes > 1:
        given["nodes"] = str(resources.nodes)
    if cells:
        given["array"] = f"0-{cells - 1}"
    optional = {"cpus-per-task": resources.cpus, "mem": resources.memory}
    optional |= {"partition": resources.partition, "account": resources.account}
    for key, value in optional.items():
        if value is not None:
            given[key] = _plain(key, str(value))
    for option in resources.options:
        key, value = _option(option)
        given[key] = value
    return given


def _plain(key: str, value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.,:+=/@-]+", value):
        raise UserError(f"--{key} is {value!r}; allowed are letters, digits and _ . , : + = / @ -.")
    return value


def _option(text: str) -> tuple[str, str]:
    match = re.fullmatch(r"--([a-z][a-z-]*)(?:=(.+))?", text)
    if not match:
        raise UserError(f"An option of sbatch is written --name=value or --name, received {text!r}.")
    return match[1], _plain(match[1], match[2]) if match[2] else ""


def job_name(directory: Path) -> str:
    """A name for the queue, from the last parts of the path: "cifar10-fusionet-pruned"."""
    parts = directory.parts
    own = parts[parts.index("cnns") + 1 :] if "cnns" in parts[:-1] else parts[-2:]
    return re.sub(r"[^A-Za-z0-9_.]+", "-", "-".join(own)).strip("-") or "keras-relu"


def render(template: str, *, directives: Mapping[str, str | None], body: str) -> str:
    """A script with the template's directives, changed and extended by `directives`, and a body of its own."""
    left = dict(directives)
    lines = ["#!/bin/bash"]
    for line in template.splitlines():
        match = _DIRECTIVE.fullmatch(line)
        if match and match[1] not in left:
            lines.append(line)
        elif match:
            lines += _directive(match[1], left.pop(match[1]))
    for key, value in left.items():
        lines += _directive(key, value)
    return "\n".join([*lines, "", body])


def _directive(key: str, value: str | None) -> list[str]:
    return [] if value is None else [f"#SBATCH --{key}={value}" if value else f"#SBATCH --{key}"]


def _body(
    root: Path, directory: Path, arguments: Sequence[str], *, tasks: bool, cells: Sequence[Mapping[str, str]]
) -> str:
    lines = [
        f"KR_ROOT=${{KERAS_RELU_ROOT:-{shlex.quote(str(root))}}}",
        'source "$KR_ROOT/submission/lib.sh" || exit 2',
        "",
    ]
    main = ["kr_main", *(["--tasks"] if tasks else []), "experiment", "run", str(directory), *arguments]
    if not cells:
        return "\n".join([*lines, shlex.join(main), ""])
    lines.append('case "$SLURM_ARRAY_TASK_ID" in')
    for number, cell in enumerate(cells):
        settings = [f"{key}={value}" for key, value in cell.items()]
        place = directory / f"run-{_cell_name(cell)}"
        lines.append(f"{number}) set -- {shlex.join([*settings, '--output', str(place)])} ;;")
    return "\n".join([*lines, "esac", f'{shlex.join(main)} "$@"', ""])


def _cell_name(cell: Mapping[str, str]) -> str:
    return "-".join(re.sub(r"[^A-Za-z0-9_.=+-]+", "_", f"{key}={value}") for key, value in cell.items())


def parse_sweep(texts: Sequence[str]) -> list[dict[str, str]]:
    """The cells of `["seed=0,1,2", "learning_rate=0.1,0.05"]`: all combinations, the last key fastest.

    Raises:
        UserError: an entry without `=`, an empty or repeated value, a key twice, more than 1,000 cells.
    """
    axes: dict[str, list[str]] = {}
    for text in texts:
        key, separator, values = text.partition("=")
        listed = [value.strip() for value in values.split(",")]
        if not separator or not key.strip() or not all(listed):
            raise UserError(f"--sweep needs key=value,value,..., received {text!r}.")
        if key in axes or len(set(listed)) < len(listed):
            raise UserError(f"--sweep {text!r} names a key or a value twice.")
        axes[key.strip()] = listed
    cells = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())] if axes else []
    if len(cells) > MAX_CELLS:
        raise UserError(f"The sweep has {len(cells)} cells; allowed are {MAX_CELLS}.")
    return cells


def submit(job: Job, after: str | None = None) -> str:
    """Write the job's script and hand it to sbatch; returns the job's number.

    Raises:
        UserError: there is no sbatch here.
        KerasReLUError: sbatch refused the job; its own words are in the message.
    """
    if shutil.which("sbatch") is None:
        raise UserError(
            "There is no sbatch on this machine; use --dry-run to see the script, or run the experiment here: "
            f"bash {shlex.quote(str(job.directory / 'submission.sh'))}"
        )
    # Slurm opens the log before the job could make its folder.
    write_text(job.script_path, job.script)
    answer = subprocess.run(job.command(after), capture_output=True, text=True, timeout=120, check=False)
    if answer.returncode:
        raise KerasReLUError(f"sbatch refused the job of {str(job.directory)!r}: {answer.stderr.strip()}")
    return answer.stdout.strip().split(";")[0]
