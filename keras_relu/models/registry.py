"""The table of networks by name."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import tf_keras as keras

from keras_relu.errors import UserError, unknown_key

__all__ = ["Entry", "build", "check_options", "describe", "get_entry", "list_models", "register"]

Builder = Callable[..., keras.Model]


@dataclass(frozen=True)
class Entry:
    """One name: its builder, the arguments that make this network of the family, and the options a caller may set."""

    name: str
    family: str
    builder: Builder
    input_shape: tuple[int, int, int]
    classes: int
    fixed: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


_ENTRIES: dict[str, Entry] = {}


def register(
    name: str,
    *,
    family: str,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    classes: int = 10,
    fixed: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Callable[[Builder], Builder]:
    """Decorator that adds a builder `f(name, input_shape, classes, seed, **fixed, **options)` under `name`.

    Args:
        family: the group the name is listed under.
        input_shape: default (height, width, channels).
        classes: default number of logits.
        fixed: arguments that belong to the name, such as the depth.
        options: arguments a caller of `build` may override, with their defaults.

    Raises:
        UserError: the name is taken.
    """

    def add(builder: Builder) -> Builder:
        if name in _ENTRIES:
            raise UserError(f"A model named {name!r} is registered already; choose another name.")
        _ENTRIES[name] = Entry(name, family, builder, input_shape, classes, dict(fixed or {}), dict(options or {}))
        return builder

    return add


def get_entry(name: str) -> Entry:
    """The registered entry, or a UserError with the nearest name."""
    if name not in _ENTRIES:
        raise unknown_key("model", name, _ENTRIES)
    return _ENTRIES[name]


def list_models(pattern: str = "*") -> list[str]:
    """Registered names that match a shell pattern, grouped by family in order of registration."""
    return [name for name in _ENTRIES if fnmatch.fnmatchcase(name, pattern)]


def build(
    name: str,
    *,
    classes: int | None = None,
    input_shape: tuple[int, int, int] | None = None,
    seed: int | None = 0,
    **options: Any,
) -> keras.Model:
    """A new functional model with logits as output.

    Args:
        name: one of `list_models()`.
        classes: number of logits; None for the default of the entry.
        input_shape: (height, width, channels); None for the default of the entry.
        seed: makes the initial weights reproducible; None starts all kernels at zero, which is quick and enough for
            counting or for loading weights.
        options: options of the family, for example `shortcut="B"` for CIFAR ResNets.

    Raises:
        UserError: unknown name or option, fewer than one class, or an input shape that is not three positive sizes.
    """
    entry = get_entry(name)
    check_options(name, options)
    shape = _checked_shape(entry.input_shape if input_shape is None else input_shape)
    classes = _checked_classes(entry.classes if classes is None else classes)
    return entry.builder(name, shape, classes, seed, **{**entry.fixed, **entry.options, **options})


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """UserError naming the first key that is no option of the network `name`."""
    allowed = get_entry(name).options
    for key in options:
        if key not in allowed:
            raise unknown_key(f"option for model {name!r}", key, allowed)


def describe(name: str, *, classes: int | None = None, input_shape: tuple[int, int, int] | None = None) -> dict:
    """Facts of a network without training it.

    Returns:
        A dictionary with name, family, input_shape, classes, parameters, trainable_parameters, macs, relu_count and
        sites, a list of {name, shape, relu_count} in the order of the graph.
    """
    from keras_relu import counting

    entry = get_entry(name)
    model = build(name, classes=classes, input_shape=input_shape, seed=None)
    counts = counting.count(model)
    sites = [{"name": s.name, "shape": list(s.shape), "relu_count": s.relu_count} for s in counts.sites if s.relu_count]
    return {
        "name": name,
        "family": entry.family,
        "input_shape": list(model.input_shape[1:]),
        "classes": model.output_shape[-1],
        "parameters": counts.parameters,
        "trainable_parameters": counts.trainable_parameters,
        "macs": counts.macs,
        "relu_count": counts.relu_count,
        "sites": sites,
    }


def _checked_classes(classes: Any) -> int:
    if not isinstance(classes, Integral) or int(classes) < 1:
        raise UserError(f"The number of classes must be a whole number of at least 1, received {classes!r}.")
    return int(classes)


def _checked_shape(shape: Any) -> tuple[int, int, int]:
    sizes = [int(size) for size in shape if isinstance(size, Integral)] if isinstance(shape, tuple | list) else []
    if len(sizes) != 3 or len(shape) != 3 or min(sizes) < 1:
        raise UserError(
            f"The input shape must be three positive sizes (height, width, channels), received {shape!r}. "
            "Masks belong to pixels, so the size of the image has to be known."
        )
    height, width, channels = sizes
    return height, width, channels
