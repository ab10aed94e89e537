"""Small networks that tests can cut: a chain, and one with a connection around two of its layers."""

import tf_keras as keras

SHAPE = (8, 8, 1)


def small_net(seed, *, width=6, classes=10, shape=SHAPE):
    """conv-bn-relu twice, mean, dense; names as in Tiny-10."""
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input(shape, name="image")
    for number, (filters, strides) in enumerate(((width, 1), (8, 2)), start=1):
        x = keras.layers.Conv2D(filters, 3, strides, "same", name=f"conv{number}")(x)
        x = keras.layers.BatchNormalization(momentum=0.8, name=f"bn{number}")(x)
        x = keras.layers.ReLU(name=f"relu{number}")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, keras.layers.Dense(classes, name="fc")(x), name=f"small{seed}")


def skip_net(seed=0):
    """A network with one connection around two layers, and a layer that is applied twice."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input(SHAPE, name="image")
    stem = keras.layers.Conv2D(4, 3, padding="same", name="stem")(inputs)
    shared = keras.layers.ReLU(name="shared")
    x = keras.layers.Conv2D(4, 3, padding="same", name="branch1")(shared(stem))
    x = keras.layers.Conv2D(4, 3, padding="same", name="branch2")(shared(x))
    x = keras.layers.Add(name="add")([x, stem])
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, keras.layers.Dense(3, name="fc")(x), name="skip")
