"""The commands: what they print and write, and how they refuse bad input."""

import json
import subprocess
import sys

import numpy as np
import pytest

from keras_relu.cli import main
from keras_relu.decomposition.tables import read_table

DIGITS = ("--dataset", "digits", "--limit", 256)


@pytest.fixture
def files(trained, tmp_path, command):
    """Index files for k = 2 and 4 of the trained network, written by the command itself."""
    code, answer, _ = command("extract", trained, *DIGITS, "--top-k", "4,2", "--output", tmp_path / "indices.json")
    assert code == 0
    return tmp_path / "indices.json", answer


def test_extract(files, tmp_path):
    path, answer = files
    assert [entry["file"] for entry in answer["tables"]] == [str(tmp_path / f"indices_{k}.json") for k in (2, 4)]
    assert (answer["kind"], answer["rule"]) == ("decompose-extract", "frequency")
    for entry in answer["tables"]:
        table = read_table(entry["file"])
        assert table.rows == entry["indices"]
        assert table.facts["dataset"] == "digits"
        assert entry["mutual_information"] >= 0
    assert not path.exists()


def test_one_k_is_written_under_the_given_name(trained, tmp_path, command):
    code, _, _ = command("extract", trained, "--top-k", "3", "--rule", "weight", "--output", tmp_path / "one.json")
    assert code == 0
    assert read_table(tmp_path / "one.json").facts["rule"] == "weight"


def test_validate(trained, files, command):
    path, _ = files
    # The family's name stands for its files, and the data set is the one they were made with.
    code, answer, _ = command("validate", trained, "--indices", path)
    assert code == 0
    assert answer["total"] == 360
    assert answer["decomposed"]["top_k"] == 2
    assert [entry["top_k"] for entry in answer["tables"]] == [2, 4]
    for entry in (answer["original"], *answer["tables"]):
        assert sum(entry["per_class_correct"]) == entry["correct"]
    code, text, _ = command("validate", trained, "--indices", path, as_json=False)
    assert code == 0
    assert "multiplications" in text


def test_finetune(trained, files, tmp_path, command):
    path = tmp_path / "indices_4.json"
    settings = ("--lr", "0.003", "--epochs", 1, "--set", "batch_size=32", "--set", "augment=false", "--limit", 256)
    code, answer, _ = command("finetune", trained, "--indices", path, *settings, "--output", tmp_path / "tuned")
    assert code == 0
    result = json.loads((tmp_path / "tuned" / "result.json").read_text())
    assert result["stage"] == "decompose"
    assert result["parent"] == str(trained)
    assert (answer["correct"], answer["head_multiplications"]) == (result["correct"], 40)
    code, _, message = command("finetune", trained, "--indices", path, *settings, "--output", tmp_path / "tuned")
    assert code == 2
    assert "finished" in message
    code, _, message = command("finetune", trained, "--indices", files[0], "--output", tmp_path / "other")
    assert code == 2
    assert "takes one index file, received 2" in message


@pytest.mark.parametrize("noise", ["standard", "matched"])
def test_essential(trained, files, command, noise):
    code, answer, _ = command("essential", trained, "-i", files[0], "--noise", noise, "--repetitions", 2)
    assert code == 0
    assert [entry["top_k"] for entry in answer["tables"]] == [2, 4]
    assert set(answer["tables"][0]["groups"]) == {"none", "influential", "other"}
    code, text, _ = command("essential", trained, "-i", files[0], "--repetitions", 2, as_json=False)
    assert code == 0
    assert "noise at influential" in text


def test_mutual_info(files, published_file, command):
    code, answer, _ = command("mutual-info", published_file)
    assert code == 0
    (entry,) = answer["tables"]
    assert entry["mutual_information"] == pytest.approx(0.03453775959861226, abs=1e-12)
    assert (entry["filters"], entry["filters_from"]) == (64, "largest index")
    code, text, _ = command("mutual-info", published_file, "--filters", 128, as_json=False)
    assert code == 0
    assert "largest index" not in text
    code, answer, _ = command("mutual-info", files[0])
    assert [entry["filters_from"] for entry in answer["tables"]] == ["manifest"] * 2


def test_csg(tmp_path, command):
    settings = ("--epochs", 1, "--set", "batch_size=32", "--set", "augment=false", "--lr", 0.01)
    run = tmp_path / "run"
    code, trained, _ = command("train-csg", "--arch", "resnet20", *DIGITS, *settings, "--output", run)
    assert code == 0
    assert 0 < trained["gate_mean"] <= 1
    code, answer, _ = command("csg", run, "--top-k", 5)
    assert code == 0
    assert [row["order"] for row in answer["rows"]] == ["published", "corrected"]
    assert answer["standard_path"] is None
    measured = ("--dataset", "digits", "--repetitions", 2)
    code, answer, _ = command("csg", run, "--top-k", 5, *measured, "--output", tmp_path / "gates")
    assert code == 0
    assert answer["standard_path"]["correct"] == trained["correct"]
    assert read_table(tmp_path / "gates" / "csg_corrected_5.json").rows == answer["rows"][1]["indices"]
    code, text, _ = command("csg", run, "--top-k", 5, *measured, as_json=False)
    assert code == 0
    assert "smallest gates" in text
    assert "largest gates" in text


def test_selectivity(trained, command):
    code, answer, _ = command("selectivity", trained, *DIGITS)
    assert code == 0
    assert len(answer["selectivity"]) == len(answer["preferred_class"]) == 12
    assert all(0 <= value <= 1 for value in answer["selectivity"])
    code, text, _ = command("selectivity", trained, *DIGITS, "--layer", "first_relu", as_json=False)
    assert code == 0
    assert "6 filters of layer first_relu" in text


