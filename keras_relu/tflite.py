"""TFLite files: converting a model, what the file holds, and a record packed into it.

The record is a zip member behind the flat buffer, as TFLite's own metadata keeps its associated files; interpreters do
not read that far.
"""

from __future__ import annotations

import json
import os
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_relu.errors import UserError

__all__ = ["Loaded", "TFLiteKernel", "convert", "kernels", "load", "operations", "read_record", "write_record"]

_RECORD = "keras_relu.json"
_KINDS = {"CONV_2D": "conv", "DEPTHWISE_CONV_2D": "depthwise", "FULLY_CONNECTED": "dense"}


@dataclass(frozen=True)
class TFLiteKernel:
    """One kernel of a TFLite file: the constant weights of a convolution or dense operation.

    Attributes:
        name: of the tensor, as the converter made it from layer names.
        kind: conv, depthwise or dense.
        values: as stored, int8 or float32; zero stands for zero in both, since scales are symmetric.
    """

    name: str
    kind: str
    values: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """name, kind, size, zeros and sparsity, as `compression.masks.KernelFacts` gives them."""
        size, zeros = self.values.size, int(np.sum(self.values == 0))
        return {"name": self.name, "kind": self.kind, "size": size, "zeros": zeros, "sparsity": zeros / max(size, 1)}


class Loaded:
    """A TFLite file ready to run: float32 [B, H, W, C] to float32 logits [B, classes], whatever types it works in.

    Attributes:
        input_shape: (H, W, C).
        outputs: number of logits.
    """

    def __init__(self, interpreter: Any) -> None:
        self._interpreter = interpreter
        (self._source,), (self._target,) = interpreter.get_input_details(), interpreter.get_output_details()
        self.input_shape = tuple(int(n) for n in self._source["shape"][1:])
        self.outputs = int(self._target["shape"][-1])

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """The logits of a batch of any size."""
        interpreter, values = self._interpreter, _quantize(images, self._source)
        if tuple(interpreter.get_input_details()[0]["shape"]) != values.shape:
            interpreter.resize_tensor_input(self._source["index"], values.shape)
            interpreter.allocate_tensors()
        interpreter.set_tensor(self._source["index"], values)
        interpreter.invoke()
        return _dequantize(interpreter.get_tensor(self._target["index"]), self._target)


def load(path: str | os.PathLike, *, threads: int | None = None) -> Loaded:
    """The interpreter of a file.

    Args:
        threads: of the interpreter; None leaves the number to it.

    Raises:
        UserError: the file is corrupt, uses operations that are not supported, or has several inputs or outputs.
    """
    import tensorflow as tf

    try:
        with warnings.catch_warnings():
            # It announces its removal for a release that came without it.
            warnings.filterwarnings("ignore", message=".*tf.lite.Interpreter is deprecated", category=UserWarning)
            interpreter = tf.lite.Interpreter(model_path=str(path), num_threads=threads)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"The TFLite file {str(path)!r} is corrupt or uses unsupported operations: {_short(error)}"
        ) from error
    if len(interpreter.get_input_details()) != 1 or len(interpreter.get_output_details()) != 1:
        raise UserError(f"The TFLite file {str(path)!r} must have one input and one output.")
    return Loaded(interpreter)


def convert(model: Any, *, int8: bool = False, calibration: Iterable[np.ndarray] | None = None) -> bytes:
    """The flat buffer of a tf_keras model.

    Args:
        int8: round to int8: as the model learned it where it was quantized, else by the ranges seen in `calibration`.
        calibration: float32 batches [B, H, W, C] of model inputs.
    """
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if int8:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if int8 and calibration is not None:
        images = [image[np.newaxis] for batch in calibration for image in batch]
        converter.representative_dataset = lambda: ([image] for image in images)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    content = converter.convert()
    return _compact(content) if int8 else content


