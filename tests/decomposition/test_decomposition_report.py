"""The report: every figure drawn wide and narrow from saved results, and bad input refused."""

import json
import subprocess
import sys

import numpy as np
import pytest

from keras_relu.decomposition import essential
from keras_relu.decomposition.comparison import compare_gates, describe_table
from keras_relu.decomposition.tables import FilterTable
from keras_relu.errors import UserError
from keras_relu.report import decomposition_figures as figures
from keras_relu.report import drawing
from keras_relu.report.decomposition import build_report, load_results

NAMES = ["airplane", "a <script> cat", "truck"]
ROWS = [[0, 1], [2, 3], [4, 1]]


def entry(k, correct, rule="frequency", classes=3):
    return {
        "file": None,
        "rule": rule,
        "top_k": k,
        "correct": correct * classes,
        "accuracy": correct / 100,
        "loss": 0.5,
        "per_class_correct": [correct] * classes,
        "parameters": classes * (k + 1),
        "multiplications": classes * k,
        "agreement": 0.9,
    }


def validation(classes=3):
    names = (NAMES + [f"class {n}" for n in range(classes)])[:classes]
    return {
        "kind": "decompose-validate",
        "model": "tiny",
        "dataset": "digits",
        "split": "test",
        "class_names": names,
        "total": 100 * classes,
        "per_class_total": [100] * classes,
        "original": entry(8, 90, classes=classes),
        "tables": [entry(2, 80, classes=classes), entry(4, 85, classes=classes), entry(2, 82, "weight", classes)],
    }


def noise():
    generator = np.random.default_rng(0)
    labels = np.arange(90) % 3
    sample = (generator.random((90, 8)).astype(np.float32), labels, generator.random((8, 3)), np.zeros(3))
    measured = essential(*sample, ROWS, repetitions=2)
    return {"kind": "decompose-essential", "class_names": NAMES, "tables": [{**entry(2, 80), **measured}]}


def lists():
    table = FilterTable(ROWS, {"filters": 8, "rule": "weight", "top_k": 2})
    return {"kind": "decompose-mutual-info", "tables": [describe_table(table)]}


def gates():
    return {"kind": "decompose-csg", **compare_gates(np.random.default_rng(0).random((3, 8)), top_k=(2,))}


def selectivities():
    values = {"selectivity": [0.5, 0.1], "mean": 0.3, "median": 0.3}
    return {"kind": "decompose-selectivity", "layer": "pool", **values}


@pytest.fixture
def saved(tmp_path):
    made = {"validate": validation(), "noise": noise(), "lists": lists(), "csg": gates(), "filters": selectivities()}
    for name, result in made.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(result))
    run = tmp_path / "tuned"
    run.mkdir()
    facts = {
        "stage": "decompose",
        "top_k": 2,
        "rule": "frequency",
        "correct": 270,
        "total": 300,
        "accuracy": 0.9,
        "loss": 0.2,
        "dataset": "digits",
        "head_parameters": 9,
        "head_multiplications": 6,
    }
    (run / "result.json").write_text(json.dumps(facts))
    return [*(tmp_path / f"{name}.json" for name in made), run]


def test_one_page_with_every_figure(saved, tmp_path):
    page = build_report(saved, tmp_path / "report.html", figures_dir=tmp_path / "figures")
    text = page.read_text()
    written = sorted(path.stem for path in (tmp_path / "figures").glob("*.svg"))
    assert {"classes-1", "curve-1", "filters-1", "information-1", "noise-1", "noise-classes-1"} <= set(written)
    assert text.count("<figure") == len(written)
    assert "tuned: frequency, k = 2, fine-tuned" in text
    assert "a &lt;script&gt; cat" in text
    assert "<script" not in text
    assert text.count('class="figure narrow"') == text.count('class="figure wide"') == len(written)


def test_many_classes_are_drawn_without_names(tmp_path):
    result = validation(60)
    for made in (*figures.class_drawings(result, "classes"), *figures.curve_drawings([result])):
        for narrow in (False, True):
            assert made.draw(narrow).axes
    rows = [[n % 8, (n + 1) % 8] for n in range(60)]
    described = describe_table(FilterTable(rows, {"filters": 8, "rule": None}))
    for make in (figures.filter_drawing, figures.information_drawing):
        for narrow in (False, True):
            assert (
                not make(described, {}, "many").draw(narrow).axes[0].get_yticklabels()[0].get_text().startswith("class")
            )


