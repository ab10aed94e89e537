"""Small networks with the blocks that predictors and fusion know."""

import numpy as np
import tf_keras as keras

from keras_relu.layers.channel_shuffle import ChannelShuffle


def randomise(model, seed=0, zeros=0.0):
    """Give every weight a random value (variances positive, biases and means too), a part of the kernel values zero."""
    random = np.random.default_rng(seed)
    for layer in model.layers:
        weights = []
        for variable in layer.weights:
            value = random.standard_normal(variable.shape) * (0.5 if "kernel" in variable.name else 0.3)
            if "variance" in variable.name or "gamma" in variable.name:
                value = np.abs(value) + 0.5
            if "kernel" in variable.name and variable.shape.rank == 4:
                value = value * (random.random(variable.shape) >= zeros)
            weights.append(value)
        layer.set_weights(weights)
    return model


def _norm(x, name, dtype):
    return keras.layers.BatchNormalization(name=name, dtype=dtype)(x)


def _relu(x, name, dtype):
    return keras.layers.ReLU(name=name, dtype=dtype)(x)


def bottleneck(x, name, hidden, outputs, *, kernel=3, strides=1, groups=1, bias=False, padded=False, dtype="float32"):
    """Expand, depthwise, project; with `padded` the depthwise convolution is padded as PyTorch does."""
    common = {"use_bias": bias, "dtype": dtype}
    y = keras.layers.Conv2D(hidden, 1, groups=groups, name=f"{name}_expand_conv", **common)(x)
    y = _relu(_norm(y, f"{name}_expand_bn", dtype), f"{name}_expand_relu", dtype)
    if padded:
        y = keras.layers.ZeroPadding2D(kernel // 2, name=f"{name}_pad", dtype=dtype)(y)
    padding = "valid" if padded else "same"
    y = keras.layers.DepthwiseConv2D(kernel, strides, padding, name=f"{name}_depthwise_conv", **common)(y)
    y = _relu(_norm(y, f"{name}_depthwise_bn", dtype), f"{name}_depthwise_relu", dtype)
    y = keras.layers.Conv2D(outputs, 1, groups=groups, name=f"{name}_project_conv", **common)(y)
    return _norm(y, f"{name}_project_bn", dtype)


def pair(x, name, hidden, outputs, *, strides=1, groups=3, dtype="float32"):
    """The inverted unit of ShuffleNet."""
    common = {"use_bias": False, "dtype": dtype}
    y = keras.layers.Conv2D(hidden, 1, groups=groups, name=f"{name}_expand_conv", **common)(x)
    y = _relu(_norm(y, f"{name}_expand_bn", dtype), f"{name}_expand_relu", dtype)
    y = ChannelShuffle(groups, name=f"{name}_shuffle", dtype=dtype)(y)
    y = keras.layers.Conv2D(outputs, 1, groups=groups, name=f"{name}_project_conv", **common)(y)
    y = _relu(_norm(y, f"{name}_project_bn", dtype), f"{name}_project_relu", dtype)
    y = keras.layers.DepthwiseConv2D(3, strides, "same", name=f"{name}_depthwise_conv", **common)(y)
    return _norm(y, f"{name}_depthwise_bn", dtype)


def network(size=8, channels=1, classes=10, hidden=24, seed=0):
    """Stem, two bottlenecks (the second strided and grouped), classifier; small enough to train in a test."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((size, size, channels), name="image")
    x = keras.layers.Conv2D(8, 3, padding="same", use_bias=False, name="stem_conv")(inputs)
    x = _relu(_norm(x, "stem_bn", "float32"), "stem_relu", "float32")
    y = bottleneck(x, "block1", hidden, 8)
    x = keras.layers.Add(name="block1_add")([x, y])
    x = bottleneck(x, "block2", hidden, 12, strides=2, groups=2)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, keras.layers.Dense(classes, name="classifier")(x), name="small")
