"""Fused blocks equal the masked, unfused ones, and multiply as often as counted."""

import itertools

import numpy as np
import pytest
import tf_keras as keras
from reference.compact import bottleneck, network, pair, randomise
from reference.fused import fused_bottleneck

from keras_relu import models
from keras_relu.compression.blocks import find_blocks
from keras_relu.compression.counts import block_counts, count_fusion
from keras_relu.compression.fusion import FusedBlock, Tally, fold_norm
from keras_relu.compression.fusion_check import check_fusion
from keras_relu.errors import KerasReLUError, UserError


def make(build, size, channels, *, dtype, zeros=0.3, **options):
    inputs = keras.Input((size, size + 1, channels), dtype=dtype)
    model = keras.Model(inputs, build(inputs, "block1", dtype=dtype, **options))
    return randomise(model, zeros=zeros)


def masked(model, block, x, masks):
    """The block of the network with the masks put where its ReLUs are."""
    layers = {layer.name: layer for layer in model.layers}
    value = x[None]
    for layer in model.layers[1:]:
        site = {block.first.name: 0, block.second.name: 1}.get(layer.name)
        value = layers[layer.name](value) if site is None else np.where(masks[site][None], value, 0)
    return np.asarray(value)[0]


CASES = [
    *(
        {"build": bottleneck, "kernel": kernel, "strides": strides, "groups": groups, "bias": groups == 1}
        for kernel, strides, groups in itertools.product((3, 5), (1, 2), (1, 4))
    ),
    {"build": bottleneck, "strides": 2, "padded": True},
    {"build": pair, "strides": 1},
    {"build": pair, "strides": 2},
]


@pytest.mark.parametrize(
    "case", CASES, ids=lambda case: "-".join(str(getattr(v, "__name__", v)) for v in case.values())
)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 1e-4)])
def test_the_fused_block_is_the_masked_unfused_one(case, dtype, tolerance):
    case = dict(case)
    channels = 6 if case["build"] is pair else 8
    model = make(case.pop("build"), 8, channels, dtype=dtype, hidden=24, outputs=12, **case)
    (block,) = find_blocks(model)
    random = np.random.default_rng(1)
    x = random.standard_normal(block.input_shape).astype(dtype)
    masks = [random.random(site.output.shape[1:]) < 0.5 for site in block.sites]
    fused = FusedBlock(block, dtype)
    y, tally = fused(x, *masks)
    expected = masked(model, block, x, masks)
    assert y.dtype == dtype
    np.testing.assert_allclose(y, expected, atol=tolerance * np.abs(expected).max())
    counts = block_counts(block)
    assert tally.multiplications == counts.fused - counts.border
    assert fused.stored == counts.composites
    assert 0 < tally.additions < counts.additions


@pytest.mark.parametrize(("kernel", "strides"), [(3, 2), (5, 1)])
def test_against_loops_and_their_count(kernel, strides):
    model = make(bottleneck, 6, 3, dtype="float64", hidden=5, outputs=4, kernel=kernel, strides=strides)
    (block,) = find_blocks(model)
    random = np.random.default_rng(2)
    x = random.standard_normal(block.input_shape)
    masks = [random.random(site.output.shape[1:]) < 0.5 for site in block.sites]
    (a1, b1), (a2, b2), (a3, b3) = (fold_norm(n) for n in (block.first.norm, block.second.norm, block.last_norm))
    first, second, last = (layer.get_weights()[0] for layer in (block.first.conv, block.second.conv, block.last))
    folded = first[0, 0] * a1, second[..., 0] * a2, last[0, 0] * a3
    place = {"stride": strides, "before": block.padding()[0][0], "out_shape": block.output_shape[:2]}
    # The loops take one padding for both sides, so only images whose sides are padded alike.
    assert block.padding()[0][0] == block.padding()[1][0] or strides == 2
    if block.padding()[0][0] == block.padding()[1][0]:
        expected = fused_bottleneck(x, *folded, (b1, b2, b3), masks, **place)
        np.testing.assert_allclose(FusedBlock(block)(x, *masks)[0], expected, atol=1e-10)
    live, pairs = 0, 0
    (top, _), (left, _) = block.padding()
    for p in np.ndindex(*block.output_shape[:2]):
        for r in np.ndindex(kernel, kernel):
            q = p[0] * strides + r[0] - top, p[1] * strides + r[1] - left
            if 0 <= q[0] < 6 and 0 <= q[1] < 7:
                pairs += 5
                live += int(np.sum(masks[0][q] & masks[1][p]))
    tally = FusedBlock(block)(x, *masks)[1]
    assert (tally.live_pairs, tally.pairs) == (live, pairs)
    counts = block_counts(block)
    assert counts.border == counts.fused - pairs // 5 * 3 * 4


