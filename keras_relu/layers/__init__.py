"""Small serialisable layers shared by the model families; importing the package registers them with tf_keras."""

from keras_relu.layers import class_specific, padding, response_norm, shortcut, stitch

__all__ = ["class_specific", "padding", "response_norm", "shortcut", "stitch"]
