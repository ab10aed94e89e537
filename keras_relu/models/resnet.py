"""ResNets of four stages (He et al. 2015, arXiv 1512.03385) with the stems in use on small and on large images.

Three networks are called "ResNet-18 on CIFAR" in the literature and differ in their ReLUs; the name says which:

* `resnetN`: 3x3 stem, ReLU, no pooling. ResNet-18 has 557,056 ReLUs at 32x32.
* `resnetN_small`: the same with a 3x3 max-pool of stride 2 behind the stem. ResNet-18 has 188,416.
* `resnetN_snl`: no pooling and no ReLU behind the stem (Cho et al., SNL, ICML 2022). ResNet-18 has 491,520.
  Their 50-layer network has basic blocks [3, 4, 14, 3], and so has `resnet50_snl`.
* `resnetN_imagenet`: 7x7 stem of stride 2, ReLU, max-pool, for 224x224 images; strides sit in the 3x3 convolution.

Depth 9 is one basic block per stage; 18 and 34 have basic blocks, 50, 101 and 152 bottlenecks.
"""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras

from keras_relu.models.blocks import Blocks
from keras_relu.models.registry import register

__all__ = ["build_resnet"]


def build_resnet(
    name: str,
    input_shape: tuple[int, int, int],
    classes: int,
    seed: int | None,
    *,
    repeats: tuple[int, int, int, int],
    stem: str,
    bottleneck: bool,
) -> keras.Model:
    """A four-stage ResNet.

    Args:
        repeats: blocks per stage.
        stem: "plain", "small", "snl" or "imagenet", see the module.
        bottleneck: 1x1, 3x3, 1x1 blocks of fourfold width instead of two 3x3.
    """
    blocks = Blocks(seed)
    inputs = keras.Input(input_shape, name="image")
    x = _stem(blocks, inputs, stem)
    make = _bottleneck if bottleneck else _basic_block
    for stage, count in enumerate(repeats, start=1):
        for block in range(1, count + 1):
            strides = 2 if stage > 1 and block == 1 else 1
            x = make(blocks, x, 32 * 2**stage, strides=strides, prefix=f"stage{stage}_block{block}")
    return keras.Model(inputs, blocks.head(x, classes), name=name)


def _stem(blocks: Blocks, x: tf.Tensor, stem: str) -> tf.Tensor:
    kernel, strides = (7, 2) if stem == "imagenet" else (3, 1)
    x = blocks.bn(blocks.conv(x, 64, kernel, strides=strides, name="stem_conv"), name="stem_bn")
    if stem != "snl":
        x = blocks.relu(x, name="stem_relu")
    if stem in ("small", "imagenet"):
        x = blocks.max_pool(x, name="stem_pool")
    return x


def _basic_block(blocks: Blocks, x: tf.Tensor, filters: int, *, strides: int, prefix: str) -> tf.Tensor:
    y = blocks.conv(x, filters, 3, strides=strides, name=f"{prefix}_conv1")
    y = blocks.relu(blocks.bn(y, name=f"{prefix}_bn1"), name=f"{prefix}_relu1")
    y = blocks.conv(y, filters, 3, name=f"{prefix}_conv2")
    y = blocks.bn(y, name=f"{prefix}_bn2")
    x = _shortcut(blocks, x, filters, strides=strides, prefix=prefix)
    return blocks.relu(keras.layers.Add(name=f"{prefix}_add")([y, x]), name=f"{prefix}_relu2")


def _bottleneck(blocks: Blocks, x: tf.Tensor, filters: int, *, strides: int, prefix: str) -> tf.Tensor:
    y = blocks.conv(x, filters, 1, name=f"{prefix}_conv1")
    y = blocks.relu(blocks.bn(y, name=f"{prefix}_bn1"), name=f"{prefix}_relu1")
    y = blocks.conv(y, filters, 3, strides=strides, name=f"{prefix}_conv2")
    y = blocks.relu(blocks.bn(y, name=f"{prefix}_bn2"), name=f"{prefix}_relu2")
    y = blocks.bn(blocks.conv(y, 4 * filters, 1, name=f"{prefix}_conv3"), name=f"{prefix}_bn3")
    x = _shortcut(blocks, x, 4 * filters, strides=strides, prefix=prefix)
    return blocks.relu(keras.layers.Add(name=f"{prefix}_add")([y, x]), name=f"{prefix}_relu3")


def _shortcut(blocks: Blocks, x: tf.Tensor, filters: int, *, strides: int, prefix: str) -> tf.Tensor:
    if strides == 1 and x.shape[-1] == filters:
        return x
    x = blocks.conv(x, filters, 1, strides=strides, name=f"{prefix}_shortcut_conv")
    return blocks.bn(x, name=f"{prefix}_shortcut_bn")


_BASIC = {9: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
_BOTTLENECK = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def _register(name: str, repeats: tuple, *, stem: str, bottleneck: bool, **defaults) -> None:
    fixed = {"repeats": repeats, "stem": stem, "bottleneck": bottleneck}
    register(name, family="resnet", fixed=fixed, **defaults)(build_resnet)


for _depth, _repeats in {**_BASIC, **_BOTTLENECK}.items():
    _deep = _depth in _BOTTLENECK
    _register(f"resnet{_depth}", _repeats, stem="plain", bottleneck=_deep)
    if _depth <= 50:
        _register(f"resnet{_depth}_small", _repeats, stem="small", bottleneck=_deep)
        _snl = (3, 4, 14, 3) if _deep else _repeats
        _register(f"resnet{_depth}_snl", _snl, stem="snl", bottleneck=False)
    if _depth in (18, 34, 50):
        _large = {"input_shape": (224, 224, 3), "classes": 1000}
        _register(f"resnet{_depth}_imagenet", _repeats, stem="imagenet", bottleneck=_deep, **_large)
