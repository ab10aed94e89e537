"""experiment run, chain, list, status."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_relu.cli.common import DataDir, Json, StrategyName, emit, overrides, strategy_for, table
from keras_relu.cli.quiet import start_tensorflow
from keras_relu.errors import UserError

if TYPE_CHECKING:
    import tensorflow as tf

    from keras_relu.experiments import Experiment

__all__ = ["DataDir", "Keys", "PreTrained", "Root", "Training", "register", "truth"]

_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}

Directory = Annotated[str, typer.Argument(help="A directory with an experiment.yaml.")]
Root = Annotated[str, typer.Argument(help="A directory of the tree; everything below it is meant.")]
Tree = Annotated[str, typer.Argument(envvar="EXP_PATH", help="A directory of the tree; everything below it is meant.")]
Keys = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings that win over the file's.")]
Training = Annotated[
    str | None, typer.Option("--training", help="true or false; default: train until there is a finished run.")
]
PreTrained = Annotated[str | None, typer.Option("--pre-trained", help="true or false: the stage's own finished model.")]
Gpus = Annotated[int | None, typer.Option(min=0, help="How many GPUs of this machine; default: all.")]
Every = Annotated[
    int, typer.Option(help="Steps between checkpoints; 0 = after every epoch. A signal and the end always save.")
]
RunPlace = Annotated[str | None, typer.Option("--output", "-o", help="The run directory; default: DIRECTORY/run.")]

experiments = typer.Typer(no_args_is_help=True, help="The tree of experiments: networks and stages.")


@experiments.command("run")
def run(
    directory: Directory,
    keys: Keys = None,
    training: Training = None,
    pre_trained: PreTrained = None,
    gpus: Gpus = None,
    data_dir: DataDir = None,
    output: RunPlace = None,
    strategy: StrategyName = "auto",
    checkpoint_every: Every = 200,
    json: Json = False,
) -> None:
    """Train or evaluate one experiment; goes on with what an interrupted run has saved."""
    from keras_relu.experiments.config import load_experiment

    asked = {"training": truth("--training", training), "pre_trained": truth("--pre-trained", pre_trained)}
    experiment = load_experiment(directory, overrides(keys, option="A setting"))
    placed = _strategy(strategy, gpus)
    from keras_relu.experiments.run import choose_mode, run_experiment

    mode = choose_mode(experiment, **asked, output=output)
    options = {"checkpoint_every": checkpoint_every, "progress": not json} if mode.training else {}
    result = run_experiment(experiment, mode, output=output, data_dir=data_dir, strategy=placed, **options)
    emit(_short(experiment, result), as_json=json, lines=[table(("result", ""), _short(experiment, result).items())])


@experiments.command("chain")
def chain(
    root: Root,
    keys: Keys = None,
    gpus: Gpus = None,
    data_dir: DataDir = None,
    strategy: StrategyName = "auto",
    checkpoint_every: Every = 200,
    json: Json = False,
) -> None:
    """Train all stages below a directory, each from its parent; finished ones are kept, an interrupted one goes on.

    KEY=VALUE counts for every stage, STAGE.KEY=VALUE (vanilla.epochs=2) for one.
    """
    from keras_relu.experiments.chain import plan_chain, run_chain

    planned = plan_chain(root, overrides(keys, option="A setting"))
    placed = _strategy(strategy, gpus)

    def say(experiment: Experiment, state: str) -> None:
        if not json:
            typer.echo(f"{experiment.directory}: {state}", err=True)

    results = run_chain(
        planned,
        on_stage=say,
        data_dir=data_dir,
        strategy=placed,
        checkpoint_every=checkpoint_every,
        progress=not json,
    )
    rows = [_short(e, result) for e, result in zip(planned, results, strict=True)]
    columns = ("experiment", "stage", "accuracy", "val_accuracy", "published_accuracy", "wall_time_s")
    emit({"experiments": rows}, as_json=json, lines=[table(columns, [[r.get(c) for c in columns] for r in rows])])


@experiments.command("list")
def list_(root: Tree = "cnns", json: Json = False) -> None:
    """What is configured: every experiment with its network, parent and recipe."""
    from keras_relu.experiments.tree import find_experiments, in_order, list_rows

    _show(list_rows(in_order(find_experiments(root))), json)


@experiments.command("status")
def status(root: Tree = "cnns", json: Json = False) -> None:
    """How far every experiment is, and its accuracy beside the published one; also of runs that --output put elsewhere."""
    from keras_relu.experiments.tree import find_experiments, in_order, status_rows

    _show(status_rows(in_order(find_experiments(root))), json)


@experiments.command("recipes")
def recipes(json: Json = False) -> None:
    """The shared recipes that an experiment.yaml can extend."""
    from keras_relu.experiments.config import list_recipes

    emit({"recipes": list_recipes()}, as_json=json, lines=list_recipes())


def _show(rows: list[dict[str, Any]], as_json: bool) -> None:
    columns = list(rows[0])
    emit({"experiments": rows}, as_json=as_json, lines=[table(columns, [list(row.values()) for row in rows])])


def _short(experiment: Experiment, result: dict[str, Any]) -> dict[str, Any]:
    """The headline numbers of a result, with the published accuracy beside them."""
    first = {"experiment": str(experiment.directory), "stage": experiment.config.stage}
    numbers = {
        key: value
        for key, value in result.items()
        if key not in first and (value is None or isinstance(value, str | int | float)) and key not in _LEFT_OUT
    }
    return {**first, **numbers, "published_accuracy": experiment.config.published_accuracy}


_LEFT_OUT = ("git_revision", "config_hash")


def truth(option: str, text: str | None) -> bool | None:
    """The value of an option that is true, false or left open; also as the original scripts wrote it, True and False."""
    if text is None:
        return None
    if text.lower() not in _TRUTH:
        raise UserError(f"{option} is {text!r}; allowed: true, false.")
    return _TRUTH[text.lower()]


def _strategy(name: str, gpus: int | None) -> tf.distribute.Strategy | None:
    """The strategy over `gpus` GPUs of this machine."""
    start_tensorflow()
    import tensorflow as tf

    if gpus is not None:
        there = tf.config.list_physical_devices("GPU")
        if gpus > len(there):
            raise UserError(f"--gpus is {gpus}, this machine has {len(there)}.")
        tf.config.set_visible_devices(there[:gpus], "GPU")
    return strategy_for(name)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(experiments, name="experiment")
