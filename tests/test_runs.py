from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
import yaml

from keras_relu.errors import UserError
from keras_relu.runs import Run, RunBusyError, find_model, load_model
from keras_relu.runs.safety import check_config

CONFIG = {"seed": 3, "optimizer": {"name": "sgd", "rate": 0.1}, "betas": (0.9, 0.99)}


def create(path, **options) -> Run:
    return Run.create(path, **({"config": CONFIG, "stage": "train"} | options))


@pytest.fixture(scope="module")
def model() -> keras.Model:
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.ReLU()(keras.layers.Conv2D(2, 3)(inputs))
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(x)))


class TestCreate:
    def test_config_is_written_and_read_back(self, tmp_path):
        create(tmp_path / "r", parent=tmp_path / "base")
        opened = Run.open(tmp_path / "r")
        assert opened.config == {"seed": 3, "optimizer": {"name": "sgd", "rate": 0.1}, "betas": [0.9, 0.99]}
        assert (opened.stage, opened.parent) == ("train", str(tmp_path / "base"))
        assert not opened.finished

    def test_over_a_finished_run(self, tmp_path):
        create(tmp_path / "r").finish({})
        for resume in (False, True):
            with pytest.raises(UserError, match="is finished"):
                create(tmp_path / "r", resume=resume)

    def test_over_an_unfinished_run(self, tmp_path):
        create(tmp_path / "r")
        with pytest.raises(UserError, match="continue it with --resume"):
            create(tmp_path / "r")
        create(tmp_path / "r", resume=True)

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ({"config": {**CONFIG, "seed": 4}}, "'seed' was 3, now it is 4"),
            ({"config": {**CONFIG, "optimizer": {"name": "adam", "rate": 0.1}}}, "'optimizer.name' was 'sgd'"),
            ({"config": {**CONFIG, "extra": 1}}, "'extra' was None, now it is 1"),
            ({"stage": "reduce"}, "'stage' was 'train'"),
        ],
    )
    def test_resume_with_another_configuration_names_the_key(self, tmp_path, change, named):
        create(tmp_path / "r")
        with pytest.raises(UserError, match=named):
            create(tmp_path / "r", resume=True, **change)

    def test_resume_without_a_run_starts_one(self, tmp_path):
        assert create(tmp_path / "r", resume=True).path.exists()

    def test_in_a_directory_of_other_files(self, tmp_path):
        (tmp_path / "thesis.tex").touch()
        with pytest.raises(UserError, match="is no run directory"):
            create(tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]

    def test_at_a_file(self, tmp_path):
        (tmp_path / "r").touch()
        with pytest.raises(UserError, match="is no run directory"):
            create(tmp_path / "r")

    def test_only_the_chief_writes(self, tmp_path, model):
        run = create(tmp_path / "r", chief=False)
        run.log({"phase": "train", "step": 1, "loss": 1.0})
        run.save_model(model)
        run.finish({})
        assert not (tmp_path / "r").exists()


class TestOpen:
    @pytest.mark.parametrize(
        ("content", "message"),
        [(None, "no config.yaml"), ("a: [", "not valid YAML"), ("a: 1", "no run configuration"), ("[1]", "no run")],
    )
    def test_refuses(self, tmp_path, content, message):
        if content is not None:
            (tmp_path / "config.yaml").write_text(content)
        with pytest.raises(UserError, match=message):
            Run.open(tmp_path)

    def test_yaml_tags_are_not_executed(self, tmp_path):
        (tmp_path / "config.yaml").write_text("stage: !!python/object/apply:os.system ['touch hacked']\n")
        with pytest.raises(UserError, match="not valid YAML"):
            Run.open(tmp_path)


