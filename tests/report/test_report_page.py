"""The HTML page: its numbers, its safety, its independence of everything outside the file."""

import html
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser

import matplotlib.image
import pytest

from keras_relu.errors import UserError
from keras_relu.report import build_report, load_runs
from keras_relu.report.tables import duration, epochs, headlines, points, run_table

MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"
# Phone, phone, the last narrow and the first wide layout, desktop.
WIDTHS = (360, 390, 700, 710, 1280)
VOID = {"meta", "br", "img", "link", "hr", "input", "use", "path"}


class Page(HTMLParser):
    """Tables as rows of cell text, ids, and whether every tag is closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data.strip()


def build(tmp_path, paths, **options):
    text = build_report(paths, tmp_path / "report.html", **options).read_text(encoding="utf-8")
    return text, Page(text)


def records(page: Page) -> list[dict[str, str]]:
    head, *rows = page.tables[0]
    return [dict(zip(head, row, strict=True)) for row in rows]


@pytest.fixture(scope="module")
def swept(tmp_path_factory, sweep):
    """A sweep of nine runs: its directory, the text of its report, and the text parsed."""
    folder = tmp_path_factory.mktemp("swept")
    root = sweep(folder / "sweep")
    return root, *build(folder, [root])


class TestContent:
    def test_the_table_holds_the_numbers_of_the_result_files(self, swept):
        root, _, page = swept
        assert page.open == []
        assert len(records(page)) == 9
        for record in records(page):
            result = json.loads((root / record["Run"] / "result.json").read_text())
            assert record["Test accuracy"] == f"{100 * result['accuracy']:.2f} %"
            assert record["Validation accuracy"] == f"{100 * result['val_accuracy']:.2f} %"
            assert record["ReLUs kept"] == record["Budget asked"] == f"{result['budget']:,}"
            assert record["Correct"] == f"{result['correct']:,} of 10,000"
            change = 100 * (result["accuracy"] - result["baseline_accuracy"])
            assert float(record["Change (points)"].replace(MINUS, "-")) == pytest.approx(change, abs=0.005)
            assert record["Epochs"] == "2 search + 2 fine-tune"
            assert record["Wall time"] == "22 min 02 s"
            assert record["Normalisation"] == "cifar10"
            assert record["Seed"] == str(result["seed"])

    def test_sections_of_a_sweep(self, swept):
        _, text, page = swept
        assert {"summary", "runs", "pareto", "sites", "curves", "each", "measured"} <= set(page.ids)
        assert len(page.ids) == len(set(page.ids))
        assert "best of 3 on validation" in text
        assert text.count('role="img" aria-label="') == text.count('<svg class="figure')
        assert "AutoReP repository README at af8dc5a" in text
        assert "in-place ReLU" in text

    def test_without_reference(self, tmp_path, reduce_run):
        text, _ = build(tmp_path, [reduce_run(tmp_path / "run")], reference=False)
        assert "AutoReP" not in text

    def test_training_runs_only(self, tmp_path, train_run):
        text, page = build(tmp_path, [train_run(tmp_path / "base")])
        assert "pareto" not in page.ids
        assert "91.71 %" in text
        assert records(page)[0]["Wall time"] == "1 h 06 min"

    def test_a_mix_with_an_unfinished_run(self, tmp_path, train_run, reduce_run):
        runs = [train_run(tmp_path / "base"), reduce_run(tmp_path / "a"), reduce_run(tmp_path / "b", finished=False)]
        text, page = build(tmp_path, runs)
        assert "3 runs, 1 of them unfinished" in text
        assert [record["State"] for record in records(page)] == ["finished", "finished", "unfinished"]
        assert records(page)[2]["Test accuracy"] == DASH

    def test_results_with_most_keys_missing(self, tmp_path, write_run):
        path = write_run(tmp_path / "run", result={"accuracy": 0.5}, metrics="loss\n0.5\n", config=None)
        text, page = build(tmp_path, [path])
        assert "50.00 %" in text
        assert "curves" not in page.ids

    def test_only_an_empty_unfinished_run(self, tmp_path, write_run):
        path = write_run(tmp_path / "run", result=None, metrics=None, config={"budget": "10%"})
        text, page = build(tmp_path, [path])
        assert "No finished run with a test accuracy yet." in text
        assert records(page)[0]["Budget asked"] == "10%"

    def test_over_budget_is_flagged(self, tmp_path, reduce_run):
        _, page = build(tmp_path, [reduce_run(tmp_path / "run", relu_count=100)])
        assert records(page)[0]["State"] == "over budget"

    def test_settings_are_shown(self, tmp_path, reduce_run):
        text, _ = build(tmp_path, [reduce_run(tmp_path / "run")])
        assert (
            html.escape((tmp_path / "run" / "config.yaml").read_text(), quote=True).replace("&quot;", "&#34;") in text
        )


class TestSafety:
    def test_markup_in_names_and_values_is_escaped(self, tmp_path, reduce_run):
        evil = "<img src=x onerror=alert(1)>"
        path = reduce_run(
            tmp_path / '<script>"&\'', replacement=evil, arch=evil, gate=evil, git_revision=evil, normalization=evil,
            dataset=evil,
        )  # fmt: skip
        _, page = build(tmp_path, [path])
        assert {"script", "img"}.isdisjoint(page.tags)
        assert page.open == []
        assert records(page)[0]["Run"] == "<script>\"&'"

    @pytest.mark.parametrize("name", ["_hidden", "$x^2$ \\frac", "模型", "a\x1bb\nc", os.fsdecode(b"\xff")])
    def test_odd_names(self, tmp_path, reduce_run, name):
        _, page = build(tmp_path, [reduce_run(tmp_path / name)], figures_dir=tmp_path / "figures")
        assert len(records(page)) == 1

    def test_nothing_is_loaded_from_outside(self, swept):
        _, text, page = swept
        assert {"script", "link", "img", "iframe"}.isdisjoint(page.tags)
        targets = re.findall(r'(?:src|href)="([^"]*)"', text)
        assert {target.split(":")[0] for target in targets if not target.startswith("#")} <= {"data"}
        assert "@import" not in text
        assert set(re.findall(r"url\(([^)]?)", text)) <= {"#"}

    def test_both_colour_schemes(self, tmp_path, train_run):
        text, _ = build(tmp_path, [train_run(tmp_path / "base")])
        assert text.count("prefers-color-scheme: dark") == 2
        used = set(re.findall(r"var\((--[a-z0-9-]+)\)", text))
        assert used <= set(re.findall(r"(--[a-z0-9-]+):", text))


class TestFiles:
    def test_figures_are_written_and_not_blank(self, tmp_path, sweep):
        build(tmp_path, [sweep(tmp_path / "sweep", budgets=(64,), replacements=("line", "quadratic"))],
              figures_dir=tmp_path / "figures")  # fmt: skip
        names = sorted(path.name for path in (tmp_path / "figures").iterdir())
        stems = {"pareto-cifar10", "sites-1", "curves-1-line", "curves-2-quadratic"}
        stems |= {f"{kind}-run-{run}" for kind in ("sites", "masks") for run in ("1-line-64", "2-quadratic-64")}
        assert names == sorted(f"{stem}.{form}" for stem in stems for form in ("png", "svg"))
        for path in (tmp_path / "figures").glob("*.png"):
            assert matplotlib.image.imread(path)[..., :3].std() > 0.03, path.name

    def test_the_page_is_replaced_whole(self, tmp_path, reduce_run):
        run = reduce_run(tmp_path / "run")
        target = tmp_path / "report.html"
        build_report(run, target)
        before = target.read_text()
        (run / "result.json").write_text("{")
        with pytest.raises(UserError):
            build_report(run, target)
        assert target.read_text() == before
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []

    def test_output_that_is_a_directory(self, tmp_path, reduce_run):
        with pytest.raises(UserError, match=r"is a directory\. Give a file name"):
            build_report(reduce_run(tmp_path / "run"), tmp_path)

    def test_figures_directory_that_is_a_file(self, tmp_path, reduce_run):
        (tmp_path / "figures").write_text("")
        with pytest.raises(UserError, match=r"is a file\. Give a directory"):
            build_report(reduce_run(tmp_path / "run"), tmp_path / "report.html", figures_dir=tmp_path / "figures")


class TestTables:
    def test_the_best_of_a_budget_is_chosen_on_validation(self, tmp_path, reduce_run):
        reduce_run(tmp_path / "a", accuracy=0.90, val_accuracy=0.88, replacement="line")
        reduce_run(tmp_path / "b", accuracy=0.89, val_accuracy=0.89, replacement="identity")
        (headline,) = headlines(load_runs(tmp_path))
        assert headline.heading == "resnet20 on cifar10"
        baseline, best = headline.cards
        assert (baseline.title, baseline.value) == ("Baseline", "91.71 %")
        assert best.value == "89.00 %"
        assert best.detail == f"identity, {MINUS}2.71 points, best of 2 on validation"

    def test_without_validation_it_says_test(self, tmp_path, reduce_run):
        for name in "ab":
            reduce_run(tmp_path / name, val_accuracy=None)
        (headline,) = headlines(load_runs(tmp_path))
        assert headline.cards[-1].detail.endswith("best of 2 on the test split")

    def test_epochs_of_an_unfinished_run_come_from_its_metrics(self, tmp_path, reduce_run):
        (run,) = load_runs([reduce_run(tmp_path / "run", finished=False, epochs=(3, 3))])
        assert epochs(run) == "2 search"

    def test_columns_that_nobody_has_are_left_out(self, tmp_path, train_run):
        assert "Budget asked" not in run_table(load_runs([train_run(tmp_path / "base")])).columns

    @pytest.mark.parametrize(
        ("change", "text"), [(None, DASH), (0.0, "0.00"), (-0.001, "0.00"), (1.5, "+1.50"), (-1.5, f"{MINUS}1.50")]
    )
    def test_changes(self, change, text):
        assert points(change) == text

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [(None, DASH), (8.12, "8.1 s"), (59.99, "60.0 s"), (725, "12 min 05 s"), (3723, "1 h 02 min")],
    )
    def test_durations(self, seconds, text):
        assert duration(seconds) == text


@pytest.mark.chromium
def test_no_page_is_wider_than_the_screen(tmp_path, realistic_sweep):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    page = build_report([realistic_sweep(tmp_path / "a-sweep-with-quite-a-long-name")], tmp_path / "report.html")
    probe = "<script>onload=()=>parent.postMessage(document.documentElement.scrollWidth+' in '+innerWidth,'*')</script>"
    opened = page.read_text(encoding="utf-8").replace("<details", "<details open")
    page.write_text(opened.replace("</body>", f"{probe}</body>"), encoding="utf-8")
    # A headless window has a minimum width, a frame has none.
    frames = [f'<iframe src="report.html" style="border:0;width:{width}px;height:900px"></iframe>' for width in WIDTHS]
    frame = tmp_path / "frame.html"
    frame.write_text("<script>onmessage=event=>document.title+='['+event.data+']'</script>" + "".join(frames))
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000", "--dump-dom"]
    dom = subprocess.run([*command, frame.as_uri()], capture_output=True, text=True, timeout=300, check=True).stdout
    measured = {int(inner): int(content) for content, inner in re.findall(r"\[(\d+) in (\d+)\]", dom)}
    assert sorted(measured) == sorted(WIDTHS)
    assert all(content <= width for width, content in measured.items())
