"""The stage pruned: a trained network whose kernels lose most of their weights while it trains on."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf
import tf_keras as keras

from keras_relu import surgery
from keras_relu.compression import pruning
from keras_relu.compression.config import PruneConfig
from keras_relu.compression.masks import matching, sparsity_facts, sparsity_table
from keras_relu.errors import KerasReLUError, UserError
from keras_relu.runs import Run, load_model
from keras_relu.training.checks import require_logits
from keras_relu.training.supervised import measure, optimize

__all__ = ["choose_layers", "prune"]

Predicate = Callable[[keras.layers.Layer], bool]

# What the originals pruned (spec fusion, section 3.3), by the name of the network: (include, exclude).
_ORIGINAL = {
    "mobilenet_v2_*": (["block*_conv"], ["block0_*"]),
    "mnasnet_*": (["block*_conv"], ["*_se_*"]),
    "shufflenet_*": (["block*_conv"], []),
    "fusionet_*": (["block*_conv", "tail_conv"], []),
}


def prune(
    model: keras.Model,
    dataset: Any,
    run: Run | None,
    config: PruneConfig | Mapping[str, Any],
    *,
    predicate: Predicate | None = None,
    strategy: tf.distribute.Strategy | None = None,
    facts: Mapping[str, Any] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Prune a trained network.

    Args:
        model: a functional tf_keras model with logits for the classes of `dataset`; it is not changed.
        dataset: trained on `train`, watched on `validation`, `test` read once at the end.
        run: gets metrics, checkpoints, the stripped model and the result; None writes nothing.
        predicate: chooses among the layers with a prunable kernel, instead of `include`.
        facts: further keys of the result.
        options: resume, teacher, checkpoint_every, log_every, progress, max_steps; see `training.supervised.optimize`.

    Returns:
        The result as in result.json: accuracies, `kernels` (sparsity of each), `sparsity` of the pruned kernels by kind
        and of all. Without a run also `model`.

    Raises:
        UserError: a wrong setting, or a choice that matches no layer.
        KerasReLUError: the model that was written does not have the sparsity it was to have.
    """
    config = config if isinstance(config, PruneConfig) else PruneConfig.parse(config)
    require_logits(surgery.require_functional(model), dataset)
    layers = choose_layers(model, config, predicate)
    updates = dataset.train.steps_per_epoch(config.batch_size)
    total = min(config.epochs * updates, options.get("max_steps") or config.epochs * updates)
    schedules = {layer.name: _schedule(layer, config, updates, total) for layer in layers}
    with (strategy or tf.distribute.get_strategy()).scope():
        wrapped = pruning.wrap(model, schedules)
    optimize(wrapped, dataset, run, config, strategy=strategy, after=pruning.drive, eligible=_ramp_ended, **options)
    expected = {wrapper.layer.name: wrapper.expected_zeros for wrapper in pruning.wrappers(wrapped)}
    plain = pruning.strip(wrapped)
    if run is not None:
        run.save_model(plain)
        plain = load_model(run.path)
    _require_exactly(plain, expected)
    result = {
        **(facts or {}),
        **measure(plain, dataset, config),
        **sparsity_facts(plain, expected),
        "epochs": {"prune": config.epochs, "ramp": config.ramp_length},
    }
    return {**result, "model": plain} if run is None else run.finish(result)


def choose_layers(
    model: keras.Model, config: PruneConfig, predicate: Predicate | None = None
) -> list[keras.layers.Layer]:
    """The layers whose kernels are pruned, in the order of the graph.

    Raises:
        UserError: a pattern that matches no prunable layer, or a choice that leaves none.
    """
    layers = {layer.name: layer for layer in surgery.iter_layers(model) if pruning.is_prunable(layer)}
    if predicate is not None and config.include is not None:
        raise UserError("include and a predicate exclude each other; give one of them.")
    if predicate is not None:
        chosen = [name for name, layer in layers.items() if predicate(layer)]
    elif config.include is not None:
        chosen = matching(list(layers), config.include, kind="prunable layer")
    else:
        chosen = _default_choice(model.name, layers)
    left_out = set(matching(list(layers), config.exclude, kind="prunable layer"))
    chosen = [name for name in chosen if name not in left_out and _sparsity(layers[name], config)]
    if not chosen:
        raise UserError(
            f"No layer of {model.name!r} is left to prune; it has the prunable layers {', '.join(layers) or 'none'}."
        )
    return [layers[name] for name in chosen]


def _require_exactly(model: keras.Model, expected: Mapping[str, int]) -> None:
    found = {kernel.name: kernel.zeros for kernel in sparsity_table(model)}
    for name, zeros in expected.items():
        if found.get(name) != zeros:
            raise KerasReLUError(
                f"The kernel {name!r} holds {found.get(name)} zeros, it was to have {zeros}; please report this."
            )


def _default_choice(name: str, layers: Mapping[str, keras.layers.Layer]) -> list[str]:
    """The original's choice where the network is one of its own; else every convolution but the first."""
    for pattern, (include, exclude) in _ORIGINAL.items():
        if fnmatch.fnmatchcase(name, pattern):
            left_out = matching(list(layers), [p for p in exclude if fnmatch.filter(layers, p)])
            return [chosen for chosen in matching(list(layers), include) if chosen not in left_out]
    return [key for key, layer in layers.items() if not isinstance(layer, keras.layers.Dense)][1:]


def _sparsity(layer: keras.layers.Layer, config: PruneConfig) -> float:
    depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    return config.depthwise_sparsity if depthwise else config.pointwise_sparsity


def _schedule(layer: keras.layers.Layer, config: PruneConfig, updates: int, total: int) -> pruning.Ramp:
    """The ramp in updates; it ends within the training however short that is."""
    stepwise = config.ramp == "epochs"
    last = total if stepwise else total - 1
    begin = min(round(config.begin_epochs * updates), total - 1)
    return pruning.Ramp(
        _sparsity(layer, config),
        begin=begin,
        span=min(round(config.ramp_length * updates), last - begin),
        frequency=config.frequency,
        power=config.power,
        hold=updates if stepwise else None,
    )


def _ramp_ended(wrapped: keras.Model) -> Callable[[], bool]:
    """Whether all masks are final, so that the weights have the sparsity they are chosen for."""
    return lambda: all(wrapper.ended for wrapper in pruning.wrappers(wrapped))
