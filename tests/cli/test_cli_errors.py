"""Wrong input: exit code 2, one sentence that names it, no traceback, and nothing left behind."""

from __future__ import annotations

import json
import shutil
import zipfile

import pytest

from keras_relu.errors import Interrupted

TRAIN = ("train", "--arch", "resnet20", "--dataset", "digits")
REDUCE = ("--budget", "0.1", "--dataset", "digits")


@pytest.fixture
def out(tmp_path):
    """An output path; whatever is refused must not leave anything there."""
    path = tmp_path / "out"
    yield path
    assert not path.exists()


def commands_on(model, out):
    """Every command that takes a model, on `model`."""
    return [
        ("count", model),
        ("evaluate", model, "--dataset", "digits"),
        ("export", model, "--output", out),
        ("reduce", model, *REDUCE, "--output", out),
        ("sweep", model, "--dataset", "digits", "--output", out),
    ]


class TestModels:
    def test_a_missing_one(self, refused, out):
        for command in commands_on("nowhere/model.keras", out):
            assert refused(*command) == "The model 'nowhere/model.keras' does not exist."
        assert "The teacher 'x.keras' does not exist" in refused(*TRAIN, "--teacher", "x.keras", "--output", out)

    @pytest.mark.parametrize("damage", ["noise", "empty", "cut", "emptied"])
    def test_a_damaged_one(self, refused, out, small, tmp_path, damage):
        path = tmp_path / "damaged.keras"
        content = small.read_bytes()
        path.write_bytes(
            {"noise": b"noise" * 99, "empty": b"", "cut": content[: len(content) // 2], "emptied": content}[damage]
        )
        if damage == "emptied":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("config.json", "{}")
        for command in commands_on(path, out):
            assert f"The model '{path}' is corrupt" in refused(*command)

    def test_a_folder_that_is_none(self, refused, out, tmp_path):
        for command in commands_on(tmp_path, out):
            assert "is neither a run nor a SavedModel" in refused(*command)

    def test_a_file_that_is_none(self, refused, out, tmp_path):
        (tmp_path / "notes.txt").write_text("x")
        for command in commands_on(tmp_path / "notes.txt", out):
            assert "notes.txt' is no model file; expected a run directory, a .keras file" in refused(*command)

    def test_a_run_that_is_not_finished(self, refused, out, tmp_path):
        (tmp_path / "config.yaml").write_text("stage: train\nparent: null\nconfig: {}\n")
        for command in commands_on(tmp_path, out):
            assert "has no model.keras yet; finish it first (--resume)" in refused(*command)

    def test_an_h5_file_needs_trust(self, call, refused, out, make_network, tmp_path):
        path = tmp_path / "old.h5"
        make_network().save(path)
        for command in commands_on(path, out):
            assert "which can run code of its author" in refused(*command)
            assert "(--trusted)" in refused(*command)
        assert call("count", path, "--trusted", "--json").json["relu_count"] == 136

    @pytest.mark.parametrize(
        ("classes", "shape", "message"),
        [
            (100, (8, 8, 1), "has 100 outputs, the dataset has 10 classes"),
            (10, (32, 32, 3), "takes images of shape [32, 32, 3], the dataset has images of shape [8, 8, 1]"),
        ],
    )
    def test_one_for_other_data(self, refused, out, make_network, tmp_path, classes, shape, message):
        path = tmp_path / "other.keras"
        make_network(classes, shape).save(path)
        quick = ("--limit", "60", "--batch-size", "20", "--search-epochs", "1", "--finetune-epochs", "0")
        sweep = ("sweep", path, "--dataset", "digits", "--budgets", "0.5", "--replacements", "line")
        assert message in refused("evaluate", path, "--dataset", "digits")
        assert message in refused(*sweep, *quick, "--output", tmp_path / "swept")
        assert message in refused("reduce", path, *REDUCE, *quick, "--output", out)

    def test_a_teacher_for_other_data(self, refused, out, make_network, tmp_path):
        make_network(7).save(tmp_path / "teacher.keras")
        message = refused(*TRAIN, "--teacher", tmp_path / "teacher.keras", "--epochs", "1", "--output", out)
        assert "The teacher has 7 outputs, the dataset has 10 classes" in message


class TestNames:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("evaluate", "{small}", "--dataset", "digts"), "Unknown dataset 'digts'. Did you mean 'digits'?"),
            (("evaluate", "{small}", "--dataset", "digits", "--split", "tset"), "Unknown split 'tset'"),
            (
                ("evaluate", "{small}", "--dataset", "digits", "--normalization", "cifar01"),
                "Unknown normalization 'cifar01'. Did you mean 'cifar10'?",
            ),
            (("count", "{small}", "--convention", "rleu"), "Unknown counting convention 'rleu'. Did you mean 'relu'?"),
            (("export", "{small}", "--format", "savdmodel", "--output", "{out}"), "Did you mean 'savedmodel'?"),
            (("export", "{small}", "--normalization", "x", "--output", "{out}"), "Unknown normalization 'x'"),
            (("models", "show", "resnet_20"), "Unknown model 'resnet_20'. Did you mean 'resnet20'?"),
            (("models", "list", "vgg*"), "No architecture matches 'vgg*'"),
            (
                ("train", "--arch", "resnt20", "--dataset", "digits", "--output", "{out}"),
                "Unknown model 'resnt20'. Did you mean 'resnet20'?",
            ),
            ((*TRAIN, "--strategy", "miror", "--output", "{out}"), "Did you mean 'mirrored'?"),
            (("reduce", "{small}", *REDUCE, "--preset", "defualt", "--output", "{out}"), "Did you mean 'default'?"),
            (
                ("reduce", "{small}", *REDUCE, "--replacement", "quadratics", "--output", "{out}"),
                "Did you mean 'quadratic'?",
            ),
            (("reduce", "{small}", *REDUCE, "--granularity", "chanel", "--output", "{out}"), "Did you mean 'channel'?"),
        ],
    )
    def test_an_unknown_one_is_answered_with_the_nearest(self, refused, out, small, arguments, message):
        filled = [argument.format(small=small, out=out) for argument in arguments]
        assert message in refused(*filled)


