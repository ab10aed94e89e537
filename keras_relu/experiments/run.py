"""Running one experiment, in the modes of the original scripts.

| TRAINING | PRE_TRAINED | what happens |
|---|---|---|
| true | false | the stage is trained: vanilla from scratch, the others from their parent's model |
| false | true | the stage's model is evaluated |
| true | true | training goes on from the stage's own finished model, in a new run |
| false | false | the fresh network (vanilla) or the parent's model is evaluated |

Without either, the stage is trained when it has no finished run, and evaluated when it has one. Training always goes on
with what an interrupted run has saved.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_relu.config import Config
from keras_relu.errors import UserError
from keras_relu.experiments.config import Experiment
from keras_relu.experiments.places import note_run, runs_of
from keras_relu.experiments.progress import progress_of
from keras_relu.experiments.stages import STAGES, parse_settings

if TYPE_CHECKING:
    import tensorflow as tf
    import tf_keras as keras

    from keras_relu.data import Dataset

__all__ = ["Mode", "choose_mode", "require_same", "run_experiment"]

CONTINUED = "continued"


@dataclass(frozen=True)
class Mode:
    """A row of the table above."""

    training: bool
    pre_trained: bool


def choose_mode(
    experiment: Experiment,
    training: bool | None,
    pre_trained: bool | None,
    *,
    output: str | os.PathLike | None = None,
) -> Mode:
    """The mode that was asked for; what was left open follows from whether there is a finished run in `output`."""
    if training is None and pre_trained is None:
        finished = progress_of(_place(experiment, output)).state == "done"
        return Mode(not finished, finished)
    if training is None:
        return Mode(not pre_trained, bool(pre_trained))
    return Mode(training, (not training) if pre_trained is None else pre_trained)


def run_experiment(
    experiment: Experiment,
    mode: Mode | None = None,
    *,
    output: str | os.PathLike | None = None,
    data_dir: str | None = None,
    strategy: tf.distribute.Strategy | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Train or evaluate an experiment.

    Args:
        mode: default: `choose_mode` with nothing asked for.
        output: the run directory; default: `run` in the experiment's directory.
        data_dir: folder that holds the data set's files.
        options: of the stage's function: checkpoint_every, log_every, progress, max_steps.

    Returns:
        The content of the run's result.json after training, what was measured after an evaluation.

    Raises:
        UserError: a wrong configuration, a parent without a finished run, no model to evaluate.
        Interrupted, TrainingDivergedError: see `training.fit`.
    """
    import tensorflow as tf

    strategy = strategy or tf.distribute.get_strategy()
    mode = mode or choose_mode(experiment, None, None, output=output)
    settings = parse_settings(experiment, replicas=strategy.num_replicas_in_sync)
    path = _place(experiment, output)
    source = _source(experiment, mode, path)
    _require_precision(settings)
    dataset = _load_data(experiment, data_dir)
    _require_same_data(dataset, source)
    if mode.training:
        path = path.with_name(f"{path.name}-{CONTINUED}") if mode.pre_trained else path
        return _train(experiment, settings, dataset, path, source=source, strategy=strategy, **options)
    return _evaluate(experiment, dataset, source)


def _place(experiment: Experiment, output: str | os.PathLike | None) -> Path:
    return experiment.run_path if output is None else Path(output)


def require_same(
    experiment: Experiment, data_dir: str | None = None, strategy: tf.distribute.Strategy | None = None
) -> dict[str, Any]:
    """The result of the experiment's finished run.

    Raises:
        UserError: it was made with other settings than the experiment has now; names the first that differs.
    """
    from keras_relu.runs import Run

    settings = parse_settings(experiment, replicas=1 if strategy is None else strategy.num_replicas_in_sync)
    run = Run.open(experiment.run_path)
    run.require_same(_record(experiment, settings, _load_data(experiment, data_dir)))
    return run.result


