"""submit: experiments as batch jobs."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from keras_relu.cli.common import Json, emit, overrides
from keras_relu.cli.experiments import DataDir, Keys, PreTrained, Root, Training, truth
from keras_relu.errors import UserError

if TYPE_CHECKING:
    from keras_relu.experiments import Experiment
    from keras_relu.experiments.slurm import Job, Resources

__all__ = ["register"]


def submit(
    root: Root,
    keys: Keys = None,
    training: Training = None,
    pre_trained: PreTrained = None,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs per node; 0 asks for none.")] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="Nodes, one worker on each.")] = 1,
    cpus: Annotated[int | None, typer.Option(min=1, help="CPU cores per task.")] = None,
    mem: Annotated[str | None, typer.Option(help="Memory per node: 32G.")] = None,
    time: Annotated[str | None, typer.Option(help="Time limit; default: 24 h to train, 30 min to evaluate.")] = None,
    partition: Annotated[str | None, typer.Option(help="Slurm's partition.")] = None,
    account: Annotated[str | None, typer.Option(help="Slurm's account.")] = None,
    option: Annotated[list[str] | None, typer.Option(help="Any other option of sbatch: --option=--qos=long.")] = None,
    sweep: Annotated[list[str] | None, typer.Option(help="An array over KEY=VALUE,VALUE,...; repeatable.")] = None,
    data_dir: DataDir = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the scripts and submit nothing.")] = False,
    json: Json = False,
) -> None:
    """Submit an experiment to Slurm, or all below a directory, each after the one it starts from."""
    from keras_relu.experiments.slurm import Resources

    asked = (truth("--training", training), truth("--pre-trained", pre_trained))
    options = tuple(option or ())
    wanted = Resources(gpus, nodes, cpus, mem, time, partition, account, options)
    jobs = _jobs(root, keys, sweep, asked, wanted, data_dir)
    if dry_run:
        _print(jobs, json)
        return
    _submit(jobs, json)


def _jobs(
    root: str,
    keys: list[str] | None,
    sweep: list[str] | None,
    asked: tuple[bool | None, bool | None],
    resources: Resources,
    data_dir: str | None,
) -> list[tuple[Experiment, Job]]:
    """The jobs in the order in which they can be submitted."""
    from keras_relu.experiments.chain import plan_chain
    from keras_relu.experiments.progress import progress_of
    from keras_relu.experiments.slurm import make_job, parse_sweep

    cells = parse_sweep(sweep or ())
    planned = plan_chain(root, overrides(keys, option="A setting"), parents_trained=False)
    if len(planned) > 1 and asked == (None, None):
        planned = [e for e in planned if progress_of(e.run_path).state != "done"]
    if cells and len(planned) > 1:
        raise UserError(f"--sweep needs one experiment; there are {len(planned)} below {root!r}.")
    jobs = []
    for experiment in planned:
        arguments = [*_keys_for(experiment.config.stage, keys), *_flags(asked, data_dir)]
        job = make_job(experiment, arguments, resources, training=_trains(experiment, asked), cells=cells)
        jobs.append((experiment, job))
    return jobs


def _trains(experiment: Experiment, asked: tuple[bool | None, bool | None]) -> bool:
    from keras_relu.experiments.run import choose_mode

    return choose_mode(experiment, *asked).training


def _flags(asked: tuple[bool | None, bool | None], data_dir: str | None) -> list[str]:
    named = (("--training", asked[0]), ("--pre-trained", asked[1]))
    flags = [text for name, value in named if value is not None for text in (name, str(value).lower())]
    return flags + ([] if data_dir is None else ["--data-dir", data_dir])


def _keys_for(stage: str, keys: list[str] | None) -> list[str]:
    """The settings that concern one stage, as the command `experiment run` takes them."""
    from keras_relu.experiments.stages import STAGES

    named = [(key.partition(".")[0], key) for key in keys or ()]
    own = [key.partition(".")[2] for head, key in named if head == stage]
    return [key for head, key in named if head not in STAGES] + own


def _print(jobs: list[tuple[Experiment, Job]], as_json: bool) -> None:
    shown = [{"command": shlex.join(job.command()), "script": job.script} for _, job in jobs]
    lines = [f"# {entry['command']}\n{entry['script']}" for entry in shown]
    if as_json:
        emit({"jobs": shown}, as_json=True)
        return
    for line in lines:
        typer.echo(line)


def _submit(jobs: list[tuple[Experiment, Job]], as_json: bool) -> None:
    from keras_relu.experiments.slurm import submit as send

    numbers: dict[str, str] = {}
    for experiment, job in jobs:
        parent = None if experiment.parent is None else numbers.get(str(experiment.parent.resolve()))
        numbers[str(job.directory)] = send(job, parent)
        if not as_json:
            typer.echo(f"job {numbers[str(job.directory)]}: {experiment.directory}")
    if as_json:
        emit({"jobs": numbers}, as_json=True)


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(submit)
