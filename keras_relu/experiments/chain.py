"""A chain of stages: every experiment below a directory, parents first, what is finished left alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_relu.config import merged
from keras_relu.errors import UserError
from keras_relu.experiments.config import Experiment, load_experiment
from keras_relu.experiments.progress import progress_of
from keras_relu.experiments.run import Mode, require_same, run_experiment
from keras_relu.experiments.stages import STAGES, parse_settings
from keras_relu.experiments.tree import find_experiments, in_order

__all__ = ["overrides_for", "plan_chain", "run_chain"]

_TRAIN = Mode(training=True, pre_trained=False)


def plan_chain(
    root: str | Path, overrides: Mapping[str, Any] | None = None, *, parents_trained: bool = True
) -> list[Experiment]:
    """The experiments in `root` and below in the order in which they can run.

    Args:
        overrides: see `overrides_for`.
        parents_trained: whether a parent outside `root` must have a finished run already.

    Raises:
        UserError: none, a wrong one, one that starts from an experiment that is neither there nor trained, or an override
            for a stage that is not there.
    """
    found = in_order(find_experiments(root))
    unused = [stage for stage in STAGES if stage in (overrides or {}) and stage not in {e.config.stage for e in found}]
    if unused:
        raise UserError(f"There is an override for the stage {unused[0]!r}, but no such stage in {str(root)!r}.")
    if parents_trained:
        _require_parents(found, root)
    return [load_experiment(e.directory, overrides_for(e.config.stage, overrides or {})) for e in found]


def _require_parents(found: Sequence[Experiment], root: str | Path) -> None:
    places = {e.directory.resolve() for e in found}
    for e in found:
        outside = e.parent is not None and e.parent.resolve() not in places
        if e.parent is not None and outside and progress_of(e.parent / "run").state != "done":
            raise UserError(
                f"{str(e.directory)!r} starts from {str(e.parent)!r}, which is not below {str(root)!r} and not trained."
            )


def overrides_for(stage: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides that concern one stage: those under the stage's name, on top of those under no stage's name."""
    general = {key: value for key, value in overrides.items() if key not in STAGES}
    own = overrides.get(stage, {})
    if not isinstance(own, Mapping):
        raise UserError(f"{stage}={own!r} names a stage but no key of it; write {stage}.key=value.")
    return merged(general, own)


def run_chain(
    experiments: Sequence[Experiment],
    *,
    on_stage: Callable[[Experiment, str], None] | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """Train every experiment that is not finished; the order must be that of `plan_chain`.

    Args:
        on_stage: called with each experiment and "done", "trained" or "training" when it begins.
        options: see `run_experiment`.

    Returns:
        The result of each, in order.

    Raises:
        UserError: as `run_experiment`; also where a finished run was made with other settings.
    """
    import tf_keras as keras

    # A wrong key of a late stage must not show up after hours in the first.
    for experiment in experiments:
        parse_settings(experiment)
    results = []
    for experiment in experiments:
        if progress_of(experiment.run_path).state == "done":
            result = require_same(experiment, options.get("data_dir"), options.get("strategy"))
            _say(on_stage, experiment, "done")
        else:
            _say(on_stage, experiment, "training")
            result = run_experiment(experiment, _TRAIN, **options)
            _say(on_stage, experiment, "trained")
            # The graphs of one stage are of no use to the next and would stay in memory.
            keras.backend.clear_session()
        results.append({"experiment": str(experiment.directory), **result})
    return results


def _say(listener: Callable[[Experiment, str], None] | None, experiment: Experiment, state: str) -> None:
    if listener is not None:
        listener(experiment, state)
