"""What compression saves: int8 against float TFLite, pruned against dense, and a pruning step against sorting on the host.

One network in one process. Sizes are those of the written files, compressed ones by zlib; latencies are medians of single
images on one thread, both files in turns; a pruning step is what pruning adds to one update, against the original's way:
fetch every kernel, sort it, write it back, after each batch.

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
from keras_relu import compression, models, surgery, tflite
from keras_relu.compression import masks, pruning, quantization
from keras_relu.compression.prune import choose_layers
from keras_relu.export import export

BARS = {"size_ratio": 0.30, "compressed_ratio": 0.5, "pruning_ratio": 5.0}
PERIOD = pruning.Ramp(0.5).frequency
RAMP = 2000


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


def pruning_seconds(model, rounds=5):
    """Seconds that pruning adds to one update, the three ways in turns: medians of the rounds' means.

    `default`: masks change every 100 updates and are applied after each, over one whole such period. `every_update`: masks
    change with every update, as the original's do. `host`: the original's callback. Before each update the kernels get
    values back in which nothing is zero, as an optimizer leaves them; that is not timed.
    """
    ways = {"default": (our_pruning(model, PERIOD), PERIOD), "every_update": (our_pruning(model, 1), 3)}
    ways["host"] = (host_pruning(model), 3)
    means = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, ((restore, prune), updates) in ways.items():
            spent = 0.0
            for update in range(number * updates, (number + 1) * updates):
                restore()
                start = time.perf_counter()
                prune(update)
                spent += time.perf_counter() - start
            means[name].append(spent / updates)
    # The first round traces the graphs.
    return {name: statistics.median(values[1:]) for name, values in means.items()}


def our_pruning(model, frequency):
    """(what gives the kernels of a wrapped copy their values back, what prunes it behind an update)."""
    ramps = {
        name: pruning.Ramp(ramp.sparsity, span=RAMP, frequency=frequency) for name, ramp in schedules(model, 0).items()
    }
    wrapped = pruning.wrap(model, ramps)
    after = tf.function(pruning.drive(wrapped), autograph=False)
    return restoring([wrapper.layer.weights[0] for wrapper in pruning.wrappers(wrapped)]), lambda u: after(
        tf.constant(u)
    )


def host_pruning(model):
    """The same for the original's callback: every kernel fetched, sorted by NumPy, written back (spec fusion, section 3.1)."""
    copy = surgery.copy_model(model)
    ramps = {copy.get_layer(name): ramp for name, ramp in schedules(model, RAMP).items()}

    def prune(update):
        for layer, ramp in ramps.items():
            (kernel,) = layer.get_weights()
            kept = max(round(kernel.size * (1.0 - float(ramp.sparsity) * (1.0 - (1.0 - update / RAMP) ** 3))), 1)
            threshold = np.sort(np.abs(kernel), axis=None)[-kept]
            layer.set_weights([kernel * (np.abs(kernel) >= threshold)])

    return restoring([layer.weights[0] for layer in ramps]), prune


def restoring(kernels):
    """What gives kernels their present values back."""
    values = [kernel.numpy() for kernel in kernels]

    def restore():
        for kernel, value in zip(kernels, values):
            kernel.assign(value)

    return restore


def measured(arch, folder, images):
    model = models.build(arch)
    shape = model.input_shape[1:]
    batch = np.random.default_rng(0).standard_normal((8, *shape)).astype("float32")
    steps = pruning_seconds(model)
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
        **{f"pruning_{name}_ms": round(1e3 * seconds, 3) for name, seconds in steps.items()},
        "size_ratio": round(sizes["int8_bytes"] / sizes["float_bytes"], 3),
        "compressed_ratio": round(compressed["pruned_int8_compressed_bytes"] / compressed["int8_compressed_bytes"], 3),
        "latency_ratio": round(times["int8_ms"] / times["float_ms"], 3),
        "pruning_ratio": round(steps["host"] / steps["default"], 1),
        "pruning_every_update_ratio": round(steps["host"] / steps["every_update"], 1),
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
