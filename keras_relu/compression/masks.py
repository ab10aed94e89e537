"""The kernels of a network, and keeping the zeros of a pruned one through every later stage."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from keras_relu.errors import KerasReLUError, UserError, unknown_key
from keras_relu.layers.ternary import TernaryConv2D, TernaryDepthwiseConv2D
from keras_relu.surgery import iter_layers
from keras_relu.training.supervised import Rule

__all__ = [
    "KernelFacts",
    "kernels",
    "matching",
    "require_zeros",
    "short_name",
    "sparsity_facts",
    "sparsity_table",
    "zero_masks",
    "zero_rules",
]

_KERNELS = ("depthwise_kernel", "pointwise_kernel", "kernel")


@dataclass(frozen=True)
class KernelFacts:
    """One kernel of a network.

    Attributes:
        name: of its layer; with `/<weight>` behind it where a layer has several kernels.
        kind: depthwise, conv or dense.
        size, zeros: number of its values, and of those that are exactly zero.
    """

    name: str
    kind: str
    size: int
    zeros: int

    @property
    def sparsity(self) -> float:
        """Fraction of values that are zero."""
        return self.zeros / self.size

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "sparsity": self.sparsity}


def kernels(model: keras.Model) -> dict[str, tf.Variable]:
    """The kernels of a model by layer name, in the order of the graph.

    Wrappers of tensorflow-model-optimization are looked through: the name is that of the layer inside. Ternary kernels of
    predictors are left out; their zeros are their own affair.
    """
    found: dict[str, tf.Variable] = {}
    for layer in iter_layers(model):
        inner = layer.layer if isinstance(layer, keras.layers.Wrapper) else layer
        if isinstance(inner, (TernaryConv2D, TernaryDepthwiseConv2D)):
            continue
        own = {short: v for v in layer.weights if (short := short_name(v)) in _KERNELS and v.shape.rank > 1}
        for short, variable in own.items():
            found[inner.name if len(own) == 1 else f"{inner.name}/{short}"] = variable
    return found


def sparsity_table(model: keras.Model) -> list[KernelFacts]:
    """Sparsity of every kernel of a model, in the order of the graph."""
    return [_facts(name, variable) for name, variable in kernels(model).items()]


def sparsity_facts(model: keras.Model, pruned: Iterable[str] | None = None) -> dict[str, Any]:
    """What a result says about zeros: `sparsity` over all kernels, and `kernels` with name, kind, size, zeros and sparsity.

    Args:
        pruned: names of pruned kernels; `pruned` then gives their sizes and zeros, pointwise (all but depthwise) and
            depthwise.
    """
    table = sparsity_table(model)
    facts: dict[str, Any] = {"sparsity": _sums(table)["sparsity"], "kernels": [kernel.to_dict() for kernel in table]}
    if pruned is not None:
        names = set(pruned)
        chosen = [kernel for kernel in table if kernel.name in names]
        depthwise = [kernel for kernel in chosen if kernel.kind == "depthwise"]
        facts["pruned"] = {
            "pointwise": _sums([kernel for kernel in chosen if kernel.kind != "depthwise"]),
            "depthwise": _sums(depthwise),
        }
    return facts


def matching(names: Sequence[str], patterns: Sequence[str], *, kind: str = "layer with a kernel") -> list[str]:
    """Those of `names` that match any of the shell patterns, in their own order.

    Raises:
        UserError: a pattern that matches nothing, with the nearest name.
    """
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise unknown_key(kind, pattern, names)
    return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def zero_masks(model: keras.Model, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Masks (1 = free, 0 = must stay zero) of the kernels that have zeros.

    Args:
        names: kernels to look at; None = all.

    Raises:
        UserError: a name without a kernel.
    """
    found = kernels(model)
    for name in names or ():
        if name not in found:
            raise unknown_key("layer with a kernel", name, found)
    masks = {name: found[name].numpy() != 0 for name in (found if names is None else names)}
    return {name: mask.astype(np.float32) for name, mask in masks.items() if not mask.all()}


def zero_rules(model: keras.Model, masks: Mapping[str, np.ndarray] | None = None) -> list[Rule]:
    """Rules for `training.supervised.optimize` that set the masked weights to zero after every update.

    Args:
        model: the model that is trained; wrapped layers count by the name of the layer inside.
        masks: from `zero_masks`, of the model the stage started from; None = those of `model` as it is.

    Raises:
        UserError: a mask without its kernel in `model`, or of another shape.
    """
    masks = zero_masks(model) if masks is None else masks
    found = kernels(model)
    for name, mask in masks.items():
        if name not in found or tuple(found[name].shape) != mask.shape:
            raise UserError(f"The model has no kernel {name!r} of the shape {list(mask.shape)} that its mask needs.")
    return [(found[name], _masking(tf.constant(mask, found[name].dtype))) for name, mask in masks.items()]


def require_zeros(model: keras.Model, masks: Mapping[str, np.ndarray], stage: str) -> None:
    """Check on a model that every masked weight is zero.

    Raises:
        KerasReLUError: a weight came back, or its kernel is gone.
    """
    found = kernels(model)
    for name, mask in masks.items():
        if name not in found:
            raise KerasReLUError(f"After the stage {stage!r} the pruned layer {name!r} is gone.")
        back = int(np.count_nonzero(found[name].numpy()[mask == 0]))
        if back:
            raise KerasReLUError(
                f"After the stage {stage!r} {back:,} of {int(np.sum(mask == 0)):,} pruned weights of {name!r} are no "
                "longer zero; please report this."
            )


def _sums(table: Sequence[KernelFacts]) -> dict[str, Any]:
    size, zeros = sum(kernel.size for kernel in table), sum(kernel.zeros for kernel in table)
    return {"size": size, "zeros": zeros, "sparsity": zeros / size if size else 0.0}


def _masking(mask: tf.Tensor) -> Any:
    return lambda variable: variable * mask


def short_name(variable: tf.Variable) -> str:
    """The name without scopes and output number, `kernel` of `block1/conv/kernel:0`."""
    return variable.name.split(":")[0].split("/")[-1]


def _facts(name: str, variable: tf.Variable) -> KernelFacts:
    value = variable.numpy()
    kind = {"depthwise_kernel": "depthwise"}.get(short_name(variable), "conv" if value.ndim > 2 else "dense")
    return KernelFacts(name, kind, value.size, value.size - int(np.count_nonzero(value)))
