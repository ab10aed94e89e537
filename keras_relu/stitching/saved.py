"""Stitched networks read back from their run directories."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import tf_keras as keras

from keras_relu.errors import unknown_key
from keras_relu.files import read_arrays
from keras_relu.runs import load_model

__all__ = ["load_matrices", "load_state"]


def load_matrices(run: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of a run's matrices.npz.

    Raises:
        UserError: the file is missing or damaged.
    """
    return read_arrays(Path(run) / "matrices.npz", "matrices of the stitching run")


def load_state(run: str | os.PathLike, state: str = "after") -> keras.Model:
    """The stitched network of a run with the map of another state: before, after, least_squares, direct.

    Raises:
        UserError: no finished stitching run, or a state that it does not have.
    """
    arrays = load_matrices(run)
    states = sorted(
        name.removesuffix("_b") for name in arrays if name.endswith("_b") and name not in ("diff_b", "gap_b")
    )
    if state not in states:
        raise unknown_key("state", state, states)
    model = load_model(run)
    layer = model.get_layer("stitch")
    kernel = arrays[f"{state}_w"].T.astype(np.float32)
    layer.set_weights([kernel.reshape(layer.kernel.shape), arrays[f"{state}_b"].astype(np.float32)])
    return model
