"""What a network must be before anything trains it."""

from __future__ import annotations

import tf_keras as keras

from keras_relu.errors import UserError

__all__ = ["require_logits"]


def require_logits(model: keras.Model, classes: int, *, role: str = "model") -> None:
    """Refuse a network whose outputs are not one logit per class.

    Args:
        classes: of the data set.
        role: what the message calls the network.

    Raises:
        UserError: the last layer is a softmax, or the number of outputs is another.
    """
    if getattr(model.layers[-1], "activation", None) is keras.activations.softmax:
        raise UserError(
            f"The {role} {model.name!r} ends in a softmax; training needs logits, so leave the softmax out."
        )
    outputs = model.output_shape[-1] if isinstance(model.output_shape, tuple) else None
    if outputs != classes:
        raise UserError(f"The {role} has {outputs} outputs, the dataset has {classes} classes.")