def _source(experiment: Experiment, mode: Mode, path: Path) -> Path | None:
    """The run whose model is the start or the subject; None where a fresh network is."""
    if mode.pre_trained:
        if progress_of(path).state != "done":
            raise UserError(
                f"The experiment {str(experiment.directory)!r} has no finished run in {str(path)!r} yet; "
                "train it first (--training true --pre-trained false)."
            )
        return path
    if experiment.parent is None:
        return None
    parent = experiment.parent / "run"
    if progress_of(parent).state != "done":
        raise UserError(
            f"The experiment {str(experiment.directory)!r} starts from {str(experiment.parent)!r}, which has no finished "
            f"run in {str(parent)!r} yet{_finished_elsewhere(experiment.parent)}; train that first, or run the chain: "
            "keras-relu experiment chain."
        )
    return parent


def _finished_elsewhere(directory: Path) -> str:
    """The part of a message that names a run which would do if it lay where it is looked for."""
    found = [path for path in runs_of(directory)[1:] if progress_of(path).state == "done"]
    return f" (one is in {str(found[-1])!r}: move or link it there)" if found else ""


def _require_precision(settings: Config) -> None:
    from keras_relu.training.precision import set_precision

    set_precision(getattr(settings, "precision", "float32"))


def _load_data(experiment: Experiment, data_dir: str | None) -> Dataset:
    from keras_relu import data

    config = experiment.config
    return data.load(
        config.dataset,
        data_dir=data_dir,
        validation_fraction=config.validation_fraction,
        seed=config.seed,
        normalization=config.normalization,
        limit=config.limit,
    )


def _require_same_data(dataset: Dataset, source: Path | None) -> None:
    """The model to start from has learnt on these images, normalised in this way."""
    from keras_relu.runs import Run

    known = {} if source is None else Run.open(source).config
    for key, value in (("dataset", dataset.name), ("normalization", dataset.normalization.name)):
        if known.get(key, value) != value:
            raise UserError(f"The run {str(source)!r} has the {key} {known[key]!r}, the experiment asks for {value!r}.")


def _model(experiment: Experiment, dataset: Dataset, source: Path | None, *, quantized: bool = False) -> keras.Model:
    from keras_relu import models
    from keras_relu.runs import load_model

    if source is not None:
        return load_model(source, quantized=quantized)
    config = experiment.config
    return models.build(
        str(config.network),
        classes=dataset.classes,
        input_shape=dataset.image_shape,
        seed=config.seed,
        **config.network_options,
    )


def _train(
    experiment: Experiment,
    settings: Config,
    dataset: Dataset,
    path: Path,
    *,
    source: Path | None,
    strategy: tf.distribute.Strategy,
    **options: Any,
) -> dict[str, Any]:
    from keras_relu.runs import Run
    from keras_relu.training.strategy import is_chief

    parent = None if source is None else os.path.relpath(source, path)
    run = Run.create(
        path,
        config=_record(experiment, settings, dataset),
        stage=experiment.config.stage,
        parent=parent,
        resume=True,
        chief=is_chief(strategy),
    )
    with run.withdrawn_if_refused():
        if run.chief:
            note_run(experiment, path)
        model = _model(experiment, dataset, source)
        known = {"arch": model.name, "experiment": experiment.directory.name}
        stage = STAGES[experiment.config.stage]
        return stage.train()(model, dataset, run, settings, resume=True, strategy=strategy, facts=known, **options)


def _record(experiment: Experiment, settings: Config, dataset: Dataset) -> dict[str, Any]:
    """The run's configuration: the stage's settings, and of the experiment what decides its result."""
    config: Mapping[str, Any] = experiment.config.to_dict()
    kept = ("network", "network_options", "dataset", "validation_fraction", "limit", "seed")
    return {
        **settings.to_dict(),
        **{key: config[key] for key in kept if config[key] is not None},
        "normalization": dataset.normalization.name,
        "recipe": experiment.recipe,
    }


def _evaluate(experiment: Experiment, dataset: Dataset, source: Path | None) -> dict[str, Any]:
    from keras_relu.experiments.measure import measure
    from keras_relu.runs import Run

    # The subject of a pqat run is the network that rounds, not its plain twin.
    rounds = source is not None and Run.open(source).stage == "pqat"
    subject = _model(experiment, dataset, source, quantized=rounds)
    facts = {"model": "a fresh network" if source is None else str(source), "stage": experiment.config.stage}
    return {**facts, **measure(subject, dataset)}
