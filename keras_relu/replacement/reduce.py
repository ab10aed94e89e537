"""The main job: search, fine-tune, freeze, strip, and check the result on the file that was written."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from keras_relu import counting, surgery
from keras_relu.data import Dataset
from keras_relu.errors import KerasReLUError, TrainingDivergedError, UserError
from keras_relu.evaluate import Evaluator, NonFiniteLogitsError
from keras_relu.files import atomic_path
from keras_relu.replacement import lifecycle, ranking
from keras_relu.replacement.config import Distillation, Finetune, Optimization, ReduceConfig, Search
from keras_relu.replacement.step import GatedStep, SearchStep
from keras_relu.runs import Run, load_model
from keras_relu.training.checks import require_logits
from keras_relu.training.fit import fit

__all__ = ["Reduction", "finetune", "reduce", "search"]


_DISTILLATION = Distillation()


@dataclasses.dataclass(frozen=True)
class Reduction:
    """What `reduce` returns: the stripped `model`, the `result` as in result.json, and the `masks` by site (uint8)."""

    model: keras.Model
    result: dict[str, Any]
    masks: dict[str, np.ndarray]


def reduce(
    model: keras.Model,
    dataset: Dataset,
    config: ReduceConfig | Mapping[str, Any],
    *,
    run: Run | None = None,
    resume: bool = False,
    strategy: tf.distribute.Strategy | None = None,
    checkpoint_every: int = 0,
    progress: bool = True,
    facts: Mapping[str, Any] | None = None,
) -> Reduction:
    """Cut the ReLUs of `model` to a budget.

    Args:
        model: a trained functional tf_keras model with logits for the classes of `dataset`; it is not changed.
        dataset: trained on `train`, watched on `validation`, `test` read once at the end.
        config: a `ReduceConfig` or its plain values; `budget` is required.
        run: where checkpoints, metrics, masks, the model and the result go; None keeps everything in memory.
        resume: go on from the newest checkpoint of `run`.
        strategy: a tf.distribute strategy; None = one device.
        checkpoint_every: steps between checkpoints; 0 = at the end of each epoch.
        facts: further keys for result.json, such as the architecture.

    Raises:
        UserError: a wrong configuration, budget or model.
        TrainingDivergedError: the loss was not finite; the message names the step.
        KerasReLUError: the model that was written does not hold what was promised.
    """
    config = config if isinstance(config, ReduceConfig) else ReduceConfig.parse(config)
    require_logits(surgery.require_functional(model), dataset)
    total = sum(int(np.prod(site.shape)) for site in surgery.find_sites(model))
    budget = ranking.parse_budget(config.budget, total)
    _check_sites(model, config, budget)
    with (strategy or tf.distribute.get_strategy()).scope():
        gated = _gated(model, config)
        teacher = surgery.copy_model(model) if config.distillation else None
    common = {
        "batch_size": config.batch_size,
        "seed": config.seed,
        "teacher": teacher,
        "distillation": config.distillation,
        "run": run,
        "resume": resume,
        "strategy": strategy,
        "checkpoint_every": checkpoint_every,
        "progress": progress,
    }
    limits = None if config.sites is None else {name: site.kept for name, site in config.sites.items()}
    search(gated, dataset, budget, config.search, limits=limits, **common)
    if limits is not None:
        # What is kept comes first, so that nothing that was given up returns untrained.
        lifecycle.set_site_masks(gated, limits, margin=1.0)
    lifecycle.freeze(gated, budget)
    finetune(gated, dataset, config.finetune, **common)
    return _finish(model, gated, dataset, config, budget, run, {"relu_count_before": total, **(facts or {})})


def _gated(model: keras.Model, config: ReduceConfig) -> keras.Model:
    tau = {"tau": config.tau} if config.gate == "hysteresis" else {}
    return lifecycle.replace_relus(
        model,
        gate={"name": config.gate, **tau},
        replacement={"name": config.replacement, **config.replacement_options},
        surrogate=config.surrogate,
        granularity=config.granularity,
        seed=config.seed,
        site_replacements={name: site.replacement for name, site in (config.sites or {}).items()},
        mask_dropout=config.finetune.mask_dropout,
    )


def _check_sites(model: keras.Model, config: ReduceConfig, budget: int) -> None:
    """A plan names every site of the network, keeps no more than it has, and the budget in all."""
    if config.sites is None:
        return
    sizes = {site.name: int(np.prod(site.shape)) for site in surgery.find_sites(model)}
    wrong = [name for name in {*sizes, *config.sites} if name not in sizes or name not in config.sites]
    wrong += [name for name, site in config.sites.items() if site.kept > sizes.get(name, 0)]
    kept = sum(site.kept for site in config.sites.values())
    if wrong or kept != budget:
        raise UserError(
            f"The budgets of single sites do not fit the network: {', '.join(sorted(set(wrong))) or 'no site'} wrong, "
            f"{kept:,} kept in all, the budget is {budget:,}."
        )


def search(
    gated: keras.Model,
    dataset: Dataset,
    budget: int,
    config: Search | None = None,
    *,
    limits: Mapping[str, int] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Train a gated model while its kept ReLUs fall to `budget`; masks end exactly there with method `schedule`.

    Args:
        gated: from `lifecycle.replace_relus`.
        budget: ReLUs to keep.
        config: search settings.
        limits: ReLUs to keep at each site, from a plan; they add up to `budget`. None = the ranking decides.
        options: batch_size, seed, teacher, distillation, run, resume, strategy, checkpoint_every, progress.
    """

    def hooks(step: SearchStep, steps: int) -> _SearchHooks:
        return _SearchHooks(step, budget, steps, limits)

    with _without_mask_dropout(gated):
        return _phase(gated, dataset, config or Search(), "search", hooks, **options)