def _compact(content: bytes) -> bytes:
    """The same model with each distinct vector stored once.

    The converter writes a zero point of eight bytes for every channel of every kernel and bias; all are zero, and in a
    network of many channels they are a quarter of the file.
    """
    import flatbuffers
    from tensorflow.lite.python import schema_py_generated as schema

    class SharingBuilder(flatbuffers.Builder):
        """Gives equal arrays one place; raw data starts at multiples of 16 bytes, as the schema wants it."""

        def __init__(self, size: int) -> None:
            super().__init__(size)
            self.places: dict[tuple[str, bytes], int] = {}

        def CreateNumpyVector(self, x: np.ndarray) -> int:
            key = (x.dtype.str, x.tobytes())
            if key not in self.places:
                if x.dtype == np.uint8:
                    self.Prep(16, x.size)
                self.places[key] = super().CreateNumpyVector(x)
            return self.places[key]

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
    builder = SharingBuilder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def kernels(path: str | os.PathLike) -> list[TFLiteKernel]:
    """The kernels in a file, in the order in which they are used.

    Raises:
        UserError: the file is missing or no TFLite file.
    """
    model, graph = _parsed(path)
    found = []
    for code, operation in _operations(model, graph):
        if code not in _KINDS:
            continue
        tensor = graph.tensors[operation.inputs[1]]
        data = model.buffers[tensor.buffer].data
        if data is not None:
            values = np.asarray(data, np.uint8).view(_dtype(tensor.type)).reshape(tensor.shape)
            found.append(TFLiteKernel(tensor.name.decode("utf-8", "replace"), _KINDS[code], values))
    return found


def operations(path: str | os.PathLike) -> dict[str, int]:
    """How often each operation occurs in a file."""
    counts: dict[str, int] = {}
    for code, _ in _operations(*_parsed(path)):
        counts[code] = counts.get(code, 0) + 1
    return dict(sorted(counts.items()))


def write_record(path: str | os.PathLike, record: Mapping[str, Any]) -> None:
    """Pack a record of plain values into a TFLite file."""
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        # A fixed date: the same model gives the same file.
        archive.writestr(zipfile.ZipInfo(_RECORD, (1980, 1, 1, 0, 0, 0)), json.dumps(record, indent=2))


def read_record(path: str | os.PathLike) -> dict[str, Any] | None:
    """What `write_record` packed into a file, or None."""
    if not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            record = json.loads(archive.read(_RECORD))
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, EOFError, NotImplementedError):
        return None
    return record if isinstance(record, dict) else None


def _quantize(values: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    if details["dtype"] == np.float32:
        return values
    scale, zero = details["quantization"]
    limits = np.iinfo(details["dtype"])
    return np.clip(np.round(values / scale) + zero, limits.min, limits.max).astype(details["dtype"])


def _dequantize(values: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    if details["dtype"] == np.float32:
        return values
    scale, zero = details["quantization"]
    return ((values.astype(np.float32) - zero) * scale).astype(np.float32)


def _short(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__


def _parsed(path: str | os.PathLike) -> tuple[Any, Any]:
    from tensorflow.lite.python import schema_py_generated as schema

    file = Path(path)
    if not file.is_file():
        raise UserError(f"The TFLite file {str(path)!r} does not exist.")
    content = file.read_bytes()
    if content[4:8] != b"TFL3":
        raise UserError(f"{str(path)!r} is no TFLite file: its identifier is missing.")
    try:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
        return model, model.subgraphs[0]
    except Exception as error:  # a damaged flat buffer surfaces as almost any type
        raise UserError(f"The TFLite file {str(path)!r} is corrupt.") from error


def _operations(model: Any, graph: Any) -> Iterator[tuple[str, Any]]:
    from tensorflow.lite.python import schema_py_generated as schema

    names = {value: key for key, value in vars(schema.BuiltinOperator).items() if not key.startswith("_")}
    for operation in graph.operators:
        code = model.operatorCodes[operation.opcodeIndex]
        yield names[max(code.builtinCode, code.deprecatedBuiltinCode)], operation


def _dtype(code: int) -> np.dtype:
    from tensorflow.lite.python import schema_py_generated as schema

    kinds = {
        schema.TensorType.INT8: np.int8,
        schema.TensorType.FLOAT32: np.float32,
        schema.TensorType.FLOAT16: np.float16,
    }
    if code not in kinds:
        raise UserError(f"The TFLite file holds kernels of an unknown type (code {code}).")
    return np.dtype(kinds[code])
