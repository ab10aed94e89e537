"""The counting tables of spec fusion, section 5.2 and 5.3, as exact integers."""

import pytest

from keras_relu import counting, models
from keras_relu.compression.counts import count_fusion
from keras_relu.errors import UserError

# Block -> (U, M), the per-block tables of section 5.2.
TABLES = {
    "mobilenet_v2_modified_cifar10": {
        (1,): (43_352_064, 3_538_944),
        (2, 3): (50_429_952, 5_308_416),
        (4,): (30_302_208, 1_769_472),
        (5, 6, 7): (16_146_432, 2_359_296),
        (8,): (9_787_392, 737_280),
        (9, 10, 11, 12, 13): (4_921_344, 921_600),
        (14,): (7_133_184, 1_843_200),
    },
    "mnasnet_modified_cifar10": {
        (1,): (48_168_960, 3_538_944),
        (2,): (56_033_280, 5_308_416),
        (3,): (35_635_200, 3_686_400),
        (4,): (19_906_560, 4_915_200),
        (5,): (21_872_640, 6_553_600),
        (6, 7): (17_940_480, 2_359_296),
        (8,): (19_906_560, 2_949_120),
        (9,): (12_840_960, 921_600),
        (10, 11): (5_468_160, 921_600),
        (12, 13, 14): (6_451_200, 2_560_000),
        (15,): (7_925_760, 1_843_200),
    },
    "fusionet_cifar10": {
        (1, 2, 3): (60_620_800, 2_359_296),
        (4,): (34_553_856, 1_179_648),
        (5, 6, 7): (24_854_528, 2_359_296),
        (8,): (14_700_544, 884_736),
        tuple(range(9, 16)): (12_607_488, 1_327_104),
        (16,): (16_146_432, 2_211_840),
    },
}
# Network -> U, M, rest, whole network fused, predicted ReLUs, composite weights and additions at density 0.012.
TOTALS = {
    "mobilenet_v2_modified_cifar10": (264_480_768, 30_191_616, 9_318_912, 39_510_528, 8_681_472),
    "mnasnet_modified_cifar10": (288_460_800, 43_958_272, 3_427_104, 47_385_376, 8_663_040),
    "fusionet_cifar10": (410_079_232, 27_721_728, 3_908_992, 31_630_720, 25_513_984),
    "fusionet_cifar100": (410_079_232, 27_721_728, 14_676_992, 42_398_720, 25_513_984),
}
# At density 0.012: stored composite weights and additions per image, millions, as the specification rounds them.
SPARSE = {
    "mobilenet_v2_modified_cifar10": (1.67, 313, 6.80),
    "mnasnet_modified_cifar10": (3.34, 506, 5.48),
    "fusionet_cifar10": (2.24, 234, 7.70),
}


@pytest.fixture(scope="module")
def counted(built):
    made = {}

    def count(name, density):
        if name not in made:
            made[name] = count_fusion(built(name), density=density)
        return made[name]

    return count


@pytest.mark.parametrize("name", TABLES)
def test_every_block(counted, name):
    counts = {int(block.name.removeprefix("block")): block for block in counted(name, density=0.012).blocks}
    expected = {number: pair for numbers, pair in TABLES[name].items() for number in numbers}
    assert {number: (block.unfused, block.fused) for number, block in counts.items()} == expected
    assert all(block.saves for block in counts.values())


@pytest.mark.parametrize("name", TOTALS)
def test_totals(counted, name):
    counts = counted(name, density=0.012)
    keys = ("unfused", "fused")
    got = (*map(counts.total, keys), counts.rest, counts.whole_fused, counts.total("predictor_multiplications"))
    assert got == TOTALS[name]


@pytest.mark.parametrize("name", SPARSE)
def test_composite_weights_and_additions_of_a_pruned_network(counted, name):
    counts = counted(name, density=0.012)
    stored, additions, charged = SPARSE[name]
    assert counts.total("composites") / 1e6 == pytest.approx(stored, abs=0.005)
    assert counts.total("additions") / 1e6 == pytest.approx(additions, abs=0.5)
    # U / M when the predictors' scales are charged too.
    multiplied = counts.total("fused") + counts.total("predictor_multiplications")
    assert counts.total("unfused") / multiplied == pytest.approx(charged, abs=0.005)


def test_shufflenet_and_its_caveat(counted):
    counts = counted("shufflenet_modified_cifar10", density=0.010)
    blocks = {int(block.name.removeprefix("block")): block for block in counts.blocks}
    expected = {1: (37_066_752, 1_327_104), 2: (31_795_200, 995_328)}
    expected |= dict.fromkeys((4, 5, 6), (10_598_400, 442_368)) | dict.fromkeys(range(8, 16), (4_690_560, 338_688))
    got = {number: (block.unfused, block.alternatives["simulator"]) for number, block in blocks.items()}
    assert {number: got[number] for number in expected} == expected
    assert counts.total("unfused") == 168_517_248
    assert counts.alternative("simulator") == 6_524_928
    assert counts.alternative("simulator_joined") == 7_223_040
    assert counts.alternative("three_layers") == 19_574_784
    assert counts.total("fused") == 3_056_256
    assert counts.rest == 2_811_264
    assert counts.rest + counts.alternative("simulator") == 9_336_192
    assert counts.total("predictor_multiplications") == 11_963_904
    assert "shuffle between" in counts.notes[0]
    assert counts.to_dict()["alternatives"]["three_layers"] == 19_574_784


def test_against_the_baselines(built):
    baseline = counting.count(built("mobilenet_v2_baseline_cifar10")).macs
    assert baseline / TOTALS["mobilenet_v2_modified_cifar10"][3] == pytest.approx(7.53, abs=0.005)
    assert baseline / TOTALS["fusionet_cifar10"][3] == pytest.approx(9.41, abs=0.005)


def test_a_network_without_such_blocks_and_a_density_out_of_range():
    model = models.build("resnet20", input_shape=(8, 8, 3), seed=None)
    with pytest.raises(UserError, match="no block to fuse"):
        count_fusion(model)
    with pytest.raises(UserError, match=r"density must be in \[0, 1\]"):
        count_fusion(model, density=1.5)
