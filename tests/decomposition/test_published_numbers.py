"""The published numbers on the real CIFAR-10 with the published weights; needs both, see the markers."""

import numpy as np
import pytest

from keras_relu import data, decomposition, models
from keras_relu.class_filters import masked_kernel
from keras_relu.decomposition import csg, information
from keras_relu.decomposition.comparison import compare_gates
from keras_relu.decomposition.head import find_head
from keras_relu.decomposition.noise import essential, survivors
from keras_relu.decomposition.selection import select
from keras_relu.decomposition.tables import read_table

TOP_K = (5, 10, 20)
# Specification, section 4: the clean lists for k = 5, most frequent first.
CLEAN_5 = [
    [22, 50, 54, 23, 7],
    [6, 55, 40, 9, 54],
    [53, 61, 13, 23, 1],
    [59, 53, 49, 57, 17],
    [25, 57, 61, 48, 46],
    [49, 42, 13, 37, 10],
    [61, 48, 9, 56, 52],
    [56, 0, 25, 16, 53],
    [22, 21, 29, 2, 9],
    [40, 54, 55, 8, 21],
]
LARGEST_GATES = [
    [28, 38, 16, 43, 10],
    [46, 14, 10, 44, 63],
    [21, 52, 30, 29, 16],
    [29, 2, 19, 37, 34],
    [15, 23, 16, 42, 11],
    [29, 53, 37, 25, 22],
    [27, 32, 29, 18, 42],
    [33, 38, 31, 23, 63],
    [28, 57, 1, 13, 39],
    [39, 26, 43, 46, 12],
]

# Mutual information over all pairs and without self pairs, k = 5.
INFORMATION = {
    "ours": (0.03453775959861226, 0.007912408959550057),
    "published": (0.03750908408724534, 0.011213880613586817),
    "corrected": (0.033944589243773166, 0.007253330787506619),
}


def found(folder, name):
    files = sorted(folder.rglob(name))
    if not files:
        pytest.skip(f"KERAS_RELU_WEIGHTS_DIR has no {name}")
    return files[0]


def close(value, expected, tolerance=6):
    assert abs(value - expected) <= tolerance, (value, expected)


@pytest.fixture(scope="module")
def gates_file(weights_dir):
    return found(weights_dir, "best_save_CSG.pth")


@pytest.mark.weights
class TestLists:
    """Numbers that need the index files and gates only."""

    def test_mutual_information_of_the_shipped_table(self, weights_dir):
        table = read_table(found(weights_dir, "resnet20_cifar-10_indices.json"), classes=10, filters=64)
        self.check(table.membership(64), "ours")

    @pytest.mark.torch
    @pytest.mark.parametrize("order", csg.ORDERS)
    def test_mutual_information_of_gates(self, gates_file, order):
        table = csg.gate_table(csg.read_gates(gates_file), 5, order)
        self.check(table.membership(64), order)

    def check(self, member, name):
        summary = information.summarize(member)
        values = (summary["mutual_information"], summary["mutual_information_off_diagonal"])
        np.testing.assert_allclose(values, INFORMATION[name], atol=1e-9)

    @pytest.mark.torch
    def test_larger_k_of_gates(self, gates_file):
        gates = csg.read_gates(gates_file)
        expected = {
            ("published", 10): (0.054035947392501865, 0.01188451118158594),
            ("corrected", 10): (0.055325043149428155, 0.013316839800392933),
            ("published", 20): (0.0817442198694634, 0.021817313793265472),
            ("corrected", 20): (0.08739642790888764, 0.0280975449481813),
        }
        for (order, k), values in expected.items():
            summary = information.summarize(csg.gate_table(gates, k, order).membership(64))
            got = (summary["mutual_information"], summary["mutual_information_off_diagonal"])
            np.testing.assert_allclose(got, values, atol=1e-9)

    @pytest.mark.torch
    def test_gates(self, gates_file, weights_dir):
        gates = csg.read_gates(gates_file)
        facts = csg.gate_statistics(gates)
        assert (facts["minimum"], facts["maximum"]) == (
            pytest.approx(-0.072512, abs=1e-6),
            pytest.approx(0.803067, abs=1e-6),
        )
        assert facts["mean"] == pytest.approx(0.097485, abs=1e-6)
        assert csg.gate_table(gates, 5).rows == LARGEST_GATES
        shipped = read_table(found(weights_dir, "resnet20_cifar-10_csg_indices.json"))
        assert csg.gate_table(gates, 5, "published").rows == shipped.rows

    def test_the_imagenet_table(self, weights_dir):
        table = read_table(found(weights_dir, "resnet50_imagenet_indices.json"), classes=1000, filters=2048)
        assert table.top_k == 50
        assert len({index for row in table.rows for index in row}) == 1975
        from keras_relu.layers.class_specific import ClassSpecificDense

        layer = ClassSpecificDense(table.rows)
        assert layer(np.ones((2, 2048), np.float32)).shape == (2, 1000)
        assert layer.count_params() == 51_000


@pytest.fixture(scope="module")
def cifar10(data_dir):
    return data.load("cifar10", data_dir=data_dir, validation_fraction=0)


@pytest.fixture(scope="module")
def model(weights_dir):
    return models.torch_weights.convert(found(weights_dir, "resnet20-12fca82f.th"), "resnet20")


