"""What a user may name as a model, found and loaded, with one clear sentence for everything that is wrong with it."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import tf_keras as keras

from keras_relu.errors import UserError
from keras_relu.runs.quantized import is_quantized, load_quantized
from keras_relu.runs.safety import check_config

__all__ = ["find_model", "load_model"]

_ALLOWED = "a run directory, a .keras file, a SavedModel directory, or an .h5 or .tflite file"


def find_model(path: str | os.PathLike) -> Path:
    """The file or SavedModel directory behind a path that a user named as a model.

    Raises:
        UserError: nothing is there, the run has no model yet, or it is no kind of model.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"The model {str(path)!r} does not exist; expected {_ALLOWED}.")
    if path.is_file():
        if path.suffix not in (".keras", ".h5", ".hdf5", ".tflite"):
            raise UserError(f"{str(path)!r} is no model file; expected {_ALLOWED}.")
        return path
    if (path / "saved_model.pb").exists():
        return path
    if (path / "model.keras").exists():
        return path / "model.keras"
    if (path / "config.yaml").exists():
        raise UserError(f"The run {str(path)!r} has no model.keras yet; finish it first (--resume).")
    raise UserError(f"The directory {str(path)!r} is neither a run nor a SavedModel; expected {_ALLOWED}.")


def load_model(path: str | os.PathLike, *, trusted: bool = False, quantized: bool = False) -> keras.Model:
    """The Keras model behind `path` (anything `find_model` accepts that holds one), not compiled.

    Args:
        quantized: of a run whose network was quantized, that network; else its plain layers with the weights it learned.
        trusted: whether the file's author is trusted to run code here: .h5 files and Keras SavedModels can carry Python
            bytecode, and a .keras file can name modules to import.

    Raises:
        UserError: not found, corrupt, written by Keras 3, without a Keras model, or in need of trust.
    """
    file = find_model(path)
    if file.suffix == ".tflite":
        raise UserError(f"{str(file)!r} is a TFLite file: it can be evaluated, but it holds no Keras model.")
    if file.suffix == ".keras":
        _check_keras_file(file, trusted=trusted)
    elif not trusted:
        kind = "a SavedModel" if file.is_dir() else "an HDF5 file"
        raise UserError(
            f"{str(file)!r} is {kind}, which can run code of its author when it is loaded as a Keras model. "
            "Use a .keras file, or pass trusted=True (--trusted) if you trust where it comes from."
        )
    model = _load(file, trusted=trusted)
    return load_quantized(path, model) if quantized and is_quantized(path) else model


def _load(file: Path, *, trusted: bool) -> keras.Model:
    # Files name our layers by their registered names, so the classes must be known beforehand.
    import keras_relu.activations
    import keras_relu.layers  # noqa: F401

    try:
        model = keras.models.load_model(file, compile=False, safe_mode=not trusted)
    except Exception as error:  # a damaged file surfaces as almost any type, depending on the byte
        raise UserError(
            f"The model {str(file)!r} cannot be loaded; it is corrupt or of another version: {_short(error)}"
        ) from error
    if not isinstance(model, keras.Model):
        raise UserError(f"{str(file)!r} holds no Keras model; it can be evaluated, but not changed or trained.")
    return model


def _check_keras_file(file: Path, *, trusted: bool) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            metadata, config = (json.loads(archive.read(name)) for name in ("metadata.json", "config.json"))
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, EOFError, NotImplementedError) as error:
        raise UserError(
            f"The model {str(file)!r} is corrupt: it is no readable .keras archive ({_short(error)})."
        ) from error
    version = _version(metadata)
    if version.startswith("3."):
        raise UserError(
            f"{str(file)!r} was written by Keras {version}; keras_relu works with tf_keras (Keras 2). "
            "Build the model with tf_keras, copy its weights and save it again."
        )
    reason = None if trusted else check_config(config)
    if reason:
        raise UserError(
            f"The model {str(file)!r} is refused: {reason}. "
            "Pass trusted=True (--trusted) if you trust where it comes from."
        )


def _version(metadata: Any) -> str:
    return str(metadata.get("keras_version", "")) if isinstance(metadata, dict) else ""


def _short(error: Exception) -> str:
    """The first line of a message, cut to a readable length."""
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:300]
