"""Configurations of the reduction: defaults, presets, and what is refused before anything starts."""

from __future__ import annotations

import pytest
import yaml

from keras_relu import activations
from keras_relu.config import Config
from keras_relu.errors import UserError
from keras_relu.replacement import PRESETS, Finetune, ReduceConfig, Search, preset
from keras_relu.replacement.config import REPLACEMENTS


def test_the_defaults():
    config = ReduceConfig.parse({"budget": 18841})
    assert (config.replacement, config.gate, config.granularity, config.surrogate) == (
        "quadratic",
        "hysteresis",
        "element",
        "true",
    )
    assert (config.search.method, config.search.saliency) == ("schedule", "fisher")
    assert config.finetune.schedule == "cosine"
    assert config.distillation.temperature == 4.0


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_whole_configuration_that_survives_yaml(name):
    config = ReduceConfig.parse({**preset(name), "budget": "0.1"})
    assert ReduceConfig.parse(yaml.safe_load(yaml.safe_dump(config.to_dict()))) == config


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "default"])
def test_the_published_presets_search_by_penalty_with_hysteresis(name):
    config = ReduceConfig.parse({**preset(name), "budget": 10})
    assert (config.gate, config.tau) == ("hysteresis", 0.003)
    assert (config.search.method, config.search.saliency) == ("penalty", "straight_through")
    assert (config.search.schedule, config.search.warmup_fraction, config.search.clip_norm) == ("cosine", 0.0, None)


def test_the_numbers_of_the_published_presets():
    relay = ReduceConfig.parse({**preset("identity-spgrad"), "budget": 10})
    assert (relay.replacement, relay.surrogate, relay.search.alternating) == ("identity", "relu", True)
    assert (relay.search.learning_rate, relay.search.score_learning_rate, relay.finetune.mask_dropout) == (
        0.02,
        2e-4,
        0.01,
    )
    adam = ReduceConfig.parse({**preset("moment-joint-adam"), "budget": 10})
    assert (adam.search.optimizer, adam.search.learning_rate, adam.search.epochs) == ("adam", 1e-3, 200)
    assert (adam.replacement, adam.distillation.temperature) == ("moment_quadratic", 4.0)
    two = ReduceConfig.parse({**preset("quadratic-two-pass"), "budget": 10})
    assert (two.replacement_options, two.search.epochs, two.finetune.epochs) == ({"scale_x2": 0.2}, 50, 30)


def test_an_unknown_preset_is_answered_with_the_nearest():
    with pytest.raises(UserError, match=r"Unknown preset 'identity-spgrd'\. Did you mean 'identity-spgrad'\?"):
        preset("identity-spgrd")


def test_the_replacements_are_those_of_the_activations():
    for name in REPLACEMENTS:
        assert activations.MaskedReLU(replacement=name).replacement.get_config()["name"] == name


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, r"^budget: .*required"),
        ({"budget": 1, "budgte": 2}, r"Unknown key in ReduceConfig 'budgte'\. Did you mean 'budget'\?"),
        ({"budget": 1, "search": {"epoch": 2}}, r"Unknown key in search 'epoch'\. Did you mean 'epochs'\?"),
        (
            {"budget": 1, "distillation": {"temprature": 2}},
            r"Unknown key in distillation 'temprature'\. Did you mean 'temperature'\?",
        ),
        ({"budget": 1, "replacement": "quadratics"}, r"replacement.*'quadratics'"),
        ({"budget": 1, "gate": "soft"}, r"gate.*'soft'"),
        ({"budget": 1, "granularity": "pixel"}, r"granularity.*'pixel'"),
        ({"budget": 1, "tau": -0.1}, r"^tau: .*greater than or equal to 0, received -0\.1"),
        ({"budget": 1, "batch_size": 0}, r"^batch_size: "),
        ({"budget": 1, "seed": -1}, r"^seed: "),
        ({"budget": 1, "search": {"learning_rate": 0}}, r"^search\.learning_rate: .*greater than 0"),
        ({"budget": 1, "search": {"learning_rate": float("nan")}}, r"^search\.learning_rate: .*finite"),
        ({"budget": 1, "search": {"ramp_fraction": 1.5}}, r"^search\.ramp_fraction: .*less than or equal to 1"),
        ({"budget": 1, "search": {"mask_interval": 0}}, r"^search\.mask_interval: "),
        ({"budget": 1, "search": {"margin": 2}}, r"^search\.margin: "),
        ({"budget": 1, "search": {"method": "penalty"}}, r"^search: .*penalty .*straight_through"),
        ({"budget": 1, "finetune": {"mask_dropout": 1}}, r"^finetune\.mask_dropout: .*less than 1"),
        ({"budget": 1, "finetune": {"epochs": -1}}, r"^finetune\.epochs: "),
        ({"budget": 1, "distillation": {"weight": 0}}, r"^distillation\.weight: "),
        ({"budget": [1]}, r"^budget"),
    ],
)
def test_what_is_refused_in_one_line(values, message):
    with pytest.raises(UserError, match=message) as caught:
        ReduceConfig.parse(values)
    assert "\n" not in str(caught.value)


def test_distillation_can_be_left_out():
    assert ReduceConfig.parse({"budget": 1, "distillation": None}).distillation is None


@pytest.mark.parametrize("kind", [Search, Finetune, ReduceConfig])
def test_every_field_with_a_description_says_it_in_one_phrase(kind):
    assert issubclass(kind, Config)
    descriptions = [field.description for field in kind.model_fields.values() if field.description]
    assert all("\n" not in text and len(text) < 120 for text in descriptions)
