"""PyTorch checkpoints (.th, .pt, .pth) into our networks.

Names of three code families are understood: CIFAR and torchvision ResNets (`layer1.0.conv1`, `downsample.0` or
`shortcut.0`, `fc` or `linear`) and wide ResNets (`block1.layer.0.conv1`, `convShortcut`). Networks whose layers have
their original's names (`tiny10`, `lenet`, `dense`) need no rules. Files are read with `weights_only=True`, so that no
code in them runs. Needs the extra `torch`.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from keras_relu.errors import UserError
from keras_relu.files import existing_file
from keras_relu.models import registry

__all__ = ["convert", "load_torch_weights", "read_state_dict", "read_tensors"]

_WRAPPERS = ("state_dict", "model_state_dict", "net", "model")
# Step counters of batch normalisation, and the class gates of CSG training, which its evaluation does not use.
_NOT_WEIGHTS = re.compile(r"(^|\.)num_batches_tracked$|^csg$")
_RULES = tuple(
    (re.compile(pattern), names)
    for pattern, names in (
        (r"conv1", ("stem_conv",)),
        (r"bn1", ("stem_bn", "final_bn")),
        (r"(?:layer|block)(\d+)\.(?:layer\.)?(\d+)\.((?:conv|bn)\d)", ("stage{0}_block{1}_{2}",)),
        (r"layer(\d+)\.(\d+)\.(?:downsample|shortcut)\.0", ("stage{0}_block{1}_shortcut_conv",)),
        (r"layer(\d+)\.(\d+)\.(?:downsample|shortcut)\.1", ("stage{0}_block{1}_shortcut_bn",)),
        (r"block(\d+)\.layer\.(\d+)\.convShortcut", ("stage{0}_block{1}_shortcut_conv",)),
        (r"fc|linear", ("classifier",)),
    )
)
_CLASSIFIER = re.compile(r"(?:fc\d*|linear|logits)\.weight")
_CONV_SHORTCUT = re.compile(r"layer\d+\.\d+\.(?:downsample|shortcut)\.")
_KERNEL_NAMES = {"weight": "kernel", "bias": "bias"}
_BN_NAMES = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


def convert(
    path: str | os.PathLike,
    arch: str,
    *,
    classes: int | None = None,
    input_shape: tuple[int, int, int] | None = None,
    **options: Any,
) -> keras.Model:
    """A network of the registry with the weights of a PyTorch file.

    Args:
        path: the checkpoint.
        arch: name in the registry.
        classes: number of logits; None reads it off the file's classifier.
        input_shape: (height, width, channels); None for the default of `arch`.
        options: options of the family. A CIFAR ResNet gets `shortcut="B"` by itself when the file has convolutions
            on its shortcuts.

    Raises:
        UserError: as `load_torch_weights` and `models.build`.
    """
    entry = registry.get_entry(arch)
    state = read_state_dict(path)
    if classes is None:
        heads = [len(value) for key, value in state.items() if _CLASSIFIER.fullmatch(key)]
        classes = heads[-1] if heads else None
    if "shortcut" in entry.options and any(map(_CONV_SHORTCUT.match, state)):
        options = {"shortcut": "B", **options}
    model = registry.build(arch, classes=classes, input_shape=input_shape, seed=None, **options)
    _assign(model, state, path)
    return model


def load_torch_weights(model: keras.Model, path: str | os.PathLike) -> None:
    """Set every weight of `model` from a PyTorch checkpoint, or none.

    Args:
        model: a network of the registry, without replaced activations.
        path: the checkpoint: a state dictionary, bare or under "state_dict", "model_state_dict", "net" or "model",
            with or without "module." before the names.

    Raises:
        UserError: torch is not installed; the file is missing, damaged or holds other objects than tensors; names or
            shapes do not fit the network exactly (all of them are listed); a value is not finite.
    """
    _assign(model, read_state_dict(path), path)


def read_state_dict(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The weights in a PyTorch checkpoint: `read_tensors` without step counters and class gates.

    Raises:
        UserError: as `read_tensors`.
    """
    return {name: value for name, value in read_tensors(path).items() if not _NOT_WEIGHTS.search(name)}


def read_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """All tensors of a PyTorch checkpoint as float32 arrays by name, without wrappers and "module.".

    Raises:
        UserError: torch is not installed, or the file is missing, damaged or holds no tensors.
    """
    torch = _torch()
    state = _unwrapped(_read(torch, existing_file(path, "PyTorch file")))
    if not isinstance(state, Mapping) or not any(torch.is_tensor(value) for value in state.values()):
        raise UserError(
            f"{str(path)!r} holds no state dictionary: expected tensors by name, bare or under one of the keys "
            f"{', '.join(_WRAPPERS)}."
        )
    names = {str(key).removeprefix("module."): value for key, value in state.items()}
    return {name: value.detach().float().numpy() for name, value in names.items() if torch.is_tensor(value)}


