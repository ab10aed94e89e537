"""What does CKA between all layers of two networks cost? The tiles of `similarity.gram_statistics` against Gram matrices.

Two Tiny-10 networks see each image once; the outputs of their eight normalisations (40,352 numbers an image and network)
go to temporary files, from which all 64 CKA values come in one sweep. Then, in the same process and on the same arrays, the
original's way: for every pair of layers both Gram matrices, checked for symmetry, centred, multiplied. The cost of a pair
is that of its two layers, so by default the eight pairs of equal layers are measured and stand for the 64; `--all-pairs`
measures them all. Peak memory is read before the original's way begins.

    python benchmarks/similarity.py [--models A B --data-dir D] [--images 10000] [--all-pairs] [--json]

Without `--models` the networks have random weights and the images are noise, which costs the same.
"""

from __future__ import annotations

import argparse
import json
import resource
import time

import numpy as np

LAYERS = [f"bn{number}" for number in range(1, 9)]
MEMORY_BAR, SPEED_BAR = 2.0, 5.0


def networks(arguments):
    """Both networks, and the images with their normalisation."""
    from keras_relu import data, models
    from keras_relu.runs import load_model

    if arguments.models:
        split = data.load("cifar10", data_dir=arguments.data_dir, normalization="cifar10_image_std")
        return [load_model(path) for path in arguments.models], split.test, split.normalization
    noise = np.random.default_rng(0).integers(0, 256, (arguments.images, 32, 32, 3), np.uint8)
    split = data.ArraySplit(images=noise, labels=np.zeros(len(noise), np.int32), name="test")
    return [models.build("tiny10", seed=seed) for seed in (0, 1)], split, data.NORMALIZATIONS["cifar10_image_std"]


def gather(nets, split, normalization, rows, images):
    """One pass of the images through both networks."""
    import tensorflow as tf
    import tf_keras as keras

    outputs = [keras.Model(net.input, [net.get_layer(name).output for name in LAYERS]) for net in nets]
    run = tf.function(lambda x: [output(x, training=False) for output in outputs], reduce_retracing=True)
    seen = 0
    for pictures, _ in split.batches(250):
        pictures = pictures[: images - seen]
        for side, tensors in zip("ab", run(normalization.apply(pictures)), strict=True):
            for name, tensor in zip(LAYERS, tensors, strict=True):
                rows[f"{side}/{name}"].append(tensor.numpy())
        seen += len(pictures)
        if seen == images:
            return


def centred_gram(x):
    """What the original does to one representation: Gram matrix, check, double centring."""
    gram = x @ x.T
    if not np.allclose(gram, gram.T):
        raise ValueError("The Gram matrix is not symmetric.")
    gram = gram.copy()
    means = gram.mean(axis=0, dtype=np.float64)
    means -= means.mean() / 2
    gram -= means[:, None]
    gram -= means[None, :]
    return gram


def gram_cka(x, y):
    """CKA the original's way."""
    k, l_ = centred_gram(x).ravel(), centred_gram(y).ravel()
    return float(k.dot(l_) / (np.linalg.norm(k) * np.linalg.norm(l_)))


def gigabytes():
    """Peak resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


def measure(arguments):
    """Both ways; returns the numbers to print."""
    from keras_relu.similarity import gram_statistics
    from keras_relu.stitching.spill import spilled

    nets, split, normalization = networks(arguments)
    shapes = [nets[0].get_layer(name).output.shape[1:] for name in LAYERS]
    widths = {
        f"{side}/{name}": int(np.prod(shape)) for side in "ab" for name, shape in zip(LAYERS, shapes, strict=True)
    }
    with spilled(widths, arguments.images) as rows:
        started = time.perf_counter()
        gather(nets, split, normalization, rows, arguments.images)
        passed = time.perf_counter()
        cka = gram_statistics(list(rows.values())).cka()[:8, 8:]
        swept = time.perf_counter()
        peak = gigabytes()
        equal = [(i, i) for i in range(8)]
        pairs = [(i, j) for i in range(8) for j in range(8)] if arguments.all_pairs else equal
        arrays = {name: spill[0 : arguments.images] for name, spill in rows.items()}
    began = time.perf_counter()
    values = [gram_cka(arrays[f"a/{LAYERS[i]}"], arrays[f"b/{LAYERS[j]}"]) for i, j in pairs]
    original = (time.perf_counter() - began) * 64 / len(pairs)
    difference = max(abs(value - cka[i, j]) for value, (i, j) in zip(values, pairs, strict=True))
    return {
        "images": arguments.images,
        "networks_s": passed - started,
        "sweep_s": swept - passed,
        "original_s": original,
        "ratio": original / (swept - passed),
        "peak_gigabytes": peak,
        "pairs_measured": len(pairs),
        "largest_difference": difference,
        "cka_of_equal_layers": [round(float(cka[i, i]), 6) for i in range(8)],
    }


def main():
    """Parse, measure, print; exit code 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs=2, metavar=("A", "B"))
    parser.add_argument("--data-dir")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--all-pairs", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result = measure(arguments)
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        for key, value in result.items():
            print(f"{key:22} {value:.4g}" if isinstance(value, float) else f"{key:22} {value}")
    return int(result["ratio"] < SPEED_BAR or result["peak_gigabytes"] > MEMORY_BAR)


if __name__ == "__main__":
    raise SystemExit(main())
