"""What compression saves: int8 against float TFLite, pruned against dense, and a pruning step against sorting on the host.

One network in one process. Sizes are those of the written files, compressed ones by zlib; latencies are medians of single
images on one thread, both files in turns; a pruning step is what pruning adds to one update, averaged over two
of the library's mask periods, against the original's way: fetch every kernel, sort it, write it back, after each batch.

Bars: int8 / float size at most 0.30, pruned / dense compressed size at most 0.5, pruning step at least 5 times cheaper.

    python benchmarks/compression.py [--arch mobilenet_v2_baseline_cifar10] [--images 100] [--output FOLDER]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

import keras_relu
from keras_relu import compression, models, tflite
from keras_relu.compression import masks, pruning, quantization
from keras_relu.compression.prune import choose_layers
from keras_relu.export import export

BARS = {"size_ratio": 0.30, "compressed_ratio": 0.5, "pruning_ratio": 5.0}
UPDATES = 200


def schedules(model, span):
    """The original's sparsities: 0.8 of pointwise, 0.7 of depthwise kernels."""
    targets = {k.name: 0.7 if k.kind == "depthwise" else 0.8 for k in masks.sparsity_table(model)}
    chosen = [layer.name for layer in choose_layers(model, compression.PruneConfig())]
    return {name: pruning.Ramp(targets[name], span=span) for name in chosen}


def pruned_at_once(model):
    wrapped = pruning.wrap(model, schedules(model, 0))
    for wrapper in pruning.wrappers(wrapped):
        wrapper.pruning_step.assign(1)
        wrapper.pruning_obj.conditional_mask_update()
    return pruning.strip(wrapped)


def rounding(model, images):
    """The network as it leaves quantization-aware training, with the ranges of a few batches."""
    quantized = quantization.quantize(model)
    for _ in range(3):
        quantized(images, training=True)
    return quantized


def latencies(files, shape, images):
    """Median milliseconds per image of each file, called in turns."""
    loaded = {name: tflite.load(file, threads=1) for name, file in files.items()}
    batch = np.random.default_rng(1).standard_normal((1, *shape)).astype("float32")
    times = {name: [] for name in files}
    for _ in range(images):
        for name, run in loaded.items():
            start = time.perf_counter()
            run(batch)
            times[name].append(time.perf_counter() - start)
    return {f"{name}_ms": round(1e3 * statistics.median(values), 3) for name, values in times.items()}


def our_pruning_seconds(model):
    """Seconds per update of masks and masked weights in the middle of a ramp."""
    wrapped = pruning.wrap(model, schedules(model, 10 * UPDATES))
    after = tf.function(pruning.drive(wrapped), autograph=False)
    after(tf.constant(1))
    start = time.perf_counter()
    for update in range(2, UPDATES + 2):
        after(tf.constant(update))
    return (time.perf_counter() - start) / UPDATES


def host_pruning_seconds(model, rounds=3):
    """Seconds per batch of the original's callback: every kernel sorted on the host (spec fusion, section 3.1)."""
    layers = [model.get_layer(name) for name in schedules(model, 0)]
    start = time.perf_counter()
    for _ in range(rounds):
        for layer in layers:
            (kernel,) = layer.get_weights()
            kept = max(round(kernel.size * 0.5), 1)
            threshold = np.sort(np.abs(kernel), axis=None)[-kept]
            layer.set_weights([kernel * (np.abs(kernel) >= threshold)])
    return (time.perf_counter() - start) / rounds


def measured(arch, folder, images):
    model = models.build(arch)
    shape = model.input_shape[1:]
    batch = np.random.default_rng(0).standard_normal((8, *shape)).astype("float32")
    ours, host = our_pruning_seconds(model), host_pruning_seconds(models.build(arch))
    sparse = pruned_at_once(model)
    reports = {"float": export(model, folder / "float.tflite", format="tflite")}
    for name, network in (("int8", model), ("pruned_int8", sparse)):
        file = folder / f"{name}.tflite"
        reports[name] = export(rounding(network, batch), file, format="tflite", int8=True, tolerance=1.0)
    times = latencies({name: folder / f"{name}.tflite" for name in ("float", "int8")}, shape, images)
    sizes = {f"{name}_bytes": report["bytes"] for name, report in reports.items()}
    compressed = {f"{name}_compressed_bytes": report["compressed_bytes"] for name, report in reports.items()}
    return {
        **sizes,
        **compressed,
        **times,
        "pruning_step_ms": round(1e3 * ours, 3),
        "host_pruning_step_ms": round(1e3 * host, 3),
        "size_ratio": round(sizes["int8_bytes"] / sizes["float_bytes"], 3),
        "compressed_ratio": round(compressed["pruned_int8_compressed_bytes"] / compressed["int8_compressed_bytes"], 3),
        "latency_ratio": round(times["int8_ms"] / times["float_ms"], 3),
        "pruning_ratio": round(host / ours, 1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="mobilenet_v2_baseline_cifar10")
    parser.add_argument("--images", type=int, default=100, help="images whose latency is measured")
    parser.add_argument("--output", help="folder that keeps the files")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(arguments.output or scratch)
        folder.mkdir(parents=True, exist_ok=True)
        result = measured(arguments.arch, folder, arguments.images)
    print(json.dumps({"version": keras_relu.__version__, "arch": arguments.arch, **result, "bars": BARS}))
    met = (
        result["size_ratio"] <= BARS["size_ratio"],
        result["compressed_ratio"] <= BARS["compressed_ratio"],
        result["pruning_ratio"] >= BARS["pruning_ratio"],
    )
    raise SystemExit(0 if all(met) else 1)


if __name__ == "__main__":
    main()