@pytest.fixture(scope="module")
def features(model, cifar10):
    return decomposition.collect_features(model, cifar10)


@pytest.fixture(scope="module")
def statistics(model, cifar10):
    return decomposition.gather_statistics(model, cifar10, top_k=TOP_K)


@pytest.mark.weights
@pytest.mark.cifar10
@pytest.mark.torch
@pytest.mark.slow
class TestResNet20:
    """Numbers that need the test images (one pass) and the training images (one pass)."""

    def correct(self, model, features, rows):
        head = find_head(model)
        kernel = masked_kernel(head.kernel, rows) if rows else head.kernel
        return int(survivors(*features, kernel, head.bias).sum())

    def test_the_original(self, model, features):
        close(self.correct(model, features, None), 9171, 5)

    def test_the_shipped_table(self, model, cifar10, weights_dir):
        table = read_table(found(weights_dir, "resnet20_cifar-10_indices.json"))
        result = decomposition.validate(model, [table], cifar10)
        close(result["original"]["correct"], 9171, 5)
        close(result["decomposed"]["correct"], 8859)
        assert result["original"]["loss"] == pytest.approx(0.379957, abs=1e-3)
        assert result["decomposed"]["loss"] == pytest.approx(0.337090, abs=1e-3)
        close(result["decomposed"]["agreement"] * 10_000, 9308)
        for name, expected in (
            ("original", [906, 971, 883, 824, 927, 867, 947, 935, 951, 960]),
            ("decomposed", [893, 951, 796, 800, 795, 856, 926, 958, 967, 917]),
        ):
            np.testing.assert_allclose(result[name]["per_class_correct"], expected, atol=4)

    def test_own_tables(self, model, statistics, features):
        rows = {k: select("frequency", k, statistics)[0] for k in TOP_K}
        assert [sorted(row) for row in rows[5]] == [sorted(row) for row in CLEAN_5]
        assert rows[10][0] == [22, 50, 7, 23, 44, 1, 54, 47, 41, 36]
        np.testing.assert_allclose(
            statistics.frequency(10)[0][rows[10][0]],
            [4572, 4138, 3817, 3816, 3443, 3429, 3398, 3264, 3175, 2352],
            atol=3,
        )
        for k, expected in ((5, 8808), (10, 9051), (20, 9125)):
            close(self.correct(model, features, rows[k]), expected)
        assert [statistics.mean_mass(k) for k in TOP_K] == pytest.approx([0.2538, 0.4280, 0.6609], abs=1e-4)

    def test_better_rules(self, model, statistics, features):
        kernel = find_head(model).kernel
        for rule, expected in (("weight", (8889, 9090, 9144)), ("response-weight", (8864, 9082, 9139))):
            for k, correct in zip(TOP_K, expected, strict=True):
                close(self.correct(model, features, select(rule, k, statistics, kernel)[0]), correct)

    def test_mutual_information_of_own_tables(self, statistics):
        for k, expected in ((10, 0.05704998707530908), (20, 0.07080315102266714)):
            rows = select("frequency", k, statistics)[0]
            member = np.zeros((10, 64), int)
            for number, row in enumerate(rows):
                member[number, row] = 1
            assert information.summarize(member)["mutual_information"] == pytest.approx(expected, abs=1e-9)

    def test_essential_filters(self, model, statistics, features, weights_dir):
        shipped = read_table(found(weights_dir, "resnet20_cifar-10_indices.json")).rows
        rows = {5: shipped, **{k: select("frequency", k, statistics)[0] for k in (10, 20)}}
        head = find_head(model)
        expected = {5: ((4752, 43), (8499, 24)), 10: ((1074, 20), (9653, 16)), 20: ((135, 11), (9916, 9))}
        for k, (influential, other) in expected.items():
            groups = essential(*features, head.kernel, head.bias, rows[k], repetitions=10)["groups"]
            close(groups["influential"]["correct_mean"], influential[0], 3 * influential[1])
            close(groups["other"]["correct_mean"], other[0], 3 * other[1])

    def test_gates(self, cifar10, gates_file):
        network = models.torch_weights.convert(gates_file, "resnet20")
        result = compare_gates(csg.read_gates(gates_file), model=network, dataset=cifar10, repetitions=10)
        close(result["standard_path"]["correct"], 8809, 5)
        expected = {
            ("published", 5): (4179, (9193, 14), (469, 20)),
            ("corrected", 5): (8366, (2497, 28), (9183, 27)),
            ("corrected", 10): (8661, None, None),
            ("corrected", 20): (8597, None, None),
        }
        rows = {(row["order"], row["top_k"]): row for row in result["rows"]}
        for key, (decomposed, influential, other) in expected.items():
            close(rows[key]["decomposed_correct"], decomposed)
            for group, wanted in (("influential", influential), ("other", other)):
                if wanted:
                    close(rows[key]["essential"]["groups"][group]["correct_mean"], wanted[0], 3 * wanted[1])

    def test_gates_with_the_constants_they_were_trained_with(self, data_dir, gates_file):
        images = data.load("cifar10", data_dir=data_dir, validation_fraction=0, normalization="imagenet")
        network = models.torch_weights.convert(gates_file, "resnet20")
        head = find_head(network)
        correct = survivors(*decomposition.collect_features(network, images), head.kernel, head.bias).sum()
        close(int(correct), 8836, 5)
