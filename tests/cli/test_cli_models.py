"""models list, models show, count, and what every command shares."""

from __future__ import annotations

import json

import pytest

from keras_relu import __version__
from keras_relu.cli import main

COMMANDS = ("models", "convert", "train", "evaluate", "count", "reduce", "sweep", "export", "report", "demo")


def test_help_names_every_command(call):
    outcome = call("--help")
    assert outcome.code == 0
    assert [name for name in COMMANDS if f" {name} " not in outcome.out] == []
    assert "--install-completion" in outcome.out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_and_prints_json_on_request(call, name):
    outcome = call(name, "list", "--help") if name == "models" else call(name, "--help")
    assert outcome.code == 0
    assert "--json" in outcome.out


def test_the_version(call):
    assert call("--version") == (0, f"{__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["nonsense"], "nonsense"),
        (["models", "shwo", "resnet20"], "shwo"),
        (["models", "list", "--jsno"], "--jsno"),
        (["evaluate"], "model"),
        (["evaluate", "x.keras"], "--dataset"),
        (["train", "--arch", "resnet20", "--dataset", "digits", "--output", "o", "--epochs", "many"], "--epochs"),
        (["models", "list", "a", "b"], "b"),
    ],
)
def test_usage_errors_name_the_argument(call, arguments, word):
    outcome = call(*arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    assert word in outcome.err
    assert "Traceback" not in outcome.err


def test_a_bug_is_one_line_and_shows_its_trace_with_debug(call, monkeypatch, small):
    def broken(*arguments, **options):
        raise ZeroDivisionError("first line\nsecond line")

    monkeypatch.setattr("keras_relu.counting.count", broken)
    outcome = call("count", small)
    assert outcome.code == 1
    assert outcome.err == "keras-relu: unexpected ZeroDivisionError: first line (--debug shows where)\n"
    with pytest.raises(ZeroDivisionError):
        main(["count", str(small), "--debug"])


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (OSError(28, "No space left on device"), 1, "the disk is full."),
        (PermissionError(13, "Permission denied", "x.keras"), 1, "x.keras: Permission denied."),
        (MemoryError(), 1, "out of memory; use a smaller --batch-size."),
    ],
)
def test_what_the_machine_refuses_is_said_in_words(call, monkeypatch, small, error, code, message):
    def failing(*arguments, **options):
        raise error

    monkeypatch.setattr("keras_relu.counting.count", failing)
    assert call("count", small) == (code, "", f"keras-relu: {message}\n")


def test_ctrl_c_is_no_error_report(call, monkeypatch, small):
    def stopped(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("keras_relu.counting.count", stopped)
    outcome = call("count", small)
    assert (outcome.code, outcome.out) == (130, "")
    assert outcome.err in ("", "keras-relu: stopped.\n")


def test_models_list(call):
    (only,) = call("models", "list", "resnet20", "--json").json["models"]
    assert only == {
        "name": "resnet20",
        "family": only["family"],
        "parameters": 269_722,
        "macs": 40_551_040,
        "relu_count": 188_416,
        "sites": 19,
    }
    shown = call("models", "list", "resnet3[24]")
    assert shown.code == 0
    assert "303,104" in shown.out


def test_models_show(call):
    facts = call("models", "show", "resnet20", "--json").json
    assert {"parameters", "trainable_parameters", "macs", "relu_count", "sites"} <= set(facts)
    assert facts["relu_count"] == sum(site["relu_count"] for site in facts["sites"]) == 188_416
    assert set(facts["sites"][0]) == {"name", "shape", "relu_count"}
    text = call("models", "show", "resnet20", "--classes", "7", "--image-size", "16").out
    assert "stage3_block3_relu2" in text
    assert "47,104" in text


def test_count(call, small):
    facts = call("count", small, "--json").json
    assert (facts["relu_count"], facts["comparison_count"], facts["convention"]) == (136, 136, "relu")
    assert [(site["name"], site["shape"], site["relu_count"]) for site in facts["sites"]] == [
        ("conv_relu", [4, 4, 8], 128),
        ("dense_relu", [8], 8),
    ]
    assert facts["parameters"] == facts["trainable_parameters"] == 80 + 72 + 90
    text = call("count", small).out
    assert "conv_relu" in text
    assert "convention relu: Every ReLU element" in text


@pytest.mark.parametrize("convention", ["relu", "snl", "comparisons"])
def test_count_by_convention(call, small, convention):
    assert call("count", small, "--convention", convention, "--json").json["convention"] == convention


def test_json_is_one_object_and_nothing_else(call, small):
    outcome = call("count", small, "--json")
    assert outcome.err == ""
    assert isinstance(json.loads(outcome.out), dict)
