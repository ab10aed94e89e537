"""Export for deployment, checked on the files that were written.

A SavedModel gets one signature, `serving_default`: input `image`, float32 [batch, H, W, C], **already normalised** with
the preset recorded beside it ((x / 255 - mean) / std); output `logits`, float32 [batch, classes]. It holds graphs and
variables only, no Keras objects, so loading it runs no Python code. `keras_relu.json` beside them records what was
exported.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from keras_relu.data import Normalization
from keras_relu.errors import KerasReLUError, UserError, unknown_key
from keras_relu.files import atomic_path, read_json, write_json

__all__ = ["FORMATS", "INPUT_NAME", "OUTPUT_NAME", "export", "read_metadata", "read_normalization"]

INPUT_NAME = "image"
OUTPUT_NAME = "logits"

_METADATA = "keras_relu.json"

# What the graph is held together with, as opposed to what it computes.
_STRUCTURE = {
    "Const",
    "Identity",
    "NoOp",
    "PartitionedCall",
    "Placeholder",
    "ReadVariableOp",
    "StatefulPartitionedCall",
}


def export(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    format: str = "savedmodel",
    normalization: Normalization | None = None,
    facts: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    tolerance: float = 1e-5,
) -> dict[str, Any]:
    """Write `model` to `path` and check the written files against it.

    Args:
        model: one image input of fixed size, one output.
        path: the new file or directory; written under a temporary name first.
        format: a key of `FORMATS`.
        normalization: what the input must be normalised with; recorded for `evaluate`.
        facts: recorded too: `arch`, `relu_count` and the like.
        overwrite: replace an existing target.
        tolerance: largest allowed difference of the read-back logits on a random batch, relative to
            max(1, largest logit).

    Returns:
        {"format", "path", "bytes", "max_difference", "ops": counts of the computing operations, "input", "output",
        "normalization" (name), "normalization_constants", **facts}.

    Raises:
        UserError: unknown format, the target exists, or the model cannot be exported.
        KerasReLUError: the files do not compute what the model computes; nothing is left at `path` then.
    """
    if format not in FORMATS:
        raise unknown_key("export format", format, FORMATS)
    target = Path(path)
    if target.exists() and not overwrite:
        raise UserError(f"{str(target)!r} exists; choose another output or pass overwrite=True (--overwrite).")
    _check_model(model)
    with atomic_path(target) as temporary:
        report = FORMATS[format](model, temporary, tolerance)
        record = {
            "format": format,
            "input": {
                "name": INPUT_NAME,
                "dtype": "float32",
                "shape": [None, *model.input_shape[1:]],
                "normalized": True,
            },
            "output": {"name": OUTPUT_NAME, "dtype": "float32", "shape": [None, model.output_shape[-1]]},
            "normalization": None if normalization is None else normalization.name,
            "normalization_constants": None if normalization is None else normalization.to_dict(),
            **(facts or {}),
            **report,
        }
        write_json(temporary / _METADATA, record)
        size = sum(file.stat().st_size for file in temporary.rglob("*") if file.is_file())
    return {**record, "path": str(target), "bytes": size}


def read_metadata(path: str | os.PathLike) -> dict[str, Any] | None:
    """What `export` recorded beside the files at `path`, or None when nothing is there."""
    file = Path(path) / _METADATA
    return read_json(file, "export record") if file.exists() else None


def read_normalization(path: str | os.PathLike) -> Normalization | None:
    """The normalization recorded by `export`, or None."""
    stored = (read_metadata(path) or {}).get("normalization_constants")
    if stored is None:
        return None
    return Normalization(stored["name"], tuple(stored["mean"]), tuple(stored["std"]))


def _check_model(model: keras.Model) -> None:
    if isinstance(model.input_shape, list) or isinstance(model.output_shape, list):
        raise UserError(f"Only models with one input and one output can be exported, {model.name!r} has more.")
    if None in model.input_shape[1:]:
        raise UserError(
            f"The input size of {model.name!r} is open ({list(model.input_shape[1:])}); exports need a fixed one."
        )


def _savedmodel(model: keras.Model, path: Path, tolerance: float) -> dict[str, Any]:
    image = tf.TensorSpec([None, *model.input_shape[1:]], tf.float32, name=INPUT_NAME)

    @tf.function(input_signature=[image], autograph=False)
    def serve(image: tf.Tensor) -> dict[str, tf.Tensor]:
        return {OUTPUT_NAME: tf.cast(model(image, training=False), tf.float32)}

    module = tf.Module()
    # The variables alone: with the model itself the files would also hold its Keras configuration.
    module.model_variables = model.variables
    module.serve = serve
    tf.saved_model.save(module, str(path), signatures={"serving_default": serve})
    loaded = tf.saved_model.load(str(path))
    signature = loaded.signatures["serving_default"]
    difference = _compare(model, lambda x: signature(**{INPUT_NAME: x})[OUTPUT_NAME], tolerance)
    return {"max_difference": difference, "ops": _operations(signature.graph.as_graph_def())}


def _compare(model: keras.Model, exported: Callable[[tf.Tensor], tf.Tensor], tolerance: float) -> float:
    """Largest absolute difference of the logits on a random batch.

    Raises:
        KerasReLUError: it is larger than allowed, or a logit is not finite.
    """
    batch = tf.constant(np.random.default_rng(0).standard_normal((4, *model.input_shape[1:])), tf.float32)
    expected = tf.cast(model(batch, training=False), tf.float32).numpy()
    difference = float(np.max(np.abs(expected - exported(batch).numpy())))
    allowed = tolerance * max(1.0, float(np.max(np.abs(expected))))
    if not difference <= allowed:
        raise KerasReLUError(
            f"The exported files differ from the model by {difference:.3g} on a random batch, allowed is {allowed:.3g}."
        )
    return difference


def _operations(graph: Any) -> dict[str, int]:
    """Counts of the computing operations by type, in the graph and the functions it calls."""
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    counts = Counter(node.op for node in nodes if node.op not in _STRUCTURE)
    return dict(sorted(counts.items()))


FORMATS: dict[str, Callable[[keras.Model, Path, float], dict[str, Any]]] = {"savedmodel": _savedmodel}