class TestMetrics:
    def test_rows_keep_types_and_order(self, tmp_path):
        run = create(tmp_path / "r")
        run.log({"phase": "search", "epoch": 1, "step": 10, "loss": 0.1234567890123, "kept": 12})
        run.log({"phase": "search", "epoch": 1, "step": 20, "loss": None})
        first, second = run.rows()
        assert first["loss"] == 0.1234567890123
        assert (first["stage"], first["step"], first["val_loss"]) == ("train", 10, None)
        assert second["loss"] is None
        header = (run.path / "metrics.csv").read_text().splitlines()[0]
        assert header == "stage,phase,epoch,step,loss,accuracy,val_loss,val_accuracy,learning_rate,kept,seconds"

    def test_a_new_key_becomes_a_column(self, tmp_path):
        run = create(tmp_path / "r")
        run.log({"phase": "train", "step": 1, "loss": 1.0})
        run.log({"phase": "train", "step": 2, "gradient_norm": 5.0})
        run.log({"phase": "train", "step": 3, "loss": 2.0})
        assert [r["gradient_norm"] for r in run.rows()] == [None, 5.0, None]

    def test_rewind_drops_what_a_resumed_phase_writes_again(self, tmp_path):
        run = create(tmp_path / "r")
        for phase, epoch, step, seconds in (
            ("search", 9, 90, 1.0),
            ("train", 1, 5, None),
            ("train", 1, 6, 2.0),
            ("train", 2, 10, None),
            ("train", 2, 12, 2.0),
            ("train", 3, 15, None),
        ):
            run.log({"phase": phase, "epoch": epoch, "step": step, "seconds": seconds})
        run.rewind("train", step=12, epoch=1)
        assert [(r["phase"], r["step"]) for r in run.rows()] == [
            ("search", 90),
            ("train", 5),
            ("train", 6),
            ("train", 10),
        ]

    def test_a_line_cut_off_by_a_kill_is_repaired_on_resume(self, tmp_path):
        run = create(tmp_path / "r")
        run.log({"phase": "train", "step": 1, "loss": 1.0})
        with open(run.path / "metrics.csv", "a") as stream:
            stream.write("train,train,1,2,0.12")
        assert len(run.rows()) == 1
        resumed = create(tmp_path / "r", resume=True)
        resumed.log({"phase": "train", "step": 2, "loss": 2.0})
        assert [r["loss"] for r in resumed.rows()] == [1.0, 2.0]

    def test_tensorboard_events_are_tagged_by_phase(self, tmp_path):
        run = create(tmp_path / "r")
        run.log({"phase": "search", "step": 7, "loss": 0.5})
        run.finish({})
        (file,) = (run.path / "tensorboard").iterdir()
        found = [
            (value.tag, event.step)
            for record in tf.data.TFRecordDataset(str(file))
            for event in [tf.compat.v1.Event.FromString(record.numpy())]
            for value in event.summary.value
        ]
        assert found == [("search/loss", 7)]


