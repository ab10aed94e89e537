"""The commands layers, compare and stitch: what they print, write and refuse."""

import contextlib
import io
import json

import pytest
import yaml

from keras_relu.cli import main

SMALL = ("--dataset", "digits", "--limit", "200", "--batch-size", "50")


def call(*arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return code, out.getvalue(), err.getvalue()


def answer(*arguments):
    code, out, err = call(*arguments, "--json")
    assert code == 0, err
    return json.loads(out)


@pytest.fixture(scope="module")
def run(saved, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "stitched"
    arguments = (
        "stitch",
        "train",
        *saved,
        "bn1",
        "bn1",
        *SMALL,
        "--init",
        "ps_inv",
        "--epochs",
        "1",
        "--output",
        folder,
    )
    return folder, answer(*arguments, "--target", "soft_2", "--set", "cka_images=60", "--direct", "mse")


def test_layers_lists_cuts_and_reasons(saved):
    found = answer("layers", saved[0])
    assert found["valid_cuts"] == 8
    assert found["layers"][0] == {
        "name": "image", "original_name": None, "type": "InputLayer", "shape": [8, 8, 1], "valid_cut": False,
        "reason": "it is the input itself", "bypass": None,
    }  # fmt: skip
    named = {layer["name"]: layer for layer in answer("layers", "resnet20_w1")["layers"]}
    assert named["stage1_block1_add"]["original_name"] == "layer1.0.add"
    assert named["stage1_block1_bn1"]["bypass"] == ["stem_relu", "stage1_block1_add"]
    code, out, _ = call("layers", "tiny10", "--valid")
    assert code == 0
    assert "26 valid cuts" in out


def test_stitch_train_writes_a_run_and_a_report(run):
    folder, found = run
    files = {path.name for path in folder.iterdir()}
    assert {"config.yaml", "metrics.csv", "result.json", "model.keras", "matrices.npz", "history.npz"} <= files
    assert {"report.html", "report.pdf"} <= files
    assert "history" not in files
    result = json.loads((folder / "result.json").read_text())
    assert result["accuracy"] == found["accuracy"]
    assert result["epochs"] == {"stitch": 1, "direct": 10}
    assert result["command"].startswith("keras-relu")
    assert result["parameters"]["target"] == "soft_2"
    page = (folder / "report.html").read_text()
    for words in (
        "Both readings of the map",
        "Right and wrong together",
        "direct matching",
        "Learning curves",
        "soft_2",
    ):
        assert words in page
    assert "http" not in page.split("</style>")[1].replace("http://www.w3.org", "")
    assert (folder / "report.pdf").read_bytes().startswith(b"%PDF")


def test_stitch_evaluate_gives_the_accuracy_of_the_run(run):
    folder, found = run
    for state, name in (("after", "stitched"), ("least_squares", "least_squares"), ("before", "before")):
        assert answer("stitch", "evaluate", folder, "--state", state)["correct"] == found["readings"][name]["correct"]
    code, out, _ = call("stitch", "evaluate", folder, "--split", "validation")
    assert code == 0
    assert "validation images right" in out


def test_the_stitched_network_is_a_model_for_every_command(run):
    folder, found = run
    assert answer("evaluate", folder, "--dataset", "digits")["correct"] == found["correct"]
    assert answer("count", folder)["relu_count"] == 8 * 8 * 6 + 4 * 4 * 8
    assert {"back_bn2", "stitch"} <= {layer["name"] for layer in answer("layers", folder, "--valid")["layers"]}


def test_compare_prints_and_writes(saved, tmp_path):
    arguments = ("compare", *saved, "--dataset", "digits", "--layers", "all", "--measures", "cka,ls,corr,l2,cca")
    arguments += ("--images", "150", "--null", "permutation", "--permutations", "2", "--bootstrap", "5")
    found = answer(*arguments, "--output", tmp_path / "compared")
    assert found["tables"]["cka"]["null_mean"][0][0] > 0
    assert found["tables"]["cka"]["error"][0][0] > 0
    assert found["parting"]["cka"]["layer"] in found["layers_a"]
    assert json.loads((tmp_path / "compared" / "compare.json").read_text())["layers_b"] == found["layers_b"]
    assert (tmp_path / "compared" / "compare.csv").read_text().startswith("layer_a,layer_b,measure,value")
    page = (tmp_path / "compared" / "report.html").read_text()
    assert "Layers against layers" in page
    assert "Without a value" in page
    assert (tmp_path / "compared" / "report.pdf").read_bytes().startswith(b"%PDF")
    code, out, _ = call(*arguments)
    assert code == 0
    assert "The networks part at" in out
    assert call(*arguments, "--output", tmp_path / "compared")[0] == 2


def test_stitch_match_prints_and_writes(saved, tmp_path):
    arguments = ("stitch", "match", *saved, "--dataset", "digits", "--layers", "bn*", "--ranks", "2", "--limit", "200")
    found = answer(*arguments, "--cka-images", "40", "--output", tmp_path / "matched")
    assert {row["map"] for row in found["rows"]} == {"least_squares", "orthogonal", "rank_2"}
    assert found["fit"]["split"] == "train"
    assert (tmp_path / "matched" / "match.csv").read_text().startswith("front_layer,end_layer,map,correct")
    page = (tmp_path / "matched" / "report.html").read_text()
    assert "Accuracy of the stitched network" in page
    assert (tmp_path / "matched" / "report.pdf").read_bytes().startswith(b"%PDF")
    assert call(*arguments, "--output", tmp_path / "matched")[0] == 2


def test_a_grid_lists_runs_and_goes_on(saved, tmp_path):
    config = tmp_path / "grid.yaml"
    grid = {
        "models": {"a": str(saved[0]), "b": str(saved[1])},
        "layers": ["bn1"],
        "inits": ["ps_inv"],
        "seeds": [3],
        "settings": {"epochs": 0, "fit_images": 100, "cka_images": 40},
    }
    config.write_text(yaml.safe_dump(grid))
    base = ("stitch", "grid", config, "--dataset", "digits", "--output", tmp_path / "grid")
    listed = answer(*base, "--list")
    assert len(listed["cells"]) == 2
    assert "--array=0-1" in listed["slurm"]
    first = answer(*base, "--cell", "1")
    assert [cell["run"] for cell in first["cells"]] == [listed["cells"][1]]
    assert "pass --resume" in call(*base)[2]
    assert len(answer(*base, "--resume")["cells"]) == 2
    assert (tmp_path / "grid" / "report.html").exists()
    cell = tmp_path / "grid" / listed["cells"][0]
    assert (cell / "report.pdf").exists()
    # The seed of a cell is its map's: the validation images stay those that the grid was measured on.
    again = answer("stitch", "evaluate", cell, "--split", "validation")
    assert again["loss"] == pytest.approx(json.loads((cell / "result.json").read_text())["val_loss"], rel=1e-6)
    code, _, err = call(*base, "--cell", "2")
    assert code == 2
    assert "the grid has 2 cells" in err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("layers", "no_such_net"), "neither a model's path nor an architecture"),
        (("compare", "A", "no.keras", "--dataset", "digits"), "does not exist"),
        (("compare", "A", "B", "--dataset", "digits", "--measures", "ckaa"), "Did you mean 'cka'"),
        (("compare", "A", "B", "--dataset", "digits", "--layers", "nope"), "Unknown layer"),
        (("compare", "A", "B", "--dataset", "digits", "--null", "shuffle"), "Unknown null"),
        (("compare", "A", "B", "--dataset", "digits", "--split", "tests"), "Unknown split"),
        (("stitch", "train", "A", "B", "bn1", "bn1", *SMALL, "--init", "half", "-o", "OUT"), "init"),
        (("stitch", "train", "A", "B", "relu1", "relu2", *SMALL, "-o", "OUT"), "--resize bilinear"),
        (("stitch", "train", "A", "B", "bn7", "bn1", *SMALL, "-o", "OUT"), "Did you mean 'bn"),
        (("stitch", "match", "A", "B", "--dataset", "digits", "--maps", "best"), "direct map"),
        (("stitch", "match", "A", "B", "--dataset", "digits", "--ranks", "a"), "--ranks takes whole numbers"),
        (("stitch", "match", "A", "B", "--dataset", "digits", "--fit-split", "all"), "Unknown fit split"),
        (("stitch", "match", "A", "no.keras", "--dataset", "digits"), "does not exist"),
        (("stitch", "evaluate", "A"), "is no run directory"),
        (("stitch", "grid", "A.yaml", "--dataset", "digits", "-o", "OUT"), "does not exist"),
    ],
)
def test_wrong_input_gets_one_sentence_and_leaves_nothing_finished(saved, tmp_path, arguments, sentence):
    places = {"A": saved[0], "B": saved[1], "OUT": tmp_path / "out"}
    code, _, err = call(*(places.get(argument, argument) for argument in arguments))
    assert code == 2, err
    assert sentence in err
    assert "Traceback" not in err
    assert not (tmp_path / "out" / "result.json").exists()


def test_networks_of_different_normalization_need_a_word(saved, tmp_path):
    for name, normalization in zip("ab", ("digits", "signed"), strict=True):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "model.keras").write_bytes(saved["ab".index(name)].read_bytes())
        (folder / "result.json").write_text(json.dumps({"normalization": normalization}))
    arguments = ("compare", tmp_path / "a", tmp_path / "b", "--dataset", "digits", "--images", "40")
    code, _, err = call(*arguments)
    assert code == 2
    assert "different normalizations" in err
    assert answer(*arguments, "--normalization", "digits")["normalization"] == "digits"