class TestSettings:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            (("--set", "epochs"), "--set needs key=value, received 'epochs'"),
            (("--set", "=3"), "--set needs key=value, received '=3'"),
            (("--set", "epoch=3"), "Unknown key in TrainConfig 'epoch'. Did you mean 'epochs'?"),
            (("--set", "epochs=-3"), "epochs: Input should be greater than or equal to 0, received -3"),
            (("--set", "optimizer=sdg"), "Did you mean 'sgd'?"),
            (("--set", "schedule=cosin"), "Did you mean 'cosine'?"),
            (("--batch-size", "0"), "batch_size: Input should be greater than or equal to 1, received 0"),
            (("--lr", "nan"), "learning_rate: Input should be a finite number, received nan"),
            (("--lr", "-1"), "learning_rate: Input should be greater than 0, received -1.0"),
            (("--seed", "-1"), "seed"),
            (("--limit", "0"), "limit is 0; allowed is 1 to the number of training images"),
            (("--limit", "99999"), "limit is 99999; allowed is 1 to 1293"),
            (("--limit", "20", "--batch-size", "50"), "fewer than one batch of 50"),
            (("--validation-fraction", "1.5"), "validation_fraction is 1.5; allowed is 0 up to, not including, 1"),
            (("--config", "missing.yaml"), "The configuration 'missing.yaml' does not exist"),
            (("--set", "keep=best", "--validation-fraction", "0"), "keep='best' needs a validation split"),
        ],
    )
    def test_of_train(self, refused, out, settings, message):
        assert message in refused(*TRAIN, "--epochs", "1", "--output", out, *settings)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            (("--budget", "137"), "The budget 137 is out of range: the network has 136 ReLUs, so allowed is 0 to 136."),
            (("--budget", "-5"), "The budget -5 is out of range"),
            (("--budget", "nan"), "The budget 'nan' is not finite"),
            (("--budget", "some"), "The budget 'some' is not a number"),
            (("--budget", "1.5"), "neither a whole number of ReLUs nor a fraction in (0, 1]"),
            (("--set", "search.epoch=3"), "Unknown key in search 'epoch'. Did you mean 'epochs'?"),
            (("--set", "search=3"), "search: "),
            (("--search-epochs", "-1"), "search.epochs: Input should be greater than or equal to 0, received -1"),
            (("--set", "search.method=penalty"), "penalty"),
            (("--set", "replacement_options.scale=2"), "scale"),
            (("--batch-size", "5000"), "fewer than one batch of 5000"),
        ],
    )
    def test_of_reduce(self, refused, out, small, settings, message):
        assert message in refused("reduce", small, *REDUCE, "--output", out, *settings)

    def test_a_file_of_settings(self, refused, out, small, tmp_path):
        (tmp_path / "a.yaml").write_text("search:\n  epoch: 3\n")
        message = refused("reduce", small, *REDUCE, "--config", tmp_path / "a.yaml", "--output", out)
        assert "Unknown key in search 'epoch'. Did you mean 'epochs'?" in message
        (tmp_path / "a.yaml").write_text("search: [\n")
        assert "a.yaml' is not valid YAML" in refused(
            "reduce", small, *REDUCE, "--config", tmp_path / "a.yaml", "--output", out
        )

    @pytest.mark.parametrize("value", ["-1", "x", "1.5", "true"])
    def test_a_seed_in_a_file(self, refused, out, small, tmp_path, value):
        (tmp_path / "s.yaml").write_text(f"seed: {value}\n")
        arguments = ("--config", tmp_path / "s.yaml", "--output", out)
        assert "seed: a whole number from 0 is needed" in refused("reduce", small, *REDUCE, *arguments)
        assert "seed: a whole number from 0 is needed" in refused(*TRAIN, *arguments)

    def test_of_evaluate(self, refused, small):
        assert "batch_size is 0" in refused("evaluate", small, "--dataset", "digits", "--batch-size", "0")
        message = refused(
            "evaluate", small, "--dataset", "digits", "--split", "validation", "--validation-fraction", "0"
        )
        assert "validation split is empty" in message


