"""What a network must be before anything trains it."""

from __future__ import annotations

from typing import Any

import tf_keras as keras

from keras_relu.errors import UserError

__all__ = ["require_logits"]


def require_logits(model: keras.Model, dataset: Any, *, role: str = "model") -> None:
    """Refuse a network that does not turn the images of `dataset` into one logit per class.

    Args:
        dataset: has `classes` and `image_shape`.
        role: what the message calls the network.

    Raises:
        UserError: the last layer is a softmax, the images have another shape, or the number of outputs is another.
    """
    if getattr(model.layers[-1], "activation", None) is keras.activations.softmax:
        raise UserError(
            f"The {role} {model.name!r} ends in a softmax; training needs logits, so leave the softmax out."
        )
    shape, images = model.input_shape, tuple(dataset.image_shape)
    if not isinstance(shape, tuple) or any(a not in (None, b) for a, b in zip(shape[1:], images, strict=False)):
        takes = list(shape[1:]) if isinstance(shape, tuple) else shape
        raise UserError(f"The {role} takes images of shape {takes}, the dataset has images of shape {list(images)}.")
    outputs = model.output_shape[-1] if isinstance(model.output_shape, tuple) else None
    if outputs != dataset.classes:
        raise UserError(f"The {role} has {outputs} outputs, the dataset has {dataset.classes} classes.")
