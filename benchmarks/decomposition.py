"""What extraction costs: filters for three k and all classes in one pass, against one plain evaluation of the same images.

Both run in turns in one process, so that other load on the machine meets both alike. The bar: extraction takes no more
than 1.3 times the evaluation.

    python benchmarks/decomposition.py [--data-dir DIR] [--rounds 1] [--images 50000]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import keras_relu
from keras_relu import data, decomposition, models
from keras_relu.evaluate import evaluate

BAR = 1.3
TOP_K = (5, 10, 20)


def load(data_dir, images):
    """The training images of the real CIFAR-10 under `data_dir`, or synthetic ones of the same shape."""
    if data_dir:
        limit = None if images == 50_000 else images
        return data.load("cifar10", data_dir=data_dir, validation_fraction=0, limit=limit)
    sizes = {"train_size": images, "test_size": 10}
    return data.load("synthetic", validation_fraction=0, options=sizes)


def seconds(run):
    """Wall and processor time of one call."""
    start, used = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - start, time.process_time() - used


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", help="folder with the real CIFAR-10; synthetic images otherwise")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--images", type=int, default=50_000)
    arguments = parser.parse_args()
    dataset = load(arguments.data_dir, arguments.images)
    model = models.build("resnet20", classes=dataset.classes, input_shape=dataset.image_shape)

    def extraction():
        return decomposition.extract(model, dataset, top_k=TOP_K, batch_size=500)

    def evaluation():
        return evaluate(model, dataset.train, dataset.normalization, batch_size=500)

    # The images become one tensor on first use, which belongs to neither.
    next(iter(dataset.train.batches(1)))
    times = {"extraction": [], "evaluation": []}
    for _ in range(arguments.rounds):
        times["evaluation"].append(seconds(evaluation))
        times["extraction"].append(seconds(extraction))
    result = {}
    for name, values in times.items():
        walls, processors = zip(*values, strict=True)
        result |= {
            f"{name}_s": round(statistics.median(walls), 2),
            f"{name}_cpu_s": round(statistics.median(processors), 2),
        }
    ratios = {unit: round(result[f"extraction_{unit}"] / result[f"evaluation_{unit}"], 3) for unit in ("s", "cpu_s")}
    facts = {"version": keras_relu.__version__, "images": arguments.images, "top_k": list(TOP_K), **result}
    print(json.dumps({**facts, "ratio": ratios["s"], "ratio_cpu": ratios["cpu_s"], "bar": BAR}))
    raise SystemExit(0 if ratios["s"] <= BAR else 1)


if __name__ == "__main__":
    main()
