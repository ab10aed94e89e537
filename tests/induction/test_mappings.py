"""Mapping files and their rules, the table of comparisons, the original's names."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from keras_relu import counting, models, surgery
from keras_relu.errors import UserError
from keras_relu.induction import Assignment, GroupAssignment, flatten, induce, make_plan, read_mapping
from keras_relu.induction.flatten import aliases, flattened_key, resolve

CONFIGS = Path(__file__).parents[2] / "submission" / "induced"
BLOCKS = {1: 2, 2: 2, 3: 2, 4: 2}

# Specification `induction`, section 6: (file, K, comparisons left of 557,056).
TABLE = [
    ("json_configs/flattened_resnet18_one_induced_layer.json", 10, 425_994),
    ("json_configs/flattened_resnet18_one_layer_induces_ten_layers.json", 1000, 99_304),
    ("json_configs/flattened_resnet18_half.json", [1000, 1000], 2_000),
    ("json_configs/flattened_resnet18_pairwise_induced_layer.json", [10] * 9, 90),
    ("json_configs/flattened_resnet18_default.json", 1000, 81_920),
    ("yaml_configs/induce_first_layer.yaml", None, 81_920),
    ("yaml_configs/split_resnet_to_two.yaml", None, 2_000),
    ("yaml_configs/experiment4.yaml", None, 15_000),
]


@pytest.fixture(scope="module")
def resnet18():
    return models.build("resnet18", classes=100, seed=None)


@pytest.fixture(scope="module")
def sites(resnet18):
    return surgery.find_sites(resnet18)


def all_used(plan):
    """An assignment with random prototypes that are all borrowed from."""
    generator = np.random.default_rng(0)
    groups = []
    for group in plan.groups:
        size = np.prod(plan.site(group.inducer).shape)
        places = generator.choice(size, group.prototypes, replace=False)
        shapes = {name: plan.site(name).shape for name in group.induced}
        codes = {name: np.resize(np.arange(group.prototypes), np.prod(shape)) for name, shape in shapes.items()}
        groups.append(GroupAssignment(group.inducer, plan.site(group.inducer).shape, places, codes, shapes))
    return Assignment(tuple(groups), plan.identity)


class TestTable:
    @pytest.mark.parametrize(("file", "prototypes", "left"), TABLE, ids=[row[0] for row in TABLE])
    def test_predicted(self, sites, file, prototypes, left):
        plan = make_plan(sites, CONFIGS / file, prototypes)
        facts = plan.describe()
        assert (facts["comparisons_before"], facts["comparisons"], plan.comparison_count()) == (557_056, left, left)

    @pytest.mark.parametrize(
        ("file", "prototypes", "left"), [TABLE[1], TABLE[4], TABLE[7]], ids=lambda value: str(value)
    )
    def test_counted_in_the_graph(self, resnet18, sites, file, prototypes, left):
        plan = make_plan(sites, CONFIGS / file, prototypes)
        counts = counting.count(induce(resnet18, all_used(plan)))
        assert counts.comparison_count == left
        induced = {name for group in plan.groups for name in group.induced}
        kept = sum(np.prod(site.shape) for site in sites if site.name not in induced and site.name not in plan.identity)
        assert counts.relu_count == kept


MAPPING = {"relu0": ["relu0", "ResLayer0_BasicBlockV20_relu_1"]}


@pytest.mark.parametrize(
    ("mapping", "prototypes", "message"),
    [
        ({"relu1": ["relu0"]}, 10, "Unknown ReLU site in the mapping 'relu1'"),
        ({"relu0": ["ResLayer0_BasicBlockV20_relu_9"]}, 10, "Unknown ReLU site"),
        ({"ResLayer0_BasicBlockV20_relu_1": ["relu0"]}, 10, "comes before its inducer"),
        (
            {"relu0": ["ResLayer0_BasicBlockV20_relu_1"], "stage1_block1_relu1": ["stage1_block1_relu1"]},
            10,
            "induced twice",
        ),
        ({"relu0": ["relu0", "act1"]}, 10, "induced twice"),
        ({"relu0": ["layer1[0].relu_1"], "layer1[0].relu_1": ["layer1[0].relu_2"]}, 10, "is an inducer and induced"),
        ({"relu0": ["relu0"], "act1": ["layer1[0].relu_1"]}, 10, "under two names"),
        ({"relu0": []}, 10, "at least one site"),
        ({"relu0": "relu0"}, 10, "at least one site"),
        ({}, 10, "must be an object"),
        ([1], 10, "must be an object"),
        (MAPPING, None, "number of prototypes is missing"),
        (MAPPING, [10, 10], "1 inducers, but 2 numbers"),
        (MAPPING, 0, "1 to 65536 prototypes, received 0"),
        (MAPPING, 65_537, "1 to 65536"),
        (MAPPING, 1.5, "received 1.5"),
        (MAPPING, True, "received True"),
        ({"inducer_to_induced": MAPPING, "prototypes": 3}, 10, "Unknown key in the mapping"),
        ({"inducer_to_induced": MAPPING, "set_as_identity": ["relu0"]}, 10, "both the identity and part"),
        ({"inducer_to_induced": MAPPING, "set_as_relu": ["relu0"]}, 10, "both a plain ReLU and part"),
        (
            {
                "inducer_to_induced": MAPPING,
                "set_as_relu": ["layer2[0].relu_1"],
                "set_as_identity": ["layer2[0].relu_1"],
            },
            10,
            "both the identity and a plain",
        ),
        ({"inducer_to_induced": MAPPING, "set_as_identity": "relu0"}, 10, "must be a list of sites"),
        ({"inducer_to_induced": MAPPING, "order": ["layer1[0].relu_1"]}, 10, "order must name every inducer once"),
        ({"inducer_to_induced": MAPPING, "epochs": [1, 2]}, 10, "epochs must be 1 whole numbers"),
    ],
)
def test_broken_rules(sites, mapping, prototypes, message):
    with pytest.raises(UserError, match=message.replace("[", r"\[")):
        make_plan(sites, mapping, prototypes)


def test_numbers_follow_the_order(sites):
    mapping = {
        "inducer_to_induced": {"relu0": ["relu0"], "layer2[0].relu_1": ["layer2[0].relu_1", "layer2[0].relu_2"]},
        "order": ["layer2[0].relu_1", "relu0"],
        "num_prototypes": [7, 3],
        "epochs": [1, 2],
    }
    plan = make_plan(sites, mapping)
    assert [(g.inducer, g.prototypes) for g in plan.groups] == [("stage2_block1_relu1", 7), ("stem_relu", 3)]
    assert plan.epochs == (1, 2)


class TestFiles:
    def write(self, path, text):
        path.write_text(text)
        return path

    def test_json_and_yaml_say_the_same(self, tmp_path):
        one = read_mapping(self.write(tmp_path / "a.json", json.dumps(MAPPING)))
        assert (
            one
            == read_mapping(self.write(tmp_path / "a.yaml", yaml.safe_dump(MAPPING)))
            == {"inducer_to_induced": MAPPING}
        )

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            ("a.json", '{"relu0": ["a"], "relu0": ["b"]}', "the key 'relu0' 2 times"),
            ("a.yaml", "relu0: [a]\nrelu0: [b]\n", "the key 'relu0' 2 times"),
            ("a.json", '{"relu0": ', "cannot be read"),
            ("a.yaml", "relu0: [", "cannot be read"),
            ("a.yaml", "!!python/object/apply:os.system ['true']", "cannot be read"),
            ("a.json", "[]", "must be an object"),
            ("a.yaml", "", "must be an object"),
        ],
    )
    def test_refused(self, tmp_path, name, text, message):
        with pytest.raises(UserError, match=message):
            read_mapping(self.write(tmp_path / name, text))

    def test_missing(self, tmp_path):
        with pytest.raises(UserError, match="does not exist"):
            read_mapping(tmp_path / "absent.json")


class TestFlattening:
    """Specification `induction`, sections 1.6 and 2.2."""

    def test_seventeen_names_and_shapes(self, resnet18, sites):
        flat = flatten(resnet18)
        found = [(site.name, site.shape) for site in surgery.find_sites(flat)]
        names = ["relu0"] + [f"ResLayer{n // 2}_BasicBlockV2{n}_relu_{i}" for n in range(8) for i in (1, 2)]
        shapes = [(32, 32, 64)] * 5 + [(16, 16, 128)] * 4 + [(8, 8, 256)] * 4 + [(4, 4, 512)] * 4
        assert found == list(zip(names, shapes, strict=True))
        assert flat.count_params() == resnet18.count_params()
        assert counting.count(flat).parameters == 11_220_132
        table = aliases(site.name for site in sites)
        assert [table[name] for name in names] == [site.name for site in sites]
        assert table["layer4[1].relu_2"] == "stage4_block2_relu2"
        assert resolve("act1", [site.name for site in sites]) == "stem_relu"

    def test_logits_are_equal(self, network, logits):
        flat = flatten(network)
        np.testing.assert_array_equal(logits(flat), logits(network))
        assert flat.get_layer("ResLayer1_BasicBlockV21_downsample_0")
        assert len(flat.weights) == len(network.weights)

    def test_other_networks_have_no_such_names(self):
        with pytest.raises(UserError, match="exist for ResNets only"):
            flatten(models.build("lenet5") if "lenet5" in models.list_models() else models.build("tiny10"))

    def test_checkpoint_keys(self):
        kinds = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        norms = [f"bn{i}" for i in (1, 2)]
        keys = ["backbone.conv1.weight", *(f"backbone.bn1.{kind}" for kind in kinds)]
        for stage, block in [(s, b) for s in (1, 2, 3, 4) for b in (0, 1)]:
            prefix = f"backbone.layer{stage}.{block}"
            keys += [f"{prefix}.conv{i}.weight" for i in (1, 2)]
            keys += [f"{prefix}.{norm}.{kind}" for norm in norms for kind in kinds]
            if stage > 1 and block == 0:
                keys += [f"{prefix}.downsample.0.weight", *(f"{prefix}.downsample.1.{kind}" for kind in kinds)]
        keys += ["head.fc.weight", "head.fc.bias"]
        found = [flattened_key(key, BLOCKS) for key in keys]
        assert len(keys) == len(set(found)) == 122
        assert flattened_key("backbone.layer2.0.downsample.1.weight", BLOCKS) == (
            "backbone.ResLayer1_BasicBlockV22_downsample.1.weight"
        )
        assert flattened_key("backbone.layer4.1.bn2.running_var", BLOCKS) == (
            "backbone.ResLayer3_BasicBlockV27_norm2.running_var"
        )
        assert flattened_key("backbone.conv1.weight", BLOCKS) == "backbone.conv0.weight"
        assert flattened_key("head.fc.bias", BLOCKS) == "head.fc.bias"
        for key in ("backbone.layer1.0.se.weight", "backbone.conv9.weight", "backbone.layer1.0.conv1.scale"):
            with pytest.raises(UserError, match="no place in the flattened network"):
                flattened_key(key, BLOCKS)
