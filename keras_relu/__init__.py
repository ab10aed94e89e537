"""keras_relu: which ReLUs a convolutional network needs, what each costs, what can replace them.

Modules are imported on first use, so that `import keras_relu` and the command's `--help` do not load TensorFlow:

>>> import keras_relu
>>> model = keras_relu.models.build("resnet20")
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from types import ModuleType

from keras_relu._version import __version__

__all__ = [
    "__version__",
    "activations",
    "counting",
    "data",
    "decomposition",
    "errors",
    "evaluate",
    "export",
    "files",
    "induction",
    "layers",
    "models",
    "replacement",
    "report",
    "runs",
    "surgery",
    "training",
]

_KERAS_3_FIRST = (
    "TensorFlow was imported before keras_relu and already uses Keras 3, while keras_relu (like "
    "tensorflow-model-optimization) works on Keras 2 (tf_keras). Import keras_relu first, or set the environment variable "
    "TF_USE_LEGACY_KERAS=1 before TensorFlow is imported, and build models with `import tf_keras as keras`."
)


def _use_legacy_keras() -> None:
    """The one place where the Keras generation is chosen; warns when another import has chosen Keras 3 before."""
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # `tf.keras` resolves on first use and says in its repr, without resolving, which generation that was.
    resolved = repr(getattr(sys.modules.get("tensorflow"), "__dict__", {}).get("keras"))
    if "keras_3" in resolved or "keras._tf_keras" in resolved:
        warnings.warn(_KERAS_3_FIRST, stacklevel=3)


_use_legacy_keras()


def __getattr__(name: str) -> ModuleType:
    if name.startswith("_") or name not in __all__:
        raise AttributeError(f"module 'keras_relu' has no attribute {name!r}; it has {', '.join(__all__)}")
    return importlib.import_module(f"keras_relu.{name}")


def __dir__() -> list[str]:
    return __all__
