"""Class-specific gates: read, ranked in both orders, compared, and trained on the embedded images."""

import numpy as np
import pytest
import tensorflow as tf

from keras_relu import decomposition
from keras_relu.decomposition import csg, gated
from keras_relu.decomposition.comparison import compare_gates
from keras_relu.decomposition.head import find_head
from keras_relu.errors import UserError
from keras_relu.runs import Run, load_model

GATES = np.array([[0.9, 0.1, 0.0, -0.2], [0.1, 0.1, 0.8, 0.3]])


def test_both_orders():
    published, corrected = csg.gate_table(GATES, 2, "published"), csg.gate_table(GATES, 2)
    assert published.rows == [[3, 2], [0, 1]]
    assert corrected.rows == [[0, 1], [2, 3]]
    assert corrected.facts["scores"] == [[0.9, 0.1], [0.8, 0.3]]
    assert corrected.facts["rule"] == "csg-corrected"


def test_statistics():
    facts = csg.gate_statistics(GATES)
    assert facts["row_maxima"] == [0.9, 0.8]
    assert facts["above_half_per_row"] == [1, 1]
    assert (facts["minimum"], facts["maximum"], facts["zeros"]) == (-0.2, 0.9, 1)


def test_gate_table_refusals():
    with pytest.raises(UserError, match="Did you mean 'corrected'"):
        csg.gate_table(GATES, 2, "correct")
    with pytest.raises(UserError, match="top_k is 5"):
        csg.gate_table(GATES, 5)
    with pytest.raises(UserError, match=r"whole number of filters, received 0\.5"):
        csg.gate_table(GATES, 0.5)


class TestReading:
    def test_runs(self, tmp_path):
        np.savez(tmp_path / csg.GATES_FILE, csg=GATES)
        np.testing.assert_array_equal(csg.read_gates(tmp_path), GATES)

    @pytest.mark.torch
    def test_checkpoints(self, tmp_path):
        torch = pytest.importorskip("torch")
        gates = torch.tensor(GATES, dtype=torch.float32)
        torch.save({"epoch": 3, "model_state_dict": {"csg": gates, "w": torch.ones(2)}}, tmp_path / "gates.pth")
        np.testing.assert_allclose(csg.read_gates(tmp_path / "gates.pth"), GATES, atol=1e-7)
        torch.save({"w": torch.ones(2)}, tmp_path / "plain.pth")
        with pytest.raises(UserError, match="no gate matrix"):
            csg.read_gates(tmp_path / "plain.pth")
        (tmp_path / "damaged.pth").write_bytes(b"nonsense")
        with pytest.raises(UserError, match="cannot be read"):
            csg.read_gates(tmp_path / "damaged.pth")

    def test_refusals(self, tmp_path):
        with pytest.raises(UserError, match="does not exist"):
            csg.read_gates(tmp_path / "absent.pth")
        with pytest.raises(UserError, match="no gate matrix"):
            csg.read_gates(tmp_path)
        (tmp_path / csg.GATES_FILE).write_bytes(b"nonsense")
        with pytest.raises(UserError, match="damaged"):
            csg.read_gates(tmp_path)
        np.savez(tmp_path / csg.GATES_FILE, csg=np.full((2, 3), np.nan))
        with pytest.raises(UserError, match="finite numbers"):
            csg.read_gates(tmp_path)
        np.savez(tmp_path / csg.GATES_FILE, other=GATES)
        with pytest.raises(UserError, match="no gate matrix"):
            csg.read_gates(tmp_path)
        # An array of objects is a pickle inside the archive, which numpy then refuses to open.
        np.savez(tmp_path / csg.GATES_FILE, csg=np.array([{}]))
        with pytest.raises(UserError, match="damaged"):
            csg.read_gates(tmp_path)