def test_report_of_saved_results(trained, files, tmp_path, command):
    saved = [tmp_path / f"{name}.json" for name in ("validate", "noise", "lists")]
    assert command("validate", trained, "-i", files[0], "--save", saved[0])[0] == 0
    assert command("essential", trained, "-i", files[0], "--repetitions", 2, "--save", saved[1])[0] == 0
    assert command("mutual-info", files[0], "--save", saved[2])[0] == 0
    page = tmp_path / "report.html"
    code, answer, _ = command("report", *saved, "--output", page, "--figures", tmp_path / "figures")
    assert code == 0
    assert answer["output"] == str(page)
    assert page.read_text().count("<figure") == len(list((tmp_path / "figures").glob("*.png"))) > 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("extract", "{run}", "--output", "x.json"), "give --dataset"),
        (("extract", "{run}", "--top-k", "many", "--output", "x.json"), "numbers separated by commas"),
        (("extract", "{run}", "--top-k", "0", "--output", "x.json"), "top_k is 0"),
        (("extract", "{run}", "--rule", "wait", "--dataset", "digits", "--output", "x.json"), "Did you mean 'weight'"),
        (("extract", "{absent}", "--output", "x.json"), "does not exist"),
        (("validate", "{run}", "--indices", "{absent}"), "does not exist"),
        (("validate", "{run}", "--indices", "{published}"), "give --dataset"),
        (("validate", "{run}", "--indices", "{published}", "--dataset", "digits"), "filter"),
        (("mutual-info", "{absent}"), "does not exist"),
        (("mutual-info", "{published}", "--filters", "10"), "malformed"),
        (("extract", "{run}", "--rule", "weight", "--augment", "--output", "x.json"), "have no effect"),
        (("essential", "{run}", "-i", "{published}", "--repetitions", "1"), "at least 2"),
        (("csg", "{absent}"), "does not exist"),
        (("report", "{published}"), "no result of `keras-relu decompose`"),
    ],
)
def test_bad_input_gets_one_sentence(trained, published_file, tmp_path, command, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (trained / "result.json").rename(tmp_path / "result.json")
    try:
        paths = {"run": trained, "absent": tmp_path / "absent", "published": published_file}
        code, _, said = command(*(part.format(**paths) for part in arguments))
    finally:
        (tmp_path / "result.json").rename(trained / "result.json")
    assert code == 2
    assert message in said
    assert "Traceback" not in said
    assert not (tmp_path / "x.json").exists()


def test_existing_index_files_are_kept(trained, tmp_path, command):
    target = tmp_path / "one.json"
    target.write_text("mine")
    arguments = ("extract", trained, "--top-k", "2", "--rule", "weight", "--output", target)
    code, _, message = command(*arguments)
    assert code == 2
    assert "--overwrite" in message
    assert target.read_text() == "mine"
    assert command(*arguments, "--overwrite")[0] == 0
    assert read_table(target).top_k == 2


def test_save_destroys_nothing_but_earlier_results(published_file, tmp_path, command):
    before = published_file.read_bytes()
    code, _, message = command("mutual-info", published_file, "--save", published_file)
    assert code == 2
    assert "no earlier result of `decompose`" in message
    assert published_file.read_bytes() == before
    (tmp_path / "notes.txt").write_text("mine")
    for taken in (tmp_path, tmp_path / "notes.txt"):
        assert command("mutual-info", published_file, "--save", taken)[0] == 2
    assert (tmp_path / "notes.txt").read_text() == "mine"
    for _ in range(2):
        assert command("mutual-info", published_file, "--save", tmp_path / "saved.json")[0] == 0


def test_directories_are_not_overwritten(trained, tmp_path, command):
    (tmp_path / "folder.json").mkdir()
    arguments = ("extract", trained, "--rule", "weight", "--top-k", 2, "--output", tmp_path / "folder.json")
    code, _, message = command(*arguments, "--overwrite")
    assert code == 2
    assert "is a directory" in message
    assert (tmp_path / "folder.json").is_dir()


def test_gates_are_written_once(tmp_path, command):
    np.savez(tmp_path / "gates.npz", csg=np.random.default_rng(0).random((3, 8)))
    arguments = ("csg", tmp_path, "--top-k", "2,3", "--output", tmp_path / "lists")
    assert command(*arguments)[0] == 0
    assert len(list((tmp_path / "lists").glob("csg_*_[23].json"))) == 4
    code, _, message = command(*arguments)
    assert code == 2
    assert "--overwrite" in message
    assert command(*arguments, "--overwrite")[0] == 0


def test_no_tensorflow_for_lists_and_argument_errors(published_file, tmp_path):
    code = """
import sys
from keras_relu.cli import main
codes = [
    main(["decompose", "mutual-info", sys.argv[1], "--json"]),
    main(["decompose", "extract", sys.argv[2], "--output", "x.json", "--rule", "frequencies"]),
    main(["decompose", "extract", sys.argv[2], "--output", "x.txt"]),
    main(["decompose", "essential", sys.argv[2], "-i", sys.argv[1], "--noise", "match"]),
]
assert codes == [0, 2, 2, 2], codes
assert "tensorflow" not in sys.modules
"""
    job = subprocess.run([sys.executable, "-c", code, published_file, tmp_path], capture_output=True, text=True)
    assert job.returncode == 0, job.stderr
    assert "Did you mean 'frequency'?" in job.stderr
    assert "must be named <name>.json" in job.stderr
    assert "Did you mean 'matched'?" in job.stderr


def test_help_does_not_load_tensorflow(capsys):
    assert main(["decompose", "--help"]) == 0
    text = capsys.readouterr().out
    for name in ("extract", "validate", "finetune", "essential", "mutual-info", "csg", "selectivity"):
        assert name in text
