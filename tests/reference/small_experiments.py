"""A tree of experiments on digits, vanilla -> pruned -> pqat and pred, of a network that trains in seconds.

`python small_experiments.py STEP ARGUMENTS...` is keras-relu with that network, killed before it starts update STEP.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import yaml

NETWORK = "fusionet_small"

EXPERIMENTS = {
    "vanilla": {"dataset": "digits", "network": NETWORK, "limit": 200, "learning_rate": 0.05, "seed": 3},
    "pruned": {"parent": "../vanilla", "ramp_epochs": 0.5, "frequency": 1, "published_accuracy": 0.5},
    "pqat": {"parent": "../pruned"},
    "pred": {"parent": "../pruned"},
}


def write_tree(root: Path) -> Path:
    """The four directories in `root`."""
    for stage, values in EXPERIMENTS.items():
        (root / stage).mkdir(parents=True)
        settings = {"stage": stage, "epochs": 1, "batch_size": 30, "augment": False, **values}
        (root / stage / "experiment.yaml").write_text(yaml.safe_dump(settings))
    return root


def register_network() -> None:
    """Make the network known to this process."""
    from reference.compression_nets import small_blocks

    from keras_relu.models.registry import register

    @register(NETWORK, family="small", input_shape=(8, 8, 1))
    def build(name, input_shape, classes, seed):
        return small_blocks(seed, name=name)


def main() -> int:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    register_network()
    from keras_relu.cli import main as command
    from keras_relu.training.progress import Progress

    last, step = int(sys.argv[1]), Progress.step

    def dying(self, done):
        if done == last:
            os.kill(os.getpid(), signal.SIGKILL)
        step(self, done)

    Progress.step = dying
    return command(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