class TestComparison:
    def test_without_images(self):
        result = compare_gates(GATES, top_k=(1, 2))
        assert [(row["order"], row["top_k"]) for row in result["rows"]] == [
            ("published", 1),
            ("published", 2),
            ("corrected", 1),
            ("corrected", 2),
        ]
        assert result["standard_path"] is None
        assert "essential" not in result["rows"][0]

    def test_with_images(self, trained, digits):
        model = load_model(trained)
        # Gates that follow the weights: the largest ones are the useful filters.
        gates = find_head(model).kernel.T
        result = compare_gates(gates, top_k=(3,), model=model, dataset=digits, repetitions=2)
        published, corrected = result["rows"]
        table = csg.gate_table(gates, 3)
        expected = decomposition.validate(model, [table], digits)
        assert corrected["decomposed_correct"] == expected["decomposed"]["correct"]
        assert result["standard_path"]["correct"] == expected["original"]["correct"]
        assert corrected["decomposed_correct"] > published["decomposed_correct"]
        assert corrected["essential"]["groups"]["none"]["correct"] == expected["original"]["correct"]

    def test_gates_of_another_network(self, network, digits):
        with pytest.raises(UserError, match="2 classes and 4 filters, the network has 10 and 12"):
            compare_gates(GATES, top_k=(1,), model=network, dataset=digits)


def test_normalized_gates():
    gates = tf.constant([[0.5, -1.0, 0.0, 2.0], [0.25, -2.0, 0.0, -1.0]])
    # Filter 2 has nothing but zeros and so keeps all its classes; filter 1 keeps its least negative one.
    expected = [[1.0, 1.0, 1.0, 1.0], [0.5, 0.0, 1.0, 0.0]]
    np.testing.assert_allclose(gated.normalize_gates(gates), expected)


SETTINGS = {"epochs": 30, "batch_size": 64, "optimizer": "adam", "learning_rate": 0.02, "augment": False}


class TestTraining:
    @pytest.fixture(scope="class")
    def run(self, digits, tmp_path_factory):
        config = gated.GateConfig.parse({**SETTINGS, "sparsity_weight": 0.05, "gate_learning_rate": 0.2})
        run = Run.create(tmp_path_factory.mktemp("gated") / "run", config=config.to_dict(), stage="train-csg")
        gates, result = gated.train_gated(_network(), digits, run, config, progress=False)
        np.testing.assert_array_equal(csg.read_gates(run.path), gates)
        return run, gates, result

    def test_gates_become_few_and_keep_every_filter(self, run):
        _, gates, result = run
        assert gates.min() >= 0
        np.testing.assert_allclose(gates.max(axis=0), 1)
        assert result["gate_mean"] == pytest.approx(gates.mean())
        assert gates.mean() < 0.5
        assert {"gated_accuracy", "gate_mean"} <= set(run[0].rows()[-1])

    def test_the_largest_gates_are_the_useful_filters(self, run, digits):
        _, gates, result = run
        model = load_model(run[0].path)
        compared = compare_gates(gates, top_k=(4,), model=model, dataset=digits, repetitions=2)
        published, corrected = compared["rows"]
        assert compared["standard_path"]["correct"] == result["correct"] > 0.3 * 360
        assert corrected["decomposed_correct"] > published["decomposed_correct"]

    def test_gates_wait_for_the_warm_up(self, digits):
        waiting = {**SETTINGS, "epochs": 1, "gate_warmup_epochs": 1}
        gates, _ = gated.train_gated(_network(), digits, None, waiting, progress=False)
        np.testing.assert_array_equal(gates, np.full((10, 12), 0.5, np.float32))

    def test_refusals(self, digits):
        with pytest.raises(UserError, match="density"):
            gated.GateConfig.parse({"density": 0})
        with pytest.raises(UserError, match="sparsity_weight"):
            gated.GateConfig.parse({"sparsity_wieght": 1})
        with pytest.raises(UserError, match="takes images"):
            gated.train_gated(_network(9), digits, None, SETTINGS, progress=False)


def _network(size=8):
    import tf_keras as keras

    keras.utils.set_random_seed(0)
    inputs = keras.Input((size, size, 1))
    x = keras.layers.ReLU()(keras.layers.Conv2D(12, 3, padding="same")(inputs))
    x = keras.layers.ReLU()(keras.layers.Conv2D(12, 3, strides=2)(x))
    return keras.Model(inputs, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x)))