class TestFinish:
    def test_result_holds_numbers_and_origin(self, tmp_path):
        run = create(tmp_path / "r")
        written = run.finish({"accuracy": np.float32(0.5), "sites": [{"shape": (2, 3)}], "loss": float("nan")})
        assert json.loads((run.path / "result.json").read_text()) == run.result
        assert run.result["accuracy"] == 0.5
        assert run.result["loss"] is None
        assert run.result["sites"] == [{"shape": [2, 3]}]
        assert {"versions", "git_revision", "config_hash", "wall_time_s", "parent"} <= set(written)
        assert (run.result["stage"], run.result["seed"]) == ("train", 3)
        assert run.result["versions"]["tensorflow"] == tf.__version__
        assert run.finished

    def test_wall_time_adds_up_over_resumes(self, tmp_path):
        run = create(tmp_path / "r")
        run.save_elapsed()
        (run.checkpoints / "elapsed.json").write_text('{"seconds": 100.0}')
        assert create(tmp_path / "r", resume=True).finish({})["wall_time_s"] >= 100.0

    def test_hash_ignores_the_order_of_keys(self, tmp_path):
        first = create(tmp_path / "a", config={"x": 1, "y": 2}).finish({})
        second = create(tmp_path / "b", config={"y": 2, "x": 1}).finish({})
        assert first["config_hash"] == second["config_hash"]

    def test_outside_a_repository_there_is_no_revision(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
        assert create(tmp_path / "r").finish({})["git_revision"] is None

    def test_config_is_plain_yaml(self, tmp_path):
        run = create(tmp_path / "r")
        assert yaml.safe_load((run.path / "config.yaml").read_text())["config"]["betas"] == [0.9, 0.99]


class TestFindModel:
    def test_run_file_and_saved_model(self, tmp_path, model):
        run = create(tmp_path / "r")
        run.save_model(model)
        assert find_model(run.path) == run.path / "model.keras"
        assert find_model(run.path / "model.keras") == run.path / "model.keras"
        (tmp_path / "s").mkdir()
        (tmp_path / "s" / "saved_model.pb").touch()
        assert find_model(tmp_path / "s") == tmp_path / "s"

    def test_refusals(self, tmp_path):
        (tmp_path / "a.txt").touch()
        (tmp_path / "empty").mkdir()
        create(tmp_path / "r")
        for name, message in (
            ("missing.keras", "does not exist"),
            ("a.txt", "no model file"),
            ("empty", "neither a run nor a SavedModel"),
            ("r", "has no model.keras yet"),
        ):
            with pytest.raises(UserError, match=message):
                find_model(tmp_path / name)


class TestLoadModel:
    def test_round_trip(self, tmp_path, model):
        run = create(tmp_path / "r")
        run.save_model(model)
        for loaded in (run.load_model(), load_model(run.path)):
            for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
                np.testing.assert_array_equal(a, b)

    @pytest.mark.parametrize("content", [b"", b"garbage", None])
    def test_corrupt(self, tmp_path, model, content):
        path = tmp_path / "m.keras"
        model.save(path)
        path.write_bytes(path.read_bytes()[:-200] if content is None else content)
        with pytest.raises(UserError, match=r"m\.keras' is corrupt"):
            load_model(path)

    def test_damaged_weights(self, tmp_path, model):
        model.save(tmp_path / "m.keras")
        rewrite(tmp_path / "m.keras", {"model.weights.h5": b"no hdf5"})
        with pytest.raises(UserError, match="cannot be loaded"):
            load_model(tmp_path / "m.keras")

    def test_keras_3(self, tmp_path, model):
        model.save(tmp_path / "m.keras")
        rewrite(tmp_path / "m.keras", {"metadata.json": b'{"keras_version": "3.9.0"}'})
        with pytest.raises(UserError, match=r"written by Keras 3\.9\.0; keras_relu works with tf_keras"):
            load_model(tmp_path / "m.keras")

    def test_h5_needs_trust(self, tmp_path, model):
        model.save(tmp_path / "m.h5")
        with pytest.raises(UserError, match="HDF5 file, which can run code"):
            load_model(tmp_path / "m.h5")
        assert load_model(tmp_path / "m.h5", trusted=True).count_params() == model.count_params()

    def test_saved_model_needs_trust(self, tmp_path, model):
        model.save(tmp_path / "s", save_format="tf")
        with pytest.raises(UserError, match="SavedModel, which can run code"):
            load_model(tmp_path / "s")
        assert load_model(tmp_path / "s", trusted=True).count_params() == model.count_params()

    def test_saved_model_without_keras_objects(self, tmp_path):
        tf.saved_model.save(tf.Module(), str(tmp_path / "s"))
        with pytest.raises(UserError, match=r"holds no Keras model|cannot be loaded"):
            load_model(tmp_path / "s", trusted=True)

    def test_tflite_is_no_keras_model(self, tmp_path):
        (tmp_path / "m.tflite").touch()
        with pytest.raises(UserError, match="holds no Keras model"):
            load_model(tmp_path / "m.tflite")

    def test_lambda_code_never_runs_without_trust(self, tmp_path):
        marker = tmp_path / "ran"
        inputs = keras.Input((2,))
        path = str(marker)
        outputs = keras.layers.Lambda(lambda x, path=path: [os.makedirs(path, exist_ok=True), x][1])(inputs)
        keras.Model(inputs, outputs).save(tmp_path / "m.keras")
        marker.rmdir()
        with pytest.raises(UserError, match="Lambda layer, which runs Python code"):
            load_model(tmp_path / "m.keras")
        assert not marker.exists()

    def test_a_module_named_in_the_file_is_not_imported(self, tmp_path, model, monkeypatch):
        (tmp_path / "evil_module.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
        monkeypatch.syspath_prepend(tmp_path)
        model.save(tmp_path / "m.keras")
        change_config(tmp_path / "m.keras", '"module": "keras.layers"', '"module": "evil_module"')
        with pytest.raises(UserError, match="imports the module 'evil_module'"):
            load_model(tmp_path / "m.keras")
        assert not (tmp_path / "ran").exists()

    def test_array_operations_of_tensorflow_are_fine(self, tmp_path):
        inputs = keras.Input((2, 2, 1))
        x = tf.nn.relu(inputs * 2.0) + 1.0
        x = tf.concat([tf.transpose(x, [0, 2, 1, 3]), x], axis=-1)
        keras.Model(inputs, tf.reshape(x[:, :, :, :1], [-1, 4])).save(tmp_path / "m.keras")
        assert load_model(tmp_path / "m.keras").output_shape == (None, 4)

    def test_other_tensorflow_functions_are_refused(self, tmp_path):
        inputs = keras.Input((2,))
        keras.Model(inputs, tf.math.abs(inputs)).save(tmp_path / "m.keras")
        change_config(tmp_path / "m.keras", '"function": "math.abs"', '"function": "io.read_file"')
        with pytest.raises(UserError, match=r"TensorFlow function 'io\.read_file'"):
            load_model(tmp_path / "m.keras")


class TestCheckConfig:
    def test_builtin_functions_are_refused(self):
        node = {"class_name": "function", "config": "eval", "module": "builtins", "registered_name": "eval"}
        assert "'eval'" in check_config({"layers": [{"config": {"activation": node}}]})

    def test_keras_functions_are_fine(self):
        node = {"class_name": "function", "config": "softmax", "module": "builtins", "registered_name": "softmax"}
        assert check_config([node, {"module": "tf_keras.layers", "class_name": "Dense"}]) is None

    def test_registered_classes_of_the_caller_are_fine(self):
        @keras.saving.register_keras_serializable("callers")
        class Own(keras.layers.Layer):
            pass

        node = {"module": "callers.module", "class_name": "Own", "registered_name": "callers>Own", "config": {}}
        assert check_config(node) is None
        assert "callers.module" in check_config({**node, "registered_name": "callers>Other"})


def rewrite(path, replaced: dict[str, bytes]) -> None:
    """Replace members of a zip file."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (members | replaced).items():
            archive.writestr(name, content)


def change_config(path, old: str, new: str) -> None:
    with zipfile.ZipFile(path) as archive:
        text = archive.read("config.json").decode()
    assert old in text
    rewrite(path, {"config.json": text.replace(old, new).encode()})


def test_a_run_that_another_process_works_on_is_refused(tmp_path):
    """Two processes that resume one run would overwrite each other's checkpoints."""
    code = (
        "import sys; from keras_relu.runs import Run\n"
        "run = Run.create(sys.argv[1], config={}, stage='train', resume=True)\n"
        "print('ready', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "ready\n"
        with pytest.raises(RunBusyError, match="Another process"):
            Run.create(tmp_path / "run", config={}, stage="train", resume=True)
        other.communicate("")
    assert not Run.create(tmp_path / "run", config={}, stage="train", resume=True).finished
