"""A quantized network on disk: the plain network with the weights it learned, and the ranges of its rounding beside it.

`model.keras` alone is an ordinary network that every command takes; with `quantization.npz` it becomes the quantized one
again. The file format of Keras loses variables of quantized layers, and wrapped layers keep the masks of their zeros in no
variable; so neither is relied on (spec fusion, section 9.3).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_relu.errors import UserError

if TYPE_CHECKING:
    import tf_keras as keras

__all__ = ["STATE_FILE", "is_quantized", "load_quantized", "save_quantized"]

STATE_FILE = "quantization.npz"


def is_quantized(path: str | os.PathLike) -> bool:
    """Whether a run directory holds a quantized network."""
    return (Path(path) / STATE_FILE).is_file()


def save_quantized(run: Any, model: keras.Model, quantized: keras.Model, *, exclude: list[str]) -> None:
    """Write a quantized network into a run.

    Args:
        run: the `Run`; every worker must call it.
        model: the plain network that `quantized` was made of; its weights do not count.
        exclude: what `compression.quantization.quantize` was told to leave out.
    """
    from keras_relu.compression import quantization
    from keras_relu.training import checkpoint

    plain = quantization.plain_model(model, quantized)
    state = quantization.collect_state(plain, quantized)
    run.save_model(plain)
    if run.chief:
        checkpoint.write(run.path / STATE_FILE, state, {"exclude": exclude})


def load_quantized(path: str | os.PathLike, plain: keras.Model) -> keras.Model:
    """The quantized network of a run whose plain network is `plain`.

    Raises:
        UserError: the ranges are missing, corrupt, or of another network.
    """
    from keras_relu.compression import quantization
    from keras_relu.training import checkpoint

    state, meta = checkpoint.read(Path(path) / STATE_FILE)
    exclude = meta.get("exclude") if isinstance(meta, dict) else None
    if not isinstance(exclude, list) or not all(isinstance(pattern, str) for pattern in exclude):
        raise UserError(f"{str(Path(path) / STATE_FILE)!r} is no record of a quantized network.")
    quantized = quantization.quantize(plain, exclude=exclude)
    quantization.assign_state(plain, quantized, state)
    return quantized
