"""The figures and pages of similarity without any network: hostile names, empty cells, long tables, both formats."""

import numpy as np
import pandas as pd
import pytest

from keras_relu.errors import UserError
from keras_relu.report import drawing, similarity, similarity_pages
from keras_relu.report.similarity_figures import HeatMap, Line, heat_map_drawing, line_drawing, matrices_drawing
from keras_relu.stitching import Comparison, Table
from keras_relu.stitching.grid import GRID_COLUMNS


def comparison(layers=4):
    names = [f"stage{i}_block1_relu1" for i in range(layers - 1)] + ["<script>alert(1)</script>"]
    values = np.linspace(1.0, 0.2, layers * layers).reshape(layers, layers)
    values[0, 1] = np.nan
    small = np.full_like(values, 0.01)
    tables = {
        "cka": Table(values, small, small * 3, small, {(0, 1): "the layer is dead"}, 500),
        "l2": Table(values * 40, None, None, None, {(1, 1): "other"}, 500),
    }
    return Comparison(names, names, [(i, i) for i in range(layers)], tables, ("base & co", "reduced"))


def test_a_comparison_becomes_html_and_pdf(tmp_path):
    html, pdf = similarity.comparison_report(comparison().to_dict(), tmp_path, Dataset="digits")
    page = html.read_text()
    assert "<script>alert" not in page
    assert "base &amp; co" in page
    assert "The networks part at" in page
    assert "+- 0.0200" in page
    assert page.count("<svg") == page.count("</svg>") > 3
    assert pdf.read_bytes().startswith(b"%PDF")
    assert len(pdf.read_bytes()) > 5000


def test_many_layers_and_no_matches_still_make_a_page(tmp_path):
    many = comparison(60)
    similarity.comparison_report(many.to_dict(), tmp_path / "many")
    many.matched = []
    similarity.comparison_report(many.to_dict(), tmp_path / "none")
    assert "Along the network" not in (tmp_path / "none" / "report.html").read_text()


@pytest.mark.parametrize("narrow", [False, True])
def test_figures_draw_at_both_widths(narrow):
    heat = HeatMap("title", ["a"], ["b", "c"], np.array([[np.nan, 12.0]]), "rows", "columns", None)
    lines = [Line("cka", np.array([1.0, np.nan, 0.5])), Line("ls", np.ones(3), np.ones(3), np.zeros(3), np.ones(3))]
    for item in (
        heat_map_drawing(heat, "h", "c"),
        heat_map_drawing(HeatMap("t", ["a"], ["b"], np.array([[np.nan]]), "r", "c", None), "e", "c"),
        line_drawing(["x", "y", "z"], lines, "l", "c", "heading"),
        matrices_drawing({"before": np.zeros((3, 5)), "after": np.eye(4)}, "m", "c", limit=1.0),
    ):
        figure = item.draw(narrow)
        assert figure.get_size_inches()[0] == pytest.approx(drawing.NARROW_IN if narrow else drawing.WIDE_IN)
        assert "<svg" in drawing.inline(item)


def test_numbers_are_written_for_people():
    table = similarity_pages.Table("", ("a",), [[None], [True], [0.123456], [1234], [1.5e-7], [123.456], ["x"]])
    assert [row[0] for row in table.text()] == ["-", "yes", "0.1235", "1,234", "1.5e-07", "123.5", "x"]


def test_a_grid_becomes_a_page(tmp_path):
    rows = [
        {**dict.fromkeys(GRID_COLUMNS, 0.5), "front": a, "end": b, "front_layer": "bn1", "end_layer": layer, "run": "r"}
        for a, b in (("a", "b"), ("b", "a"))
        for layer in ("bn1", "bn2")
    ]
    html, pdf = similarity.grid_report(pd.DataFrame(rows), tmp_path)
    assert "bn1 to bn2" in html.read_text()
    assert pdf.exists()
    similarity.grid_report(pd.DataFrame(columns=list(GRID_COLUMNS)), tmp_path / "empty")


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        similarity.stitch_report(tmp_path / "nothing")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("stage: train\nparent: null\nconfig: {}\n")
    with pytest.raises(UserError, match="no finished stitching run"):
        similarity.stitch_report(tmp_path / "run")
