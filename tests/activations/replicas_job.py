"""Two replicas of one gated layer, in a process of its own: prints what each holds after one step, as one JSON line.

Logical devices can only be set up before TensorFlow starts, hence the process.
"""

from __future__ import annotations

import json

import numpy as np
import tensorflow as tf

import keras_relu  # noqa: F401

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

from keras_relu.activations import MaskedReLU  # noqa: E402

SHAPE = (4, 3, 2)
rng = np.random.default_rng(0)
scores, x = rng.uniform(-1, 1, SHAPE), tf.constant(rng.normal(size=(8, *SHAPE)), tf.float32)
halves = [x[:4], x[4:]]


def halved():
    layer = MaskedReLU(replacement="quadratic", name="act")
    layer.build((None, *SHAPE))
    layer.score.assign(scores)
    layer.update_mask()
    layer.coefficients.assign([[0.1, 0.2], [0.9, 1.1], [7.0, -0.1]])
    return layer


strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    layer = halved()


@tf.function
def step(part):
    y = layer(part, training=True)
    layer.score.assign_sub(0.5 * tf.ones(SHAPE))
    layer.update_mask()
    layer.project_coefficients()
    return y


parts = strategy.experimental_distribute_values_from_function(lambda context: halves[context.replica_id_in_sync_group])
y = strategy.run(step, args=(parts,))
single = halved()
expected = single(x)
single.score.assign_sub(0.5 * tf.ones(SHAPE))
single.update_mask()
values = {
    name: [part.numpy().tolist() for part in strategy.experimental_local_results(getattr(layer, name))]
    for name in ("mask", "coefficients")
}
outputs = tf.concat(strategy.experimental_local_results(y), 0)
print(
    json.dumps(
        {
            **values,
            "largest_difference": float(tf.reduce_max(tf.abs(outputs - expected))),
            "single_mask": single.mask.numpy().tolist(),
        }
    )
)
