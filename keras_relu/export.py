"""Export for deployment, checked on the files that were written.

A SavedModel gets one signature, `serving_default`: input `image`, float32 [batch, H, W, C], **already normalised** with
the preset recorded beside it ((x / 255 - mean) / std); output `logits`, float32 [batch, classes]. It holds graphs and
variables only, no Keras objects, so loading it runs no Python code. `keras_relu.json` beside them records what was
exported.

A TFLite file is one file with the same input and output and the same record packed into it. With int8 the weights and
activations inside are rounded; input and output stay float32. Zeros of pruned kernels are counted in the written file.
"""

from __future__ import annotations

import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from keras_relu import tflite
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
    int8: bool = False,
    calibration: Iterable[np.ndarray] | None = None,
    normalization: Normalization | None = None,
    facts: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    tolerance: float | None = None,
) -> dict[str, Any]:
    """Write `model` to `path` and check the written files against it.

    Args:
        model: one image input of fixed size, one output.
        path: the new file or directory; written under a temporary name first.
        format: a key of `FORMATS`.
        int8: tflite only: round weights and activations to int8, as `model` does where it is quantized.
        calibration: batches of model inputs that give the ranges of a model that is not quantized.
        normalization: what the input must be normalised with; recorded for `evaluate`.
        facts: recorded too: `arch`, `relu_count` and the like.
        overwrite: replace an existing target.
        tolerance: largest allowed difference of the read-back logits on a random batch, relative to
            max(1, largest logit); None: 1e-5 of a SavedModel, 1e-4 of TFLite, and of int8 a mean difference of 0.25.

    Returns:
        {"format", "path", "bytes", "max_difference", "ops": counts of the computing operations, "input", "output",
        "normalization" (name), "normalization_constants", **facts}; of TFLite also "int8", "compressed_bytes" (zlib) and
        "kernels", the zeros found in each.

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
    options = _tflite_options(model, format, int8, calibration)
    if format == "tflite" and target.suffix != ".tflite":
        raise UserError(
            f"A TFLite file must end in .tflite, which is how other commands know it; received {str(target)!r}."
        )
    with atomic_path(target) as temporary:
        report = FORMATS[format](model, temporary, tolerance, **options)
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
        if temporary.is_dir():
            write_json(temporary / _METADATA, record)
        else:
            tflite.write_record(temporary, record)
        files = [temporary, *temporary.rglob("*")]
        size = sum(file.stat().st_size for file in files if file.is_file())
    return {**record, "path": str(target), "bytes": size}


def read_metadata(path: str | os.PathLike) -> dict[str, Any] | None:
    """What `export` recorded beside or in the files at `path`, or None when nothing is there."""
    if Path(path).suffix == ".tflite":
        return tflite.read_record(path)
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


def _tflite_options(
    model: keras.Model, format: str, int8: bool, calibration: Iterable[np.ndarray] | None
) -> dict[str, Any]:
    """The options of the writer, checked against each other and the model."""
    learned = any(type(layer).__name__.startswith("QuantizeWrapper") for layer in model.layers)
    if format != "tflite":
        if int8 or calibration is not None:
            raise UserError(f"int8 has no effect on the format {format!r}; it belongs to tflite.")
        return {}
    if int8 and not learned and calibration is None:
        raise UserError(
            f"{model.name!r} has learned no int8 ranges: export a run of the stage pqat, or give calibration images "
            "(--calibrate)."
        )
    if calibration is not None and (learned or not int8):
        reason = "the model has learned its ranges" if learned else "nothing is rounded without int8"
        raise UserError(f"Calibration images have no effect: {reason}.")
    return {"int8": int8, "calibration": calibration}


def _tflite(
    model: keras.Model,
    path: Path,
    tolerance: float | None,
    *,
    int8: bool,
    calibration: Iterable[np.ndarray] | None,
) -> dict[str, Any]:
    content = tflite.convert(model, int8=int8, calibration=calibration)
    path.write_bytes(content)
    loaded = tflite.load(path)
    reduce = np.mean if int8 else np.max
    allowed = (0.25 if int8 else 1e-4) if tolerance is None else tolerance
    difference = _compare(model, lambda x: tf.constant(loaded(x.numpy())), allowed, reduce=reduce)
    return {
        "int8": int8,
        "max_difference": difference,
        "compressed_bytes": len(zlib.compress(content, 9)),
        "ops": tflite.operations(path),
        "kernels": _checked_zeros(model, tflite.kernels(path)),
    }


def _checked_zeros(model: keras.Model, found: list[tflite.TFLiteKernel]) -> list[dict[str, Any]]:
    """The zeros of the kernels in a file; KerasReLUError where a kernel has fewer than its like in the model.

    The converter renames and reorders; kernels of one size are compared from the sparsest to the densest.
    """
    sizes: dict[int, list[int]] = {}
    for kernel in found:
        sizes.setdefault(kernel.values.size, []).append(int(np.sum(kernel.values == 0)))
    for size, zeros in _zeros_by_size(model).items():
        written = sorted(sizes.get(size, []), reverse=True)
        lost = [a for a, b in zip(sorted(zeros, reverse=True), [*written, *[0] * len(zeros)], strict=False) if a > b]
        if lost:
            raise KerasReLUError(
                f"The TFLite file lost zeros: of the kernels with {size:,} weights one should have {lost[0]:,} zeros; the "
                f"file has {written or 'none of that size'}."
            )
    return [kernel.to_dict() for kernel in found]


def _zeros_by_size(model: keras.Model) -> dict[int, list[int]]:
    zeros: dict[int, list[int]] = {}
    for variable in model.variables:
        short = variable.name.split(":")[0].split("/")[-1]
        if short in ("kernel", "depthwise_kernel") and variable.shape.rank in (2, 4):
            value = variable.numpy()
            zeros.setdefault(value.size, []).append(int(np.sum(value == 0)))
    return zeros


def _savedmodel(model: keras.Model, path: Path, tolerance: float | None) -> dict[str, Any]:
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
    allowed = 1e-5 if tolerance is None else tolerance
    difference = _compare(model, lambda x: signature(**{INPUT_NAME: x})[OUTPUT_NAME], allowed)
    return {"max_difference": difference, "ops": _operations(signature.graph.as_graph_def())}


def _compare(
    model: keras.Model,
    exported: Callable[[tf.Tensor], tf.Tensor],
    tolerance: float,
    *,
    reduce: Callable[[np.ndarray], Any] = np.max,
) -> float:
    """Largest absolute difference of the logits on a random batch.

    Args:
        reduce: what the tolerance bounds of the differences, the largest or the mean.

    Raises:
        KerasReLUError: it is larger than allowed, or a logit is not finite.
    """
    batch = tf.constant(np.random.default_rng(0).standard_normal((4, *model.input_shape[1:])), tf.float32)
    expected = tf.cast(model(batch, training=False), tf.float32).numpy()
    differences = np.abs(expected - exported(batch).numpy())
    difference = float(reduce(differences))
    allowed = tolerance * max(1.0, float(np.max(np.abs(expected))))
    if not difference <= allowed:
        raise KerasReLUError(
            f"The exported files differ from the model by {difference:.3g} on a random batch, allowed is {allowed:.3g}."
        )
    return float(np.max(differences))


def _operations(graph: Any) -> dict[str, int]:
    """Counts of the computing operations by type, in the graph and the functions it calls."""
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    counts = Counter(node.op for node in nodes if node.op not in _STRUCTURE)
    return dict(sorted(counts.items()))


FORMATS: dict[str, Callable[..., dict[str, Any]]] = {"savedmodel": _savedmodel, "tflite": _tflite}