class TestFolders:
    def test_a_missing_folder_of_data(self, refused, out, small):
        assert "The data folder 'nowhere' does not exist" in refused(
            "evaluate", small, "--dataset", "cifar10", "--data-dir", "nowhere"
        )
        message = refused(
            "train", "--arch", "resnet20", "--dataset", "cifar10", "--data-dir", "nowhere", "--output", out
        )
        assert "The data folder 'nowhere' does not exist" in message

    def test_a_folder_without_the_data(self, refused, small, tmp_path):
        message = refused("evaluate", small, "--dataset", "tiny_imagenet", "--data-dir", tmp_path)
        assert f"No tiny_imagenet in {tmp_path}; looked for " in message

    def test_an_output_that_exists(self, refused, small, tmp_path):
        (tmp_path / "mine.txt").write_text("precious")
        for command in (
            (*TRAIN, "--epochs", "1"),
            ("reduce", small, *REDUCE),
            ("sweep", small, "--dataset", "digits"),
            ("export", small),
            ("demo",),
        ):
            assert f"'{tmp_path}' exists" in refused(*command, "--output", tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]

    def test_reports_of_nothing(self, refused, tmp_path):
        assert "nowhere' does not exist" in refused("report", "nowhere", "--output", tmp_path / "r.html")
        (tmp_path / "empty").mkdir()
        assert "empty" in refused("report", tmp_path / "empty", "--output", tmp_path / "r.html")
        assert not (tmp_path / "r.html").exists()


class TestUnfinishedRuns:
    @pytest.fixture
    def stopped(self, call, monkeypatch, small, tmp_path):
        """The command of a reduction that a signal has stopped at once."""
        from keras_relu import replacement

        def stop(*arguments, **options):
            raise Interrupted("Stopped by SIGTERM")

        monkeypatch.setattr(replacement, "reduce", stop)
        command = ("reduce", small, *REDUCE, "--limit", "60", "--output", tmp_path / "run")
        assert call(*command) == (75, "", "keras-relu: Stopped by SIGTERM\n")
        return command

    def test_going_on_has_to_be_said(self, refused, stopped):
        assert "exists and is unfinished; continue it with --resume or choose another directory" in refused(*stopped)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (("--set", "search.epochs=3"), "'search.epochs' was 6, now it is 3"),
            (("--budget", "0.2"), "'budget' was '0.1', now it is '0.2'"),
            (("--replacement", "line"), "'replacement' was 'quadratic', now it is 'line'"),
            (("--limit", "70"), "'limit' was 60, now it is 70"),
            (("--seed", "4"), "'seed' was 0, now it is 4"),
            (("--normalization", "signed"), "'normalization' was 'digits', now it is 'signed'"),
        ],
    )
    def test_with_another_configuration_it_names_the_key(self, refused, stopped, changes, message):
        text = refused(*stopped, *changes, "--resume")
        assert "was started with another configuration" in text
        assert message in text

    def test_with_another_model_it_names_the_parent(self, refused, stopped, small, tmp_path):
        shutil.copy(small, tmp_path / "other.keras")
        assert "'parent' was" in refused("reduce", tmp_path / "other.keras", *stopped[2:], "--resume")

    def test_a_damaged_record_is_named(self, refused, stopped, tmp_path):
        (tmp_path / "run" / "config.yaml").write_text("[")
        assert "config.yaml' is not valid YAML" in refused(*stopped, "--resume")


def test_a_damaged_record_of_the_model_is_named(refused, small, tmp_path):
    shutil.copy(small, tmp_path / "model.keras")
    (tmp_path / "result.json").write_text(json.dumps({"normalization": "digits"})[:-3])
    assert "result.json' is not valid JSON" in refused("evaluate", tmp_path, "--dataset", "digits")
