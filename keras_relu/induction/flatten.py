"""The original's names for the parts of a ResNet: a flattened network whose every ReLU has one, and the aliases of ours.

The original rewrites a structured ResNet-18 into one class with a straight forward pass, so that each ReLU can be named
(`relu0`, `ResLayer0_BasicBlockV20_relu_1`, ...). A functional graph is flat already; what is left of the step is the
names, with which mappings written for the original can be read, and the conversion of its checkpoints' keys.

Source: specification `induction` of the design, sections 1.6 and 2.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import tf_keras as keras

from keras_relu import surgery
from keras_relu.errors import UserError

__all__ = ["aliases", "flatten", "flattened_key", "flattened_name", "resolve"]

_STEM = {"stem_conv": "conv0", "stem_bn": "bn0", "stem_relu": "relu0"}
_PARTS = {
    **{f"conv{i}": f"conv{i}" for i in (1, 2, 3)},
    **{f"bn{i}": f"norm{i}" for i in (1, 2, 3)},
    **{f"relu{i}": f"relu_{i}" for i in (1, 2, 3)},
    "shortcut_conv": "downsample_0",
    "shortcut_bn": "downsample_1",
}
_OURS = re.compile(r"stage(\d+)_block(\d+)_(.+)")
_OLD = re.compile(r"layer(\d+)\[(\d+)\]\.relu_(\d)")
_KEY = re.compile(r"layer(\d+)\.(\d+)\.(conv\d|bn\d|downsample\.[01])")
_TENSORS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def flattened_name(name: str, blocks: Mapping[int, int], *, bottleneck: bool = False) -> str | None:
    """The original's flattened name of one of our ResNet layers, or None where it has none.

    Args:
        blocks: {stage: its number of blocks}; the original counts blocks through all stages.
        bottleneck: whether the blocks are bottlenecks, which are called so.
    """
    match = _OURS.fullmatch(name)
    if not match or match[3] not in _PARTS:
        return _STEM.get(name)
    stage, block = int(match[1]), int(match[2])
    return f"{_prefix(stage, block - 1, blocks, bottleneck)}_{_PARTS[match[3]]}"


def _prefix(stage: int, block: int, blocks: Mapping[int, int], bottleneck: bool) -> str:
    number = sum(count for other, count in blocks.items() if other < stage) + block
    return f"ResLayer{stage - 1}_{'BottleneckV2' if bottleneck else 'BasicBlockV2'}{number}"


def _shape_of(names: Iterable[str]) -> tuple[dict[int, int], bool]:
    """({stage: blocks}, whether the blocks are bottlenecks) of a network, from its layer or site names."""
    found = [match for name in names if (match := _OURS.fullmatch(name))]
    blocks: dict[int, int] = {}
    for match in found:
        blocks[int(match[1])] = max(blocks.get(int(match[1]), 0), int(match[2]))
    return blocks, any(match[3] == "relu3" for match in found)


def aliases(sites: Iterable[str]) -> dict[str, str]:
    """{the original's name: ours} for the ReLU sites of a ResNet, in the flattened and in the older bracket notation.

    Empty for networks whose sites are not named like those of our ResNets.
    """
    names = list(sites)
    blocks, bottleneck = _shape_of(names)
    table: dict[str, str] = {}
    for name in names:
        flattened = flattened_name(name, blocks, bottleneck=bottleneck)
        if flattened is None:
            continue
        table[flattened] = name
        match = _OURS.fullmatch(name)
        older = f"layer{match[1]}[{int(match[2]) - 1}].relu_{match[3][-1]}" if match else "act1"
        table[older] = name
    return table


def resolve(name: str, sites: Iterable[str]) -> str:
    """Our name of a site that a mapping calls `name`; a name that is no alias comes back as it is."""
    known = list(sites)
    return name if name in known else aliases(known).get(name, name)


def flatten(model: keras.Model) -> keras.Model:
    """A copy of one of our ResNets whose convolutions, normalisations and ReLUs have the original's flattened names.

    The graph is the same, so the logits are.

    Raises:
        UserError: a network that is not named like our ResNets.
    """
    blocks, bottleneck = _shape_of(layer.name for layer in surgery.iter_layers(model))
    if not blocks or not any(layer.name == "stem_relu" for layer in surgery.iter_layers(model)):
        raise UserError(
            f"Model {model.name!r} has no layers named stem_relu and stage1_block1_...; the original's flattened names exist "
            "for ResNets only. Mappings for other networks use the network's own names."
        )

    def renamed(layer: keras.layers.Layer) -> keras.layers.Layer | None:
        name = flattened_name(layer.name, blocks, bottleneck=bottleneck)
        return None if name is None else type(layer).from_config({**layer.get_config(), "name": name})

    flat = surgery.replace_layers(model, renamed)
    for layer in model.layers:
        name = flattened_name(layer.name, blocks, bottleneck=bottleneck)
        if name is not None and layer.weights:
            flat.get_layer(name).set_weights(layer.get_weights())
    return flat


def flattened_key(key: str, blocks: Mapping[int, int]) -> str:
    """The key in a flattened checkpoint of a tensor of the structured one (specification, section 2.2).

    `backbone.layer2.0.downsample.0.weight` becomes `backbone.ResLayer1_BasicBlockV22_downsample.0.weight`; keys outside
    the backbone are kept.

    Raises:
        UserError: a backbone key that the rule does not know.
    """
    if not key.startswith("backbone."):
        return key
    middle, _, last = key.removeprefix("backbone.").rpartition(".")
    match = _KEY.fullmatch(middle)
    if last in _TENSORS and middle in ("conv1", "bn1"):
        return f"backbone.{middle[:-1]}0.{last}"
    if last not in _TENSORS or not match:
        raise UserError(f"The checkpoint key {key!r} has no place in the flattened network.")
    part = match[3] if match[3].startswith(("conv", "downsample")) else f"norm{match[3][-1]}"
    return f"backbone.{_prefix(int(match[1]), int(match[2]), blocks, False)}_{part}.{last}"
