"""Which model files may be opened without trusting their author.

A `.keras` file names classes and functions to import. Keras' own safe mode only refuses marshalled lambdas; it imports
whatever module the file names and calls any symbol of the TensorFlow API through `TFOpLambda` layers,
`tf.load_op_library` and `tf.io.write_file` included. So `check_config` reads the configuration before Keras does.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Iterator
from typing import Any

import tf_keras as keras

__all__ = ["check_config"]

_PACKAGES = ("keras", "tf_keras", "keras_relu", "tensorflow_model_optimization")

_CODE_LAYERS = ("Lambda", "__lambda__", "ClassMethod")

# Pure array functions: none of them reads or writes files, runs Python or loads code.
_OPERATIONS = re.compile(
    r"""(math|nn|linalg|__operators__|image|keras\.activations|keras\.backend)\.[A-Za-z0-9_.]+
    |(compat\.v1\.)?(abs|add|argmax|argmin|broadcast_to|cast|clip_by_value|concat|cumsum|divide|equal|exp|expand_dims|eye|fill
    |gather|gather_nd|greater|greater_equal|identity|less|less_equal|logical_and|logical_not|logical_or|matmul|maximum|minimum
    |multiply|negative|not_equal|one_hot|ones|ones_like|pad|pow|range|rank|reduce_all|reduce_any|reduce_max|reduce_mean
    |reduce_min|reduce_prod|reduce_sum|repeat|reshape|reverse|round|scatter_nd|shape|sigmoid|sign|size|slice|split|sqrt|square
    |squeeze|stack|stop_gradient|strided_slice|subtract|tanh|tensor_scatter_nd_update|tensordot|tile|transpose|unstack|where
    |zeros|zeros_like)""",
    re.VERBOSE,
)


def check_config(config: Any) -> str | None:
    """Why a deserialised `config.json` needs trust, as the end of a sentence; None when it does not.

    Objects that are registered in this process already are fine: the caller imported them.
    """
    for node in _nodes(config):
        reason = _operation(node) or _code_layer(node) or _function(node) or _module(node)
        if reason:
            return reason
    return None


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            yield item
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)


def _code_layer(node: dict[str, Any]) -> str | None:
    if node.get("class_name") in _CODE_LAYERS:
        return f"it holds a {node['class_name']} layer, which runs Python code stored in the file"
    return None


def _operation(node: dict[str, Any]) -> str | None:
    if node.get("class_name") not in ("TFOpLambda", "SlicingOpLambda") or not isinstance(node.get("config"), dict):
        return None
    name = str(node["config"].get("function", ""))
    return None if _OPERATIONS.fullmatch(name) else f"it calls the TensorFlow function {name!r}"


def _function(node: dict[str, Any]) -> str | None:
    if (
        node.get("class_name") == "function"
        and node.get("module") == "builtins"
        and hasattr(builtins, str(node.get("config")))
    ):
        return f"it calls the Python function {node['config']!r}"
    return None


def _module(node: dict[str, Any]) -> str | None:
    module = node.get("module")
    if not isinstance(module, str) or module == "builtins" or module.split(".")[0] in _PACKAGES:
        return None
    if keras.saving.get_registered_object(node.get("registered_name")) is not None:
        return None
    return f"it imports the module {module!r}"