def test_labels_say_where_filters_come_from():
    assert figures.table_label({"rule": "weight", "top_k": 5, "file": "x.json"}) == "weight, k = 5"
    assert figures.table_label({"rule": None, "top_k": 0.5, "file": "a/ours.json"}) == "ours, k = 0.5"
    assert figures.table_label({"rule": None, "top_k": 5, "file": None}) == "filters, k = 5"


def test_every_drawing_says_its_numbers_in_words(saved, tmp_path):
    build_report(saved, tmp_path / "report.html")
    (curve,) = figures.curve_drawings([validation()])
    assert "80.00 % at 2" in curve.alt
    assert drawing.inline(curve).count("<svg") == 2


def test_many_tables_are_drawn_k_by_k(tmp_path):
    result = validation()
    result["tables"] += [entry(2, 70, "response-weight"), entry(4, 71, "response-weight"), entry(2, 60, "random")]
    drawings = figures.class_drawings(result, "classes")
    assert [item.slug for item in drawings] == ["classes-1", "classes-2"]
    assert "random, k = 2" in drawings[0].alt
    assert "k = 4" not in drawings[0].alt
    assert [len(item.draw(False).axes[0].containers) for item in drawings] == [5, 3]


def test_fine_tuned_runs_are_points_of_the_curve_they_belong_to():
    run = {"name": "tuned", "dataset": "digits", "head_multiplications": 6, "accuracy": 0.9}
    (curve,) = figures.curve_drawings([validation()], [run, {**run, "name": "other", "arch": "resnet20"}])
    assert "tuned, fine-tuned: 90.00 % at 2" in curve.alt
    assert "other" not in curve.alt


def test_lists_borrow_the_names_of_the_classes(saved, tmp_path):
    build_report([saved[0], saved[2]], tmp_path / "report.html", figures_dir=tmp_path / "figures")
    assert "airplane" in (tmp_path / "figures" / "filters-1.svg").read_text()


@pytest.mark.parametrize("kind", ["validate", "essential", "extract", "csg", "selectivity"])
def test_damaged_results_are_refused(tmp_path, kind):
    path = tmp_path / "damaged.json"
    path.write_text(json.dumps({"kind": f"decompose-{kind}"}))
    with pytest.raises(UserError, match=r"damaged\.json' is damaged: it lacks"):
        load_results([path])


@pytest.mark.parametrize(
    ("tables", "message"), [([], "no list of entries"), ({"0": 1}, "no list of entries"), ([1], "it lacks top_k")]
)
def test_damaged_entries_are_refused(tmp_path, tables, message):
    (tmp_path / "damaged.json").write_text(json.dumps({**validation(), "tables": tables}))
    with pytest.raises(UserError, match=message):
        load_results([tmp_path / "damaged.json"])


@pytest.mark.parametrize("content", ["[]", "{}", '{"kind": "decompose-else"}', '{"0": [1]}'])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "other.json").write_text(content)
    with pytest.raises(UserError, match="write one with --save"):
        load_results([tmp_path / "other.json"])


def test_refusals(saved, tmp_path):
    with pytest.raises(UserError, match="at least one result"):
        load_results([])
    with pytest.raises(UserError, match="does not exist"):
        load_results([tmp_path / "absent.json"])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "result.json").write_text('{"stage": "train"}')
    with pytest.raises(UserError, match="not a fine-tuning"):
        load_results([tmp_path / "run"])
    with pytest.raises(UserError, match="is a directory"):
        build_report(saved, tmp_path)
    with pytest.raises(UserError, match="would replace the result"):
        build_report(saved, saved[0])
    with pytest.raises(UserError, match="is a file"):
        build_report(saved, tmp_path / "report.html", figures_dir=saved[0])
    assert not (tmp_path / "report.html").exists()


def test_reports_need_no_tensorflow():
    code = "import sys, keras_relu.report.decomposition; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
