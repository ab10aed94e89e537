"""A short training of its own process: `python distributed_job.py STRATEGY RUN_DIRECTORY [stop_at]` prints one JSON line.

Logical devices and clusters can only be set up before TensorFlow starts, hence the process.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import tensorflow as tf

import keras_relu  # noqa: F401

name, directory = sys.argv[1], sys.argv[2]
stop_at = int(sys.argv[3]) if len(sys.argv) > 3 else None
if name == "mirrored":
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

from keras_relu.training.strategy import get_strategy, is_chief  # noqa: E402

strategy = get_strategy(name)

sys.path.insert(0, str(Path(__file__).parent))
import conftest as tiny  # noqa: E402

from keras_relu.errors import Interrupted  # noqa: E402
from keras_relu.runs import Run  # noqa: E402
from keras_relu.training import fit  # noqa: E402
from keras_relu.training.optimizers import get_optimizer  # noqa: E402

with strategy.scope():
    step = tiny.TinyStep(batch_norm=False, optimizer=get_optimizer("adam", weight_decay=1e-3))
dataset = tiny.TinyDataset(*(tiny.make_split(n, i, "train") for i, n in enumerate((50, 20, 20))))
run = Run.create(directory, config={"seed": 3}, stage="train", resume=True, chief=is_chief(strategy))


def on_step(index: int) -> None:
    if index == stop_at:
        os.kill(os.getpid(), signal.SIGTERM)


try:
    result = fit(
        step,
        dataset,
        epochs=2,
        batch_size=8,
        seed=3,
        run=run,
        resume=True,
        log_every=4,
        on_step=on_step,
        strategy=strategy,
        progress=False,
    )
except Interrupted as error:
    print(json.dumps({"interrupted": str(error)}))
    sys.exit(error.exit_code)
run.save_model(step.model)
weights = [value.tolist() for value in step.model.get_weights()]
history = [{k: v for k, v in logs.items() if k != "seconds"} for logs in result["history"]]
print(json.dumps({"history": history, "weights": weights, "replicas": strategy.num_replicas_in_sync}))
