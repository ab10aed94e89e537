"""Importing the package: fast, lazy, and clear about the Keras generation."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import types
import warnings

import pytest

import keras_relu

HEAVY = ("tensorflow", "tf_keras", "keras", "torch", "pandas", "matplotlib", "sklearn", "scipy")

# Runs every command line given as JSON, in one process, and reports what each has imported by then.
PROBE = """
import contextlib, io, json, sys
heavy = json.loads(sys.argv[1])
report = []
def note(what, code):
    report.append([what, code, [name for name in heavy if name in sys.modules]])
import keras_relu
note("import", 0)
from keras_relu.cli import main
for arguments in json.loads(sys.argv[2]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code = main(arguments)
    note(" ".join(arguments), code)
print(json.dumps(report))
"""
LIGHT = {
    "--help": 0,
    "--version": 0,
    "models --help": 0,
    "train --help": 0,
    "reduce --help": 0,
    "sweep --help": 0,
    "nonsense": 2,
    "train": 2,
    "train --epochs many": 2,
    "evaluate": 2,
    "count --nonsense x": 2,
    "count missing.keras": 2,
    "evaluate missing.keras --dataset digits": 2,
    "export missing.keras --output out": 2,
    "reduce missing.keras --budget 0.1 --dataset digits --output out": 2,
    "sweep missing.keras --dataset digits --output out": 2,
    "convert missing.th --arch resnet20 --output out": 2,
    "train --arch resnet20 --dataset digits --output out --set epochs": 2,
    "train --arch resnet20 --dataset digits --output out --config missing.yaml": 2,
}


def run_python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """A new interpreter without this process' choice of Keras."""
    inherited = {key: value for key, value in os.environ.items() if key != "TF_USE_LEGACY_KERAS"}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**inherited, **environment}, timeout=300)


def test_help_and_refused_arguments_import_nothing_heavy(tmp_path):
    arguments = json.dumps([line.split() for line in LIGHT])
    done = run_python(f"import os; os.chdir({str(tmp_path)!r})\n{PROBE}", json.dumps(HEAVY), arguments)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert {what: heavy for what, _, heavy in report if heavy} == {}
    assert {what: code for what, code, _ in report[1:]} == LIGHT
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_keras_3_resolved_first_is_warned_about_with_the_way_out():
    code = "import tensorflow as tf; tf.keras.layers; import keras_relu"
    done = run_python(code, TF_CPP_MIN_LOG_LEVEL="3")
    assert done.returncode == 0, done.stderr
    assert "UserWarning: TensorFlow was imported before keras_relu and already uses Keras 3" in done.stderr
    assert "TF_USE_LEGACY_KERAS=1" in done.stderr
    assert "<string>:1: UserWarning" in done.stderr


@pytest.mark.parametrize(
    ("loader", "warned"),
    [
        (None, False),
        ("<KerasLazyLoader>", False),
        ("<KerasLazyLoader (keras_2) tf_keras.api._v2.keras as keras mode=v2>", False),
        ("<KerasLazyLoader (keras_3) keras._tf_keras.keras as keras mode=None>", True),
        ("<module 'tf_keras.api._v2.keras' from 'tf_keras/api/_v2/keras/__init__.py'>", False),
        ("<module 'keras._tf_keras.keras' from 'keras/_tf_keras/keras/__init__.py'>", True),
    ],
)
def test_only_a_resolved_keras_3_is_warned_about(monkeypatch, loader, warned):
    stub = types.ModuleType("tensorflow")
    if loader:
        stub.keras = type("Loader", (), {"__repr__": lambda self: loader})()
    monkeypatch.setitem(sys.modules, "tensorflow", stub)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        keras_relu._use_legacy_keras()
    assert [("Keras 3" in str(warning.message)) for warning in caught] == [True] * warned


def test_the_switch_is_set():
    assert os.environ["TF_USE_LEGACY_KERAS"] == "1"


@pytest.mark.parametrize("name", sorted(set(keras_relu.__all__) - {"__version__"}))
def test_every_public_module_is_an_attribute(name):
    module = getattr(keras_relu, name)
    assert isinstance(module, types.ModuleType)
    assert module.__name__ == f"keras_relu.{name}"


def test_dir_lists_the_modules_and_unknown_names_are_refused():
    assert dir(keras_relu) == sorted(keras_relu.__all__)
    with pytest.raises(AttributeError, match=r"has no attribute 'modles'; it has .*models"):
        _ = keras_relu.modles
    assert not hasattr(keras_relu, "_private")


def test_the_version_is_that_of_the_distribution():
    assert keras_relu.__version__ == importlib.metadata.version("keras_relu")


def test_the_console_script_runs_main():
    scripts = importlib.metadata.entry_points(group="console_scripts", name="keras-relu")
    assert {script.value for script in scripts} == {"keras_relu.cli:main"}
