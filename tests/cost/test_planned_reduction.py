"""`reduce` under limits of cost: the plan is made, kept to, and written down."""

import json

import numpy as np
import pytest
import tf_keras as keras

from keras_relu import data
from keras_relu.cli import main
from keras_relu.errors import UserError
from keras_relu.replacement import ReduceConfig, reduce
from keras_relu.replacement.saliency import measure_saliency

SETTINGS = (
    "--limit",
    "200",
    "--batch-size",
    "50",
    "--search-epochs",
    "1",
    "--finetune-epochs",
    "1",
    "--set",
    "search.mask_interval=1",
)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu", name="conv")(inputs)
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu", name="more")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    path = tmp_path_factory.mktemp("small") / "small.keras"
    keras.Model(inputs, keras.layers.Dense(10)(x)).save(path)
    return path


def command(capsys, *arguments):
    code = main([*map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_plan_is_kept_to(small, tmp_path, capsys):
    given = ("reduce", small, "--dataset", "digits", "--output", tmp_path / "run", *SETTINGS)
    code, _, err = command(capsys, *given, "--budget", "100", "--max-relu-layers", "1", "--json")
    assert code == 0, err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    plan = result["plan"]
    assert result["replacement"] == "planned"
    assert {site["name"]: site["kept"] for site in result["sites"]} == {
        site["name"]: site["kept"] for site in plan["sites"]
    }
    assert sum(site["kept"] > 0 for site in result["sites"]) == plan["relu_layers"] == 1
    assert result["relu_count"] == plan["relu_count"] <= 100
    assert plan["uniform_relu_layers"] == 2


def test_limits_are_checked_before_training(small, tmp_path, capsys):
    given = ("reduce", small, "--dataset", "digits", "--output", tmp_path / "run", *SETTINGS)
    for extra, message in (
        (("--budget-bytes", "5"), "cannot be met"),
        (("--budget-bytes", "many"), "number of bytes"),
        (("--cost-preset", "spu-aby3-64", "--budget", "10"), "has no effect"),
        ((), "needs --budget"),
        (("--max-relu-layers", "1", "--granularity", "channel"), "granularity element"),
    ):
        code, out, err = command(capsys, *given, *extra)
        assert code == 2, err
        assert message in err
        assert out == ""
        assert not (tmp_path / "run").exists()


def test_budgets_of_sites_must_fit_the_network(small):
    model, digits = keras.models.load_model(small), data.load("digits", limit=100)
    sites = {"conv_relu": {"kept": 10}, "more_relu": {"kept": 5}}
    for wrong in ({"conv_relu": {"kept": 10}}, {**sites, "other": {"kept": 0}}, {**sites, "conv_relu": {"kept": 11}}):
        with pytest.raises(UserError, match="do not fit the network"):
            reduce(model, digits, ReduceConfig.parse({"budget": 15, "sites": wrong}), progress=False)


def test_saliency_is_that_of_the_gates(small):
    """A ReLU whose input is never negative changes nothing and is worth nothing."""
    model, digits = keras.models.load_model(small), data.load("digits", limit=100)
    kernel, bias = model.get_layer("conv").get_weights()
    kernel[..., 0] = 0.0
    model.get_layer("conv").set_weights([kernel, bias + np.array([1.0, 0.0, 0.0, 0.0])])
    values = measure_saliency(model, digits, batches=2, batch_size=20)
    assert {name: value.shape for name, value in values.items()} == {"conv_relu": (8, 8, 4), "more_relu": (8, 8, 4)}
    assert np.all(values["conv_relu"][..., 0] == 0.0)
    assert np.all(values["conv_relu"] >= 0.0)
    assert values["conv_relu"][..., 1:].max() > 0.0
