"""Reading run directories: what is accepted, what is shown as unfinished, and the one sentence for each bad input."""

import json
import subprocess
import sys

import numpy as np
import pytest

from keras_relu.errors import UserError
from keras_relu.report import load_runs


class TestAccepted:
    def test_one_run_keeps_the_numbers_of_its_files(self, tmp_path, reduce_run):
        path = reduce_run(tmp_path / "run", budget=64)
        (run,) = load_runs(path)
        written = json.loads((path / "result.json").read_text())
        assert run.finished
        assert run.name == "run"
        assert {key: run.number(key) for key in ("accuracy", "relu_count", "total")} == {
            "accuracy": written["accuracy"],
            "relu_count": 64,
            "total": 10000,
        }
        assert run.change == pytest.approx(100 * (written["accuracy"] - written["baseline_accuracy"]))
        assert run.kept_fraction == pytest.approx(0.1)
        assert [site.kept for site in run.sites] == [site["kept"] for site in written["sites"]]
        assert sum(site.total for site in run.sites) == 640

    def test_a_sweep_gives_its_runs_in_natural_order(self, tmp_path, sweep):
        runs = load_runs([sweep(tmp_path / "sweep")])
        assert [run.name for run in runs[:3]] == ["identity-64", "identity-128", "identity-320"]
        assert len(runs) == 9

    def test_a_directory_of_sweeps_names_runs_apart(self, tmp_path, sweep):
        for name in ("a", "b"):
            sweep(tmp_path / name, budgets=(64,), replacements=("line",))
        assert [run.name for run in load_runs([tmp_path])] == ["a/line-64", "b/line-64"]

    def test_a_run_given_twice_is_read_once(self, tmp_path, sweep):
        root = sweep(tmp_path / "sweep", budgets=(64,))
        assert len(load_runs([root, root / "line-64"])) == 3

    def test_a_training_run_is_not_reduced_even_when_it_counts_its_relus(self, tmp_path, train_run):
        (run,) = load_runs([train_run(tmp_path / "base", relu_count=188416)])
        assert not run.reduced
        assert run.masks() == {}

    def test_an_unfinished_run_takes_its_settings_from_the_configuration(self, tmp_path, reduce_run):
        (run,) = load_runs([reduce_run(tmp_path / "run", finished=False)])
        assert not run.finished
        assert run.number("accuracy") is None
        assert run.setting("replacement") == "quadratic"
        assert len(run.metrics) > 0

    def test_a_run_that_has_only_begun(self, tmp_path, write_run):
        empty = write_run(tmp_path / "a", result=None, metrics="", config={"stage": "train"})
        bare = write_run(tmp_path / "b", result=None, metrics=None, config={"stage": "train"})
        assert [len(run.metrics) for run in load_runs([empty, bare])] == [0, 0]

    def test_a_row_cut_short_by_a_kill_is_kept(self, tmp_path, write_run):
        text = "phase,epoch,step,loss\nsearch,0,10,0.5\nsearch,0,20"
        (run,) = load_runs([write_run(tmp_path / "run", result=None, metrics=text, config={})])
        assert run.metrics["step"].tolist() == [10, 20]

    def test_infinite_losses_become_gaps(self, tmp_path, write_run):
        text = "phase,epoch,step,loss\nsearch,0,10,inf\nsearch,0,20,nan\nsearch,0,30,0.5\n"
        (run,) = load_runs([write_run(tmp_path / "run", result=None, metrics=text, config={})])
        assert run.metrics["loss"].notna().tolist() == [False, False, True]

    def test_settings_are_found_in_sections(self, tmp_path, write_run):
        path = write_run(tmp_path / "run", result=None, metrics=None, config={"model": {"arch": "resnet20"}})
        assert load_runs(path)[0].setting("arch") == "resnet20"

    def test_masks_come_in_the_order_of_the_sites(self, tmp_path, reduce_run):
        path = reduce_run(tmp_path / "run")
        masks = dict(np.load(path / "masks.npz"))
        np.savez(path / "masks.npz", **dict(reversed(masks.items())))
        (run,) = load_runs(path)
        assert list(run.masks()) == [site.name for site in run.sites]
        assert sum(int(mask.sum()) for mask in run.masks().values()) == run.number("relu_count")

    def test_tensorflow_is_not_imported(self):
        code = "import sys, keras_relu.report; sys.exit('tensorflow' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class TestRefused:
    def test_nothing_given(self):
        with pytest.raises(UserError, match="No run was given"):
            load_runs([])

    def test_a_missing_path(self, tmp_path):
        with pytest.raises(UserError, match=r"gone.* does not exist"):
            load_runs([tmp_path / "gone"])

    def test_a_file(self, tmp_path):
        (tmp_path / "model.keras").write_text("")
        with pytest.raises(UserError, match=r"model\.keras.* is a file"):
            load_runs([tmp_path / "model.keras"])

    def test_a_directory_without_runs(self, tmp_path):
        (tmp_path / "pictures" / "holiday").mkdir(parents=True)
        with pytest.raises(UserError, match=r"pictures.* is not a run and holds none.*config\.yaml"):
            load_runs([tmp_path / "pictures"])

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{", "not valid JSON"),
            ("", "not valid JSON"),
            ("\xff", "not valid JSON"),
            ("[1]", "one JSON object, got list"),
            ('{"accuracy": "high"}', 'accuracy = "high"; a finite number'),
            ('{"accuracy": NaN}', "accuracy = NaN; a finite number"),
            ('{"accuracy": 91.7}', r"accuracy = 91\.7; a fraction"),
            ('{"relu_count": -1}', "relu_count = -1; a number of at least 0"),
            ('{"sites": [{"name": "a"}]}', "damaged list of sites"),
            ('{"sites": [{"name": "a", "total": 4, "kept": 5}]}', "a keeps 5 of 4"),
            ('{"sites": 3}', "damaged list of sites"),
        ],
    )
    def test_a_damaged_result(self, tmp_path, reduce_run, text, message):
        path = reduce_run(tmp_path / "run")
        (path / "result.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(UserError, match=message) as caught:
            load_runs([path])
        assert str(path / "result.json") in str(caught.value)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (b"", "damaged"),
            (b"a,b\n1,2\n", "none of the columns"),
            (b"\xff\xfe\x00", "damaged"),
            (b"epoch,loss\n0,high\n", "loss = 'high' in line 2"),
            (b'epoch,loss\n0,"1\n', "damaged"),
        ],
    )
    def test_damaged_metrics_of_a_finished_run(self, tmp_path, reduce_run, text, message):
        path = reduce_run(tmp_path / "run")
        (path / "metrics.csv").write_bytes(text)
        with pytest.raises(UserError, match=message) as caught:
            load_runs([path])
        assert str(path / "metrics.csv") in str(caught.value)

    def test_missing_metrics_of_a_finished_run(self, tmp_path, reduce_run):
        path = reduce_run(tmp_path / "run")
        (path / "metrics.csv").unlink()
        with pytest.raises(UserError, match=r"has no metrics file .*metrics\.csv"):
            load_runs([path])

    @pytest.mark.parametrize("text", ["a: [", "- a", "\x00"])
    def test_a_damaged_configuration(self, tmp_path, reduce_run, text):
        path = reduce_run(tmp_path / "run")
        (path / "config.yaml").write_text(text)
        with pytest.raises(UserError, match=r"config\.yaml"):
            load_runs([path])

    @pytest.mark.parametrize("content", [b"not a zip", b""])
    def test_damaged_masks(self, tmp_path, reduce_run, content):
        path = reduce_run(tmp_path / "run")
        (path / "masks.npz").write_bytes(content)
        with pytest.raises(UserError, match=r"masks\.npz.* cannot be read"):
            load_runs([path])[0].masks()

    def test_pickled_masks(self, tmp_path, reduce_run):
        path = reduce_run(tmp_path / "run")
        np.savez(path / "masks.npz", site=np.array([{}], dtype=object))
        with pytest.raises(UserError, match=r"masks\.npz.* cannot be read"):
            load_runs([path])[0].masks()
