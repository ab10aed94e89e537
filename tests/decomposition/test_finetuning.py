"""Fine-tuning a decomposed network: the run it writes, and what it refuses."""

import numpy as np
import pytest

from keras_relu import decomposition
from keras_relu.decomposition.finetuning import PUBLISHED
from keras_relu.decomposition.tables import FilterTable, read_table
from keras_relu.errors import UserError
from keras_relu.evaluate import evaluate
from keras_relu.runs import Run, load_model

SETTINGS = {"epochs": 2, "batch_size": 32, "learning_rate": 3e-3, "augment": False}


@pytest.fixture(scope="module")
def model(trained):
    return load_model(trained)


@pytest.fixture(scope="module")
def table(model, digits):
    return decomposition.extract(model, digits, top_k=[3])[0]


def test_a_run_with_a_better_decomposed_network(model, table, digits, tmp_path):
    before = [weight.copy() for weight in model.get_weights()]
    run = Run.create(tmp_path / "run", config=SETTINGS, stage="decompose")
    tuned, result = decomposition.finetune(
        model, table, digits, SETTINGS, run=run, facts={"arch": "tiny"}, progress=False
    )
    start = decomposition.validate(model, [table], digits)["decomposed"]["correct"]
    assert result["correct"] > start
    assert (result["top_k"], result["rule"], result["arch"], result["distilled"]) == (3, "frequency", "tiny", False)
    assert (result["head_parameters"], result["head_multiplications"]) == (40, 30)
    assert read_table(run.path / "indices.json").rows == table.rows
    loaded = load_model(run.path)
    assert evaluate(loaded, digits.test, digits.normalization)["correct"] == result["correct"]
    assert loaded.get_layer("classifier").indices == tuned.get_layer("classifier").indices == table.rows
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_distillation_from_the_original(model, table, digits):
    plain = decomposition.finetune(model, table, digits, {**SETTINGS, "epochs": 1}, progress=False)[1]
    distilled = decomposition.finetune(model, table, digits, {**SETTINGS, "epochs": 1}, distill=True, progress=False)[1]
    assert distilled["distilled"]
    assert distilled["loss"] != plain["loss"]


def test_published_settings_are_the_default():
    assert PUBLISHED == {
        "epochs": 1,
        "batch_size": 64,
        "optimizer": "adam",
        "learning_rate": 1e-4,
        "schedule": "constant",
    }


def test_refusals(model, digits):
    with pytest.raises(UserError, match="for 2 classes"):
        decomposition.finetune(model, FilterTable([[1], [2]]), digits, SETTINGS)
    with pytest.raises(UserError, match="Did you mean 'learning_rate'"):
        decomposition.finetune(model, FilterTable([[1]] * 10), digits, {"learning_rat": 1})
    small = decomposition.decompose(model, [[1]] * 10)
    with pytest.raises(UserError, match="decomposed already"):
        decomposition.finetune(small, FilterTable([[1]] * 10), digits, SETTINGS)
