"""What all tests share: a quiet TensorFlow, the oracles of `tests/reference`, and skips for what a machine lacks."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Time limits per example would fail on a busy machine only.
settings.register_profile("keras_relu", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("keras_relu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# At the end of the path, so that the folders of the tests never hide a package of the same name.
sys.path.append(str(Path(__file__).parent))

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


def folder(variable: str) -> Path | None:
    """The existing folder an environment variable names, or None."""
    path = Path(os.environ.get(variable, ""))
    return path if os.environ.get(variable) and path.is_dir() else None


def no_engine() -> str | None:
    """Why the secure engine cannot be used, or None when it can."""
    from keras_relu.cost.engine import find_engine
    from keras_relu.errors import UserError

    try:
        find_engine()
    except UserError as error:
        return str(error)
    return None


MISSING = {
    "cifar10": lambda: (
        not folder("KERAS_RELU_DATA_DIR") and "KERAS_RELU_DATA_DIR names no folder with the real CIFAR-10"
    ),
    "weights": lambda: not folder("KERAS_RELU_WEIGHTS_DIR") and "KERAS_RELU_WEIGHTS_DIR names no folder with weights",
    "torch": lambda: not importlib.util.find_spec("torch") and "PyTorch is not installed (extra: torch)",
    "mpc": no_engine,
    "chromium": lambda: not any(map(shutil.which, CHROMIUM)) and "no Chromium on this machine",
    "slurm": lambda: not shutil.which("sbatch") and "no Slurm on this machine",
}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a marked test where what it needs is missing, and say what that is."""
    for marker in item.iter_markers():
        reason = MISSING[marker.name]() if marker.name in MISSING else False
        if reason:
            pytest.skip(reason)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with the real data sets; for tests marked `cifar10`."""
    return folder("KERAS_RELU_DATA_DIR")


@pytest.fixture(scope="session")
def weights_dir() -> Path:
    """The folder with published PyTorch weights; for tests marked `weights`."""
    return folder("KERAS_RELU_WEIGHTS_DIR")
