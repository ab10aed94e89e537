"""The variants of a network side by side: every number read from the model of a run and from the file it exports to."""

from __future__ import annotations

import statistics
import tempfile
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tf_keras as keras

from keras_relu import counting, tflite
from keras_relu.compression.counts import count_fusion
from keras_relu.compression.masks import sparsity_table
from keras_relu.errors import UserError
from keras_relu.runs import Run, load_model
from keras_relu.runs.quantized import is_quantized

__all__ = ["describe_variants"]

_FROM_RESULT = ("arch", "dataset", "accuracy", "correct", "total", "val_accuracy", "mode", "predictors")


def describe_variants(runs: Sequence[str | Path], *, images: int = 50) -> list[dict[str, Any]]:
    """What the report of variants shows, one entry per run.

    Args:
        runs: finished runs of any stage, in the order of the table.
        images: single images whose latency is measured, all variants in turns.

    Returns:
        Per run: name, stage, arch, dataset, accuracy, correct, total, parameters (ternary kernels left out), macs,
        fused_multiplications (of the whole network with fused blocks, None where it has none), sparsity (of all exact
        kernels), int8, bytes and compressed_bytes of its TFLite file, latency_ms (median on one thread), predictors.

    Raises:
        UserError: no run, one that is unfinished or no run, or fewer than one image.
    """
    if not runs or images < 1:
        raise UserError("The table of variants needs at least one run and one image.")
    with tempfile.TemporaryDirectory() as scratch:
        files = [Path(scratch) / f"{index}.tflite" for index in range(len(runs))]
        entries = [_describe(Path(run), file) for run, file in zip(runs, files, strict=True)]
        for entry, latency in zip(entries, _latencies(files, images), strict=True):
            entry["latency_ms"] = latency
    return entries


def _describe(path: Path, file: Path) -> dict[str, Any]:
    """The entry of one run but for its latency; writes its TFLite file."""
    run = Run.open(path)
    if not run.finished:
        raise UserError(f"The run {str(path)!r} is not finished; finish it first (--resume).")
    model, result = load_model(path), run.result
    int8 = is_quantized(path)
    content = tflite.convert(load_model(path, quantized=True) if int8 else model, int8=int8)
    file.write_bytes(content)
    return {
        "name": _name(path.resolve()),
        "path": str(path),
        "stage": run.stage,
        **{key: result.get(key) for key in _FROM_RESULT},
        **_sizes(model),
        "int8": int8,
        "bytes": len(content),
        "compressed_bytes": len(zlib.compress(content, 9)),
    }


def _name(path: Path) -> str:
    """The directory's name; of a run inside an experiment's directory, those of the experiment and its network."""
    return path.name if path.name != "run" else "/".join(path.parts[-3:-1])


def _sizes(model: keras.Model) -> dict[str, Any]:
    table = sparsity_table(model)
    ternary = sum(layer.count_params() for layer in model.layers if hasattr(layer, "additions_per_position"))
    try:
        fused: int | None = count_fusion(model).whole_fused
    except UserError:
        fused = None
    return {
        "parameters": model.count_params() - ternary,
        "macs": counting.count(model).macs,
        "fused_multiplications": fused,
        "sparsity": sum(kernel.zeros for kernel in table) / max(1, sum(kernel.size for kernel in table)),
    }


def _latencies(files: Sequence[Path], images: int) -> list[float]:
    """Median milliseconds per image of each file, called in turns."""
    loaded = [tflite.load(file, threads=1) for file in files]
    times: Mapping[int, list[float]] = {index: [] for index in range(len(files))}
    random = np.random.default_rng(0)
    for _ in range(images + 1):
        for index, run in enumerate(loaded):
            image = random.standard_normal((1, *run.input_shape)).astype(np.float32)
            start = time.perf_counter()
            run(image)
            times[index].append(time.perf_counter() - start)
    # The first call of each allocates.
    return [round(1e3 * statistics.median(values[1:]), 4) for values in times.values()]