@contextlib.contextmanager
def _without_mask_dropout(gated: keras.Model) -> Iterator[None]:
    """Mask dropout regularises the fine-tuning; in a search it would blur what a ReLU is worth."""
    layers = lifecycle.gated_layers(gated)
    fractions = [layer.mask_dropout for layer in layers]
    try:
        for layer in layers:
            layer.mask_dropout = 0.0
        yield
    finally:
        for layer, fraction in zip(layers, fractions, strict=True):
            layer.mask_dropout = fraction


def finetune(gated: keras.Model, dataset: Dataset, config: Finetune | None = None, **options: Any) -> dict[str, Any]:
    """Train weights and coefficients of a gated model under its masks as they are; options as in `search`."""
    return _phase(gated, dataset, config or Finetune(), "finetune", None, **options)


class _SearchHooks:
    """What happens between the steps of a search: masks, the penalty's weight, moment fits. All of it is a function of the
    step and of checkpointed variables alone, so that a resumed search does the same."""

    def __init__(self, step: SearchStep, budget: int, steps: int, limits: Mapping[str, int] | None = None) -> None:
        self.step, self.budget, self.config, self.limits = step, budget, step.search, limits
        self.total = sum(layer.full_mask().size for layer in step.layers)
        self.ramp = int(self.config.ramp_fraction * steps)

    def __call__(self, step: int) -> None:
        for layer in self.step.layers:
            if step and layer.replacement.refresh_due(step):
                layer.refresh_coefficients()
        # The first scores are the mean of too few measurements to rank by.
        if step < 2 * self.config.mask_interval or step % self.config.mask_interval:
            return
        wanted = ranking.kept_at(
            step, total=self.total, budget=self.budget, steps=self.ramp, power=self.config.ramp_power
        )
        if self.step.penalty is None:
            self._set_masks(wanted)
            return
        for layer in self.step.layers:
            layer.update_mask()
        self.step.penalty.follow(lifecycle.kept_count(self.step.model), wanted)

    def _set_masks(self, wanted: int) -> None:
        if self.limits is None:
            lifecycle.set_masks(self.step.model, wanted, margin=self.config.margin)
            return
        # Every site has gone the same part of its own way.
        left = (wanted - self.budget) / max(self.total - self.budget, 1)
        sizes = {layer.name: layer.full_mask().size for layer in self.step.layers}
        keep = {name: limit + int(left * (sizes[name] - limit)) for name, limit in self.limits.items()}
        lifecycle.set_site_masks(self.step.model, keep, margin=self.config.margin)


