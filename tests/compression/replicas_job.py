"""All stages of a compressed network on two replicas, in a process of its own: prints what they keep as one JSON line.

Logical devices can only be set up before TensorFlow starts, hence the process.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import tensorflow as tf

import keras_relu  # noqa: F401

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

sys.path.insert(0, str(Path(__file__).parents[1]))
from reference.compression_nets import small_blocks  # noqa: E402

from keras_relu import compression, data  # noqa: E402
from keras_relu.compression import masks  # noqa: E402

SETTINGS = {"epochs": 1, "batch_size": 32, "augment": False}
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
digits = data.load("digits", limit=128)
options = {"strategy": strategy, "progress": False}


def zeros(result: dict) -> dict[str, int]:
    return {kernel["name"]: kernel["zeros"] for kernel in result["kernels"] if kernel["zeros"]}


pruning = {**SETTINGS, "ramp_epochs": 0.5, "frequency": 1}
pruned = compression.prune(small_blocks(), digits, None, pruning, **options)
model = pruned["model"]
pqat = compression.pqat(model, digits, None, SETTINGS, **options)
pred = compression.predict(model, digits, None, SETTINGS, **options)["model"]
masks.require_zeros(pred, masks.zero_masks(model), "pred")
single = compression.prune(small_blocks(), digits, None, pruning, progress=False)["model"]
same = [
    float(tf.reduce_mean(tf.cast((a.numpy() != 0) == (b.numpy() != 0), tf.float32)))
    for a, b in zip(masks.kernels(model).values(), masks.kernels(single).values(), strict=True)
]
print(
    json.dumps(
        {
            "replicas": strategy.num_replicas_in_sync,
            "pruned": zeros(pruned),
            "pqat": zeros(pqat),
            "same_mask": sum(same) / len(same),
        }
    )
)