def _torch() -> ModuleType:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            "Reading PyTorch weights needs torch, which is not installed: pip install keras_relu[torch]."
        ) from error
    return torch


def _read(torch: ModuleType, path: os.PathLike) -> Any:
    try:
        with _numpy_scalars_allowed(torch):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises nearly anything inside torch
        reason = str(error).strip().split("\n")[0].split(" In PyTorch")[0]
        raise UserError(
            f"{str(path)!r} cannot be read as PyTorch weights ({type(error).__name__}: {reason[:160]}). Either it is "
            "damaged or it holds other objects than tensors; save one with torch.save(model.state_dict(), path)."
        ) from error


@contextlib.contextmanager
def _numpy_scalars_allowed(torch: ModuleType) -> Iterator[None]:
    """Lets NumPy numbers through, which training scripts store beside the weights (best accuracy, metrics)."""
    scalar = np.float64(0).__reduce__()[0]
    kinds = {type(np.dtype(code)) for code in "?bhilqBHILQefd"}
    # The module of `scalar` has moved between NumPy 1 and 2; files carry either name.
    named = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    with torch.serialization.safe_globals([*named, np.dtype, *kinds]):
        yield


def _unwrapped(content: Any) -> Any:
    while isinstance(content, Mapping):
        key = next((key for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if key is None:
            break
        content = content[key]
    return content


def _assign(model: keras.Model, state: Mapping[str, np.ndarray], path: str | os.PathLike) -> None:
    """Checks everything, then assigns, so that a refused file leaves the network as it was."""
    layers = {layer.name: layer for layer in model.layers}
    found = {name: _target(name, layers) for name in state}
    targets = {name: target for name, target in found.items() if target is not None}
    given = {id(variable) for variable, _ in targets.values()}
    arrays = {name: _ours(state[name], layer) for name, (_, layer) in targets.items()}
    unfit = f"{str(path)!r} does not fit {model.name!r}:"
    _refuse(f"{unfit} no place for", [name for name in found if name not in targets])
    _refuse(f"{unfit} nothing in the file for", [v.name for v in model.weights if id(v) not in given])
    _refuse(f"{unfit} wrong shape of", _wrong_shapes(state, arrays, targets))
    _refuse(
        f"{str(path)!r} has values that are not finite in", [n for n, a in arrays.items() if not np.isfinite(a).all()]
    )
    for name, (variable, _) in targets.items():
        variable.assign(arrays[name])


def _wrong_shapes(
    state: Mapping[str, np.ndarray], arrays: Mapping[str, np.ndarray], targets: Mapping[str, tuple]
) -> list[str]:
    return [
        f"{name} {list(state[name].shape)} for {variable.name} {variable.shape.as_list()}"
        for name, (variable, _) in targets.items()
        if arrays[name].shape != tuple(variable.shape)
    ]


def _target(name: str, layers: Mapping[str, keras.layers.Layer]) -> tuple[tf.Variable, keras.layers.Layer] | None:
    """The variable a PyTorch name stands for, and its layer."""
    module, _, parameter = name.rpartition(".")
    layer = next((layers[ours] for ours in _layer_names(module) if ours in layers), None)
    table = _BN_NAMES if isinstance(layer, keras.layers.BatchNormalization) else _KERNEL_NAMES
    variable = getattr(layer, table.get(parameter, ""), None)
    return None if variable is None else (variable, layer)


def _layer_names(module: str) -> Iterator[str]:
    for pattern, names in _RULES:
        match = pattern.fullmatch(module)
        if match:
            # PyTorch counts blocks from 0, we count from 1.
            groups = [str(int(g) + 1) if i == 1 else g for i, g in enumerate(match.groups())]
            yield from (name.format(*groups) for name in names)
    yield module


def _ours(array: np.ndarray, layer: keras.layers.Layer) -> np.ndarray:
    """OIHW -> HWIO for convolutions, [out, in] -> [in, out] for dense layers."""
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    return array.T if isinstance(layer, keras.layers.Dense) else array


def _refuse(sentence: str, names: Iterable[str]) -> None:
    names = list(names)
    if names:
        more = f" and {len(names) - 12} more" if len(names) > 12 else ""
        raise UserError(f"{sentence} {', '.join(names[:12])}{more}.")