def _phase(
    gated: keras.Model,
    dataset: Dataset,
    config: Optimization,
    phase: str,
    make_hooks: Callable[[SearchStep, int], _SearchHooks] | None,
    *,
    batch_size: int = 128,
    seed: int = 0,
    teacher: keras.Model | None = None,
    distillation: Distillation | None = _DISTILLATION,
    **options: Any,
) -> dict[str, Any]:
    if config.epochs == 0:
        return {}
    steps = config.epochs * dataset.train.steps_per_epoch(batch_size)
    common: dict[str, Any] = {
        "steps": steps,
        "normalization": dataset.normalization,
        "teacher": teacher,
        "distillation": distillation,
    }
    with (options.get("strategy") or tf.distribute.get_strategy()).scope():
        step = SearchStep(gated, config, **common) if isinstance(config, Search) else GatedStep(gated, config, **common)
    return fit(
        step,
        dataset,
        epochs=config.epochs,
        batch_size=batch_size,
        phase=phase,
        # A different order and augmentation than in the other phase.
        seed=2 * seed + (phase == "finetune"),
        validate=_validator(gated, dataset),
        on_step=make_hooks(step, steps) if make_hooks and isinstance(step, SearchStep) else None,
        **options,
    )


def _validator(model: keras.Model, dataset: Dataset) -> Callable[[], dict[str, float]] | None:
    if not dataset.validation.size:
        return None
    evaluator = Evaluator(model, dataset.normalization)

    def validate() -> dict[str, float]:
        try:
            measured = evaluator(dataset.validation)
        except NonFiniteLogitsError as error:
            raise TrainingDivergedError(f"{error} Lower slope_bound or the learning rates.") from error
        return {"val_accuracy": measured["accuracy"], "val_loss": measured["loss"]}

    return validate


def _finish(
    model: keras.Model,
    gated: keras.Model,
    dataset: Dataset,
    config: ReduceConfig,
    budget: int,
    run: Run | None,
    facts: Mapping[str, Any],
) -> Reduction:
    kept = lifecycle.masks(gated)
    plain = lifecycle.strip(gated)
    if run:
        run.save_model(plain)
        plain = load_model(run.path)
        _write_masks(run, kept)
    counts = counting.count(plain)
    expected = sum(int(mask.sum()) for mask in kept.values())
    # ReLUs that are no sites stay as they are: those of inducers, and of sites that were masked before.
    others = counting.count(model).relu_count - facts["relu_count_before"]
    if counts.relu_count - others != expected or expected > budget:
        raise KerasReLUError(
            f"The written model holds {counts.relu_count - others:,} ReLUs, its masks {expected:,}, the budget is {budget:,}; "
            "please report this."
        )
    result = {
        **facts,
        "dataset": dataset.name,
        "normalization": dataset.normalization.name,
        "replacement": "planned" if config.sites else config.replacement,
        "gate": config.gate,
        "method": config.search.method,
        "saliency": config.search.saliency,
        "granularity": config.granularity,
        "budget": budget,
        "relu_count": counts.relu_count,
        "comparison_count": counts.comparison_count,
        "macs": counts.macs,
        "epochs": {"search": config.search.epochs, "finetune": config.finetune.epochs},
        "sites": [
            {"name": name, "shape": list(mask.shape), "total": mask.size, "kept": int(mask.sum())}
            for name, mask in kept.items()
        ],
        "seed": config.seed,
        **_measure(model, plain, dataset),
    }
    return Reduction(plain, run.finish({**result, "masks_file": "masks.npz"}) if run else result, kept)


def _measure(model: keras.Model, plain: keras.Model, dataset: Dataset) -> dict[str, Any]:
    """The final numbers: the only place of a reduction that reads the test split."""
    reduced, baseline = Evaluator(plain, dataset.normalization), Evaluator(model, dataset.normalization)
    validation = reduced(dataset.validation) if dataset.validation.size else {}
    return {
        "baseline_accuracy": baseline(dataset.test, classes=dataset.classes)["accuracy"],
        **reduced(dataset.test, classes=dataset.classes),
        "val_accuracy": validation.get("accuracy"),
        "val_loss": validation.get("loss"),
    }


def _write_masks(run: Run, kept: Mapping[str, np.ndarray]) -> None:
    if run.chief:
        with atomic_path(run.path / "masks.npz") as temporary:
            arrays: dict[str, Any] = dict(kept)
            np.savez_compressed(temporary, **arrays)
