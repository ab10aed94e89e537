"""Time and memory of induction: cache, selection and association for ResNet-18 at 32x32 with nine induced sites.

The original's calls (a count of differing floats and a Python loop per prototype; scikit-learn's Hamming distance in chunks of
1,000 neurons) are timed on a tile in the same process and extrapolated. The bars: selection and association within 120 s, peak
memory 1.5 GB, cache 0.75 GB.

    python benchmarks/induction.py [--data-dir DIR] [--images 10000] [--prototypes 1000] [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from sklearn.metrics import pairwise_distances_argmin

from keras_relu import data, induction, models
from keras_relu.induction import bits
from keras_relu.induction.selection import farthest_points

BARS = {"cluster_s": 120.0, "peak_bytes": 1.5e9, "cache_bytes": 0.75e9}
STEM = "stem_relu"
NINE = [STEM, *(f"stage{s}_block{b}_relu{i}" for s in (1, 2) for b in (1, 2) for i in (1, 2))]
HAMMING = {"association": "hamming", "polarity": False, "constants": False}
CHUNK, TILE = 1000, 2048


def load(data_dir, images):
    if data_dir:
        return data.load("cifar10", data_dir=data_dir)
    return data.load("synthetic", options={"train_size": images + images // 4, "test_size": 10})


def seconds(run):
    """(wall time, processor time, result) of a call; other load on the machine stretches the first."""
    start, used = time.perf_counter(), time.process_time()
    result = run()
    return time.perf_counter() - start, time.process_time() - used, result


def peak_bytes():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def original(cache, prototypes, neurons, inducer_neurons):
    """Processor seconds of (selection, association) as the original would need them, from one tile of each."""
    words = cache.bits(STEM)[: max(TILE, CHUNK, prototypes)]
    values = bits.unpack(words, cache.images).astype(np.float32)
    tile = values[:TILE]

    def one_prototype():
        found = np.count_nonzero(tile != tile[0], axis=1)
        smallest = [np.inf] * len(tile)
        for n in range(len(tile)):
            smallest[n] = min(smallest[n], found[n])
        return int(np.argmax(smallest))

    select_s = seconds(one_prototype)[1]
    associate_s = seconds(lambda: pairwise_distances_argmin(values[:CHUNK], values[:prototypes], metric="hamming"))[1]
    return select_s * prototypes * inducer_neurons / len(tile), associate_s * neurons / CHUNK


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", help="folder with the real CIFAR-10; synthetic images otherwise")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--prototypes", type=int, default=1000)
    parser.add_argument("--folder", help="where the cache goes and stays; default: a temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        measure(arguments, Path(arguments.folder or scratch) / "cache")


def measure(arguments, folder):
    dataset = load(arguments.data_dir, arguments.images)
    model = models.build("resnet18", classes=dataset.classes)
    plan = induction.make_plan(model, {STEM: NINE}, arguments.prototypes)
    times = {}
    *times["cache"], cache = seconds(lambda: induction.write_cache(model, dataset, folder, images=arguments.images))
    cache_peak = peak_bytes()
    *times["select"], _ = seconds(lambda: farthest_points(cache.bits(STEM), arguments.prototypes, 0))
    cluster = {"model": model, "dataset": dataset, "prototypes_dir": folder / "prototypes"}
    *times["hamming"], _ = seconds(lambda: induction.cluster(plan, cache, HAMMING, **cluster))
    # The prototypes of that clustering are taken, so this is the association alone.
    *times["energy"], _ = seconds(lambda: induction.cluster(plan, cache, **cluster, reuse_prototypes=True))
    times["cluster"] = [
        max(h, e + s) for h, e, s in zip(times["hamming"], times["energy"], times["select"], strict=True)
    ]
    peak = peak_bytes()
    neurons = sum(int(np.prod(plan.site(name).shape)) for name in NINE)
    old = original(cache, arguments.prototypes, neurons, int(np.prod(plan.site(STEM).shape)))
    associate = times["hamming"][1] - times["select"][1]
    result = {
        "images": cache.images,
        "prototypes": arguments.prototypes,
        "neurons": neurons,
        **{f"{name}_s": round(wall, 1) for name, (wall, _) in times.items()},
        **{f"{name}_cpu_s": round(cpu, 1) for name, (_, cpu) in times.items()},
        "cache_bytes": sum(file.stat().st_size for file in folder.glob("*.bits")),
        "peak_bytes": peak,
        "cache_peak_bytes": cache_peak,
        "original_select_cpu_s": round(old[0]),
        "original_associate_cpu_s": round(old[1]),
        "ratio_select_cpu": round(old[0] / times["select"][1], 1),
        "ratio_associate_cpu": round(old[1] / associate, 1),
    }
    missed = [key for key, bar in BARS.items() if result[key] > bar]
    print(json.dumps({**result, "bars": BARS, "missed": missed}))
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