def test_all_live_and_none_live():
    model = make(bottleneck, 6, 3, dtype="float64", hidden=5, outputs=4, zeros=0.0)
    (block,) = find_blocks(model)
    x = np.ones(block.input_shape)
    none = [np.zeros(site.output.shape[1:], bool) for site in block.sites]
    y, tally = FusedBlock(block)(x, *none)
    np.testing.assert_allclose(y, np.broadcast_to(fold_norm(block.last_norm)[1], y.shape))
    assert tally.additions == 0
    _, tally = FusedBlock(block)(x, *(~mask for mask in none))
    counts = block_counts(block)
    assert counts.composites == counts.composites_dense
    # The table charges every position with all composite weights; the border has fewer.
    assert tally.additions == counts.additions * (tally.pairs // 5) // (9 * 6 * 7)


def test_check_of_a_network_and_what_it_refuses():
    model = randomise(network(), zeros=0.5)
    images = np.random.default_rng(3).standard_normal((3, 8, 8, 1)).astype("float32")
    checked = check_fusion(model, images)
    counts = count_fusion(model)
    assert [entry["name"] for entry in checked["blocks"]] == ["block1", "block2"]
    assert checked["max_error"] < 1e-5
    assert checked["multiplications"] == counts.total("fused") - counts.total("border")
    for entry in checked["blocks"]:
        assert 0 < entry["live_pair_fraction"] < min(entry["first_live_fraction"], entry["second_live_fraction"])
    with pytest.raises(KerasReLUError, match="differs from the network"):
        check_fusion(model, images, tolerance=1e-12)
    with pytest.raises(UserError, match="at least one image"):
        check_fusion(model, images[:0])
    narrow = randomise(network(hidden=8))
    with pytest.raises(UserError, match="no block to fuse"):
        check_fusion(narrow, images)
    assert len(check_fusion(narrow, images, every_block=True)["blocks"]) == 2
    (block, _) = find_blocks(model)
    with pytest.raises(UserError, match="first mask of block 'block1' has shape"):
        FusedBlock(block)(np.zeros(block.input_shape), np.zeros((8, 8, 3), bool), np.zeros((8, 8, 24), bool))


def test_blocks_of_foreign_networks():
    # keras.applications caps its ReLUs at 6, which no mask can express.
    assert find_blocks(keras.applications.MobileNetV2((32, 32, 3), 0.35, weights=None)) == []
    inputs = keras.Input((None, None, 8))
    (block,) = find_blocks(keras.Model(inputs, bottleneck(inputs, "a", 16, 8)))
    with pytest.raises(UserError, match="only known at run time"):
        block_counts(block)
    # Squeeze-and-excite between depthwise and projection, as in half of MnasNet's blocks.
    names = [block.name for block in find_blocks(models.build("mnasnet_baseline_cifar10", seed=None))]
    assert names == [f"block{n}" for n in (1, 2, 6, 7, 8, 9, 15)]


def test_tallies_add_up():
    total = Tally(1, 2, 3, 4, 5)
    total.add(Tally(1, 1, 1, 1, 1))
    assert total == Tally(2, 3, 4, 5, 6)
