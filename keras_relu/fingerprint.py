"""Which trained network an artefact belongs to."""

from __future__ import annotations

import hashlib

import numpy as np
import tf_keras as keras

__all__ = ["model_hash"]


def model_hash(model: keras.Model) -> str:
    """SHA-256 in hexadecimal over the layers of `model` (names and classes) and all weights, their shapes and order."""
    digest = hashlib.sha256()
    for layer in model.layers:
        digest.update(f"{layer.name}:{type(layer).__name__};".encode())
    for weight in model.weights:
        digest.update(f"{weight.name}{weight.dtype}{tuple(weight.shape)}".encode())
        digest.update(np.ascontiguousarray(weight.numpy()).tobytes())
    return digest.hexdigest()
