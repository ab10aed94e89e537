"""A network for digits with one of everything the compact networks are made of."""

import tf_keras as keras

from keras_relu.models.compact_blocks import CompactBlocks, Decay, Row


def small_blocks(seed=0, *, groups=2, name="fusionet_small"):
    """Stem, a bottleneck of two groups with squeeze-and-excite, a strided one, tail, dense; named as the real networks."""
    blocks = CompactBlocks(seed, Decay.uniform(1e-4))
    inputs = keras.Input((8, 8, 1), name="image")
    x = blocks.conv_bn(inputs, 8, 3, l2=1e-4, relu=True, prefix="stem")
    options = {"width": 1.0, "groups": groups, "shuffle": True}
    x = blocks.bottleneck(x, Row(8, 24, se=2), 1, se_after=True, **options)
    x = blocks.bottleneck(x, Row(12, 20, kernel=5, strides=2), 2, **options)
    x = blocks.conv_bn(x, 16, l2=1e-4, relu=True, prefix="tail")
    return keras.Model(inputs, blocks.head(x, 10), name=name)
