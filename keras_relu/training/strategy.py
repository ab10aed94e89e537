"""Distribution strategies by name, and the cluster specification that Slurm's variables imply.

TensorFlow's own Slurm resolver divides by the number of GPUs (so it fails on CPU-only nodes), sorts host names as text
(so rank and address disagree from the 11th unpadded node on) and starts counting ports anew on every host (so pretend
nodes of one machine collide). Here a worker's place and port follow from its global rank alone.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
import tf_keras as keras

from keras_relu.errors import UserError, unknown_key

__all__ = [
    "STRATEGIES",
    "expand_hostlist",
    "expand_tasks_per_node",
    "get_strategy",
    "is_chief",
    "is_distributed",
    "place_model",
    "slurm_tf_config",
]

STRATEGIES = ("auto", "mirrored", "multiworker", "one")

BASE_PORT = 23456


def get_strategy(name: str = "auto") -> tf.distribute.Strategy:
    """The distribution strategy called `name`; create it before any other TensorFlow operation.

    - `one`: the default device.
    - `mirrored`: all GPUs of this machine (its logical CPUs when there is no GPU).
    - `multiworker`: one process per worker, from TF_CONFIG or from the variables of a Slurm step.
    - `auto`: `multiworker` in a cluster of more than one task, else `mirrored` with more than one GPU, else `one`.

    Raises:
        UserError: unknown name, or `multiworker` without a cluster.
    """
    if name not in STRATEGIES:
        raise unknown_key("strategy", name, STRATEGIES)
    if name == "auto":
        name = _automatic()
    if name == "one":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
        return tf.distribute.MirroredStrategy([device.name for device in tf.config.list_logical_devices(kind)])
    return _multiworker()


def _automatic() -> str:
    cluster = _cluster(os.environ)
    if cluster is not None and len(cluster["cluster"].get("worker", ())) > 1:
        return "multiworker"
    return "mirrored" if len(tf.config.list_physical_devices("GPU")) > 1 else "one"


def _multiworker() -> tf.distribute.Strategy:
    cluster = _cluster(os.environ)
    if cluster is None:
        raise UserError(
            "The strategy 'multiworker' found no cluster: set TF_CONFIG, or start the tasks with srun "
            "(SLURM_STEP_NODELIST, SLURM_STEP_TASKS_PER_NODE and SLURM_PROCID)."
        )
    os.environ["TF_CONFIG"] = json.dumps(cluster)
    communication = tf.distribute.experimental.CommunicationImplementation
    implementation = communication.AUTO if tf.config.list_physical_devices("GPU") else communication.RING
    options = tf.distribute.experimental.CommunicationOptions(implementation=implementation)
    return tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)


def _cluster(environment: Mapping[str, str]) -> dict[str, Any] | None:
    """TF_CONFIG if it is set, else what Slurm's variables imply, else None."""
    if environment.get("TF_CONFIG"):
        try:
            cluster = json.loads(environment["TF_CONFIG"])
            return cluster if cluster["cluster"] and "task" in cluster else None
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"TF_CONFIG is not a JSON object with 'cluster' and 'task': {error}.") from error
    if all(key in environment for key in ("SLURM_STEP_NODELIST", "SLURM_STEP_TASKS_PER_NODE", "SLURM_PROCID")):
        return slurm_tf_config(environment)
    return None


def slurm_tf_config(environment: Mapping[str, str], *, base_port: int | None = None) -> dict[str, Any]:
    """TF_CONFIG for this task of a Slurm step: one worker per task, on port base + global rank.

    Args:
        environment: holds SLURM_STEP_NODELIST, SLURM_STEP_TASKS_PER_NODE and SLURM_PROCID; ONE_HOST replaces every host
            name (pretend nodes on one machine), KERAS_RELU_BASE_PORT the first port.

    Raises:
        UserError: the lists do not fit each other.
    """
    port = int(environment.get("KERAS_RELU_BASE_PORT", BASE_PORT)) if base_port is None else base_port
    hosts = expand_hostlist(environment["SLURM_STEP_NODELIST"])
    tasks = expand_tasks_per_node(environment["SLURM_STEP_TASKS_PER_NODE"])
    if len(hosts) != len(tasks):
        raise UserError(f"Slurm names {len(hosts)} nodes but task counts for {len(tasks)}.")
    workers: list[str] = []
    for host, count in zip(hosts, tasks, strict=True):
        for _ in range(count):
            workers.append(f"{environment.get('ONE_HOST') or host}:{port + len(workers)}")
    return {"cluster": {"worker": workers}, "task": {"type": "worker", "index": int(environment["SLURM_PROCID"])}}


def expand_hostlist(text: str) -> list[str]:
    """Host names of a Slurm list, in Slurm's order: "n[1-2,07],gpu" -> n1, n2, n07, gpu.

    Raises:
        UserError: the text is no such list.
    """
    # Commas inside brackets separate ranges, the others separate hosts.
    parts = re.findall(r"(?:[^,\[\]]|\[[^\[\]]*\])+", text)
    if not parts or ",".join(parts) != text:
        raise UserError(f"{text!r} is no Slurm host list like 'node[0-3,7],login'.")
    return [host for part in parts for host in _expand_host(part)]


def _expand_host(part: str) -> list[str]:
    match = re.fullmatch(r"([^\[]*)\[([^\]]*)\](.*)", part)
    if not match:
        return [part]
    head, ranges, tail = match.groups()
    return [head + number + rest for number in _expand_ranges(ranges) for rest in _expand_host(tail)]


def _expand_ranges(ranges: str) -> list[str]:
    numbers: list[str] = []
    for item in ranges.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", item)
        if not match:
            raise UserError(f"{item!r} is no number or range in a Slurm host list.")
        first, last = match[1], match[2] or match[1]
        numbers += [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)]
    return numbers


def expand_tasks_per_node(text: str) -> list[int]:
    """Task counts of Slurm's short form: "2(x3),1" -> 2, 2, 2, 1.

    Raises:
        UserError: the text is no such list.
    """
    counts: list[int] = []
    for item in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", item)
        if not match:
            raise UserError(f"{text!r} is no Slurm list of task counts like '2(x3),1'.")
        counts += [int(match[1])] * int(match[2] or 1)
    return counts


def is_distributed(strategy: tf.distribute.Strategy | None) -> bool:
    """Whether steps must go through `strategy.run`."""
    return isinstance(strategy, (tf.distribute.MirroredStrategy, tf.distribute.MultiWorkerMirroredStrategy))


def is_chief(strategy: tf.distribute.Strategy | None = None) -> bool:
    """Whether this process writes files: always, except in workers 1, 2, ... of a cluster."""
    resolver = getattr(strategy, "cluster_resolver", None)
    return (
        resolver is None
        or not resolver.task_type
        or (resolver.task_type in ("chief", "worker") and resolver.task_id == 0)
    )


def place_model(model: keras.Model, strategy: tf.distribute.Strategy) -> keras.Model:
    """The same model with its variables under `strategy`; the model itself where they are there already."""
    owner = next((getattr(v, "distribute_strategy", None) for v in model.variables), None)
    if not is_distributed(strategy) or owner is strategy:
        return model
    weights = model.get_weights()
    with strategy.scope():
        placed = type(model).from_config(model.get_config())
    placed.set_weights(weights)
    return placed
