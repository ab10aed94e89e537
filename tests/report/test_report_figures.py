"""The figures: positions, values and labels, read back from the drawn artists."""

import io

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from keras_relu.errors import UserError
from keras_relu.report import load_runs, style
from keras_relu.report.curves import curve_drawings, timeline
from keras_relu.report.drawing import Drawing, inline, save
from keras_relu.report.masks import channel_fractions, mask_drawing, spatial_fractions
from keras_relu.report.pareto import pareto_drawings
from keras_relu.report.sites import bar_drawing, heat_map_drawings


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text)]


def metrics(rows) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["phase", "epoch", "step"])


class TestPareto:
    def figure(self, runs, *, narrow=False, reference=True):
        (drawing,) = pareto_drawings(runs, reference=reference)
        return drawing.draw(narrow)

    def test_each_run_is_a_filled_point_at_its_count_and_accuracy(self, tmp_path, sweep):
        runs = load_runs([sweep(tmp_path / "sweep")])
        figure = self.figure(runs, reference=False)
        shown = {tuple(point) for line in figure.axes[0].lines for point in np.round(line.get_xydata(), 6)}
        assert {(run.number("relu_count"), round(100 * run.number("accuracy"), 6)) for run in runs} <= shown

    @pytest.mark.parametrize("narrow", [False, True])
    def test_published_points_are_hollow_dotted_and_named(self, tmp_path, reduce_run, narrow):
        figure = self.figure(load_runs([reduce_run(tmp_path / "run")]), narrow=narrow)
        hollow = [line for line in figure.axes[0].lines if line.get_markerfacecolor() == style.PAPER]
        assert len(hollow) == 6
        assert {line.get_linestyle() for line in hollow} == {":"}
        legend = " ".join(texts(figure)).replace("\n", " ")
        assert "Published, not measured here" in legend
        assert "AutoReP v2.0.0 quadratic, resnet18_small (N 188k)" in legend
        assert "baseline resnet20, all 640 ReLUs: 91.71 %" in legend

    def test_no_artefact_is_drawn(self, tmp_path, reduce_run):
        figure = self.figure(load_runs([reduce_run(tmp_path / "run")]))
        assert (9416.0, 93.24) not in {tuple(point) for line in figure.axes[0].lines for point in line.get_xydata()}

    def test_other_datasets_get_no_published_points(self, tmp_path, reduce_run):
        figure = self.figure(load_runs([reduce_run(tmp_path / "run", dataset="digits")]))
        assert not any("Published" in text for text in texts(figure))

    def test_datasets_are_not_mixed(self, tmp_path, reduce_run):
        runs = load_runs([reduce_run(tmp_path / "a"), reduce_run(tmp_path / "b", dataset="cifar100")])
        assert [drawing.slug for drawing in pareto_drawings(runs, reference=True)] == [
            "pareto-cifar10",
            "pareto-cifar100",
        ]

    def test_networks_are_told_apart(self, tmp_path, reduce_run):
        runs = load_runs([reduce_run(tmp_path / "a"), reduce_run(tmp_path / "b", arch="resnet32")])
        legend = texts(self.figure(runs, reference=False))
        assert "quadratic, resnet20" in legend
        assert "quadratic, resnet32" in legend

    def test_a_run_without_any_relu_has_a_place(self, tmp_path, reduce_run):
        none = {"budget": 64, "relu_count": 0}
        runs = load_runs([reduce_run(tmp_path / "none", **none), reduce_run(tmp_path / "some", budget=64)])
        axes = self.figure(runs, reference=False).axes[0]
        ticks = dict(zip([label.get_text() for label in axes.get_xticklabels()], axes.get_xticks(), strict=True))
        assert ticks["0"] == 16
        low, high = axes.get_xlim()
        assert low < 16 < high

    def test_training_runs_alone_have_no_budget_axis(self, tmp_path, train_run):
        assert pareto_drawings(load_runs([train_run(tmp_path / "base")]), reference=True) == []

    @pytest.mark.parametrize(
        ("low", "high", "room", "labels"),
        [
            (9000, 60000, 11, ["10k", "15k", "20k", "30k", "50k"]),
            (1500, 600000, 6, ["3k", "10k", "30k", "100k", "300k"]),
            (50, 700, 6, ["50", "100", "200", "300", "500"]),
        ],
    )
    def test_ticks_read_as_thousands(self, low, high, room, labels):
        axes = Figure().add_subplot()
        style.log_count_axis(axes, low, high, room=room)
        assert [label.get_text() for label in axes.get_xticklabels()] == labels

    @pytest.mark.parametrize(("count", "text"), [(500, "500"), (1500, "1.5k"), (20000, "20k"), (2e6, "2M"), (0, "0")])
    def test_counts(self, count, text):
        assert style.number(count) == text


class TestSites:
    def test_bars_show_kept_and_total_of_each_site(self, tmp_path, reduce_run):
        (run,) = load_runs([reduce_run(tmp_path / "run", budget=64)])
        figure = bar_drawing(run, "bars").draw(False)
        widths = [bar.get_width() for bar in figure.axes[0].patches]
        assert widths == [site.total for site in run.sites] + [site.kept for site in run.sites]
        first = run.sites[0]
        assert f"{first.kept:,} of {first.total:,} ({first.kept_fraction:.1%})".replace("%", " %") in texts(figure)

    def test_no_sites_no_bars(self, tmp_path, train_run):
        assert bar_drawing(load_runs([train_run(tmp_path / "base")])[0], "bars") is None

    def test_the_heat_map_holds_the_kept_fractions(self, tmp_path, sweep):
        runs = load_runs([sweep(tmp_path / "sweep", budgets=(64, 320), replacements=("line",))])
        (drawing,) = heat_map_drawings(runs)
        values = drawing.draw(False).axes[0].images[0].get_array()
        largest_first = sorted(runs, key=lambda run: -run.number("relu_count"))
        expected = np.array([[site.kept_fraction for site in run.sites] for run in largest_first]).T
        np.testing.assert_allclose(values, expected)

    def test_one_run_needs_no_heat_map(self, tmp_path, reduce_run):
        assert heat_map_drawings(load_runs([reduce_run(tmp_path / "run")])) == []

    def test_different_networks_get_their_own_heat_map(self, tmp_path, reduce_run):
        for name, sites in (("a", None), ("b", {"relu": (4, 4, 2), "relu_1": (2, 2, 4)})):
            for budget in (8, 16):
                reduce_run(tmp_path / f"{name}-{budget}", budget=budget, sites=sites)
        assert len(heat_map_drawings(load_runs([tmp_path]))) == 2

    def test_many_runs_are_split(self, tmp_path, reduce_run):
        for budget in range(20, 38):
            reduce_run(tmp_path / f"run-{budget}", budget=budget)
        assert len(heat_map_drawings(load_runs([tmp_path]))) == 2


class TestTimeline:
    def test_steps_and_epochs_that_start_again_in_each_phase(self):
        rows = [("search", 0, 5), ("search", 0, 10), ("search", 1, 20), ("finetune", 0, 10)]
        position, starts = timeline(metrics(rows))
        assert position.tolist() == [0.5, 1.0, 2.0, 3.0]
        assert starts == [("search", 0.0), ("finetune", 2.0)]

    def test_steps_and_epochs_that_count_on(self):
        rows = [("search", 1, 10), ("search", 2, 20), ("finetune", 3, 25), ("finetune", 3, 30)]
        position, starts = timeline(metrics(rows))
        assert position.tolist() == [1.0, 2.0, 2.5, 3.0]
        assert starts == [("search", 0.0), ("finetune", 2.0)]

    def test_an_epoch_that_is_still_running(self):
        position, _ = timeline(metrics([("train", 0, 10), ("train", 1, 15)]))
        assert position.tolist() == [1.0, 1.5]

    def test_without_steps_rows_are_spread_over_the_epoch(self):
        position, _ = timeline(metrics([("train", 0, np.nan), ("train", 0, np.nan), ("train", 1, np.nan)]))
        assert position.tolist() == [0.5, 1.0, 2.0]

    def test_without_epochs_there_is_no_curve(self):
        position, starts = timeline(metrics([("train", np.nan, 10)]))
        assert position.isna().all()
        assert starts == []


class TestCurves:
    def test_phases_and_final_accuracy_are_drawn(self, tmp_path, reduce_run):
        (run,) = load_runs([reduce_run(tmp_path / "run")])
        (drawing,) = curve_drawings([run])
        figure = drawing.draw(False)
        assert [axes.get_title(loc="left") for axes in figure.axes] == [
            "Training loss",
            "Validation accuracy (%)",
            "ReLUs kept",
        ]
        assert texts(figure).count("search") == texts(figure).count("fine-tune") == 3
        line = figure.axes[1].lines[0]
        assert line.get_xdata().tolist() == [1, 2, 3, 4]
        assert line.get_ydata()[-1] == pytest.approx(100 * run.metrics["val_accuracy"].dropna().iloc[-1])

    def test_phases_are_named_only_when_all_runs_agree(self, tmp_path, reduce_run):
        runs = load_runs([reduce_run(tmp_path / "a"), reduce_run(tmp_path / "b", epochs=(1, 2))])
        figure = curve_drawings(runs)[0].draw(False)
        assert "search" not in texts(figure)
        verticals = [
            line for line in figure.axes[0].lines if line.get_linestyle() == ":" and len(line.get_xdata()) == 2
        ]
        assert sorted(line.get_xdata()[0] for line in verticals) == [1, 2]

    def test_unfinished_runs_say_so(self, tmp_path, reduce_run):
        (drawing,) = curve_drawings(load_runs([reduce_run(tmp_path / "run", finished=False)]))
        assert "run (unfinished)" in texts(drawing.draw(True))

    def test_one_figure_per_replacement(self, tmp_path, sweep):
        runs = load_runs([sweep(tmp_path / "sweep", budgets=(64,))])
        assert len(curve_drawings(runs)) == 3

    def test_only_the_columns_that_exist_are_drawn(self, tmp_path, write_run):
        path = write_run(tmp_path / "run", result={}, metrics="epoch,loss\n0,1.0\n1,0.5\n", config=None)
        (drawing,) = curve_drawings(load_runs([path]))
        assert len(drawing.draw(False).axes) == 1


class TestMasks:
    def test_fractions_over_channels_and_over_pixels(self):
        mask = np.zeros((2, 2, 4), np.uint8)
        mask[0, 1, :3] = 1
        assert spatial_fractions(mask).tolist() == [[0, 0.75], [0, 0]]
        assert channel_fractions(mask).tolist() == [0.25, 0.25, 0.25, 0]

    def test_a_dense_site_is_one_pixel(self):
        assert spatial_fractions(np.array([1, 0, 1, 1])).tolist() == [[0.75]]
        assert channel_fractions(np.array([1, 0])).tolist() == [1, 0]

    def test_two_images_per_site(self, tmp_path, reduce_run):
        (run,) = load_runs([reduce_run(tmp_path / "run")])
        figure = mask_drawing(run, "masks").draw(True)
        images = figure.axes[0].images
        assert len(images) == 2 * len(run.sites)
        np.testing.assert_allclose(images[0].get_array(), spatial_fractions(run.masks()[run.sites[0].name]))

    @pytest.mark.parametrize("mask", [np.array([0, 2]), np.zeros((0,)), np.array([0.5]), np.array(["a"])])
    def test_anything_but_zero_and_one_is_refused(self, tmp_path, reduce_run, mask):
        path = reduce_run(tmp_path / "run")
        np.savez(path / "masks.npz", relu=mask)
        with pytest.raises(UserError, match=r"mask of site 'relu' .* must hold only 0 and 1"):
            mask_drawing(load_runs([path])[0], "masks")


class TestRendering:
    def drawing(self, label="label"):
        def draw(narrow):
            figure = Figure(figsize=(2, 2))
            figure.add_subplot().plot([0, 1], [0, 1], color=style.INK)
            figure.text(0.5, 0.5, label)
            return figure

        return Drawing("test", f"alt of {label}", "caption", draw)

    def test_theme_colours_become_variables_and_ids_are_unique(self):
        svg = inline(self.drawing())
        assert style.INK not in svg
        assert "var(--fig-0)" in svg
        ids = [part.split('"')[0] for part in svg.split(' id="')[1:]]
        assert len(ids) == len(set(ids))
        assert all(identifier.startswith("test-") for identifier in ids)

    def test_labels_are_escaped_and_never_read_as_formulas(self):
        svg = inline(self.drawing('<script> $\\frac{1}$ #1c2024 id="x'))
        assert "<script" not in svg
        assert "&lt;script&gt; $\\frac{1}$ #1c2024" in svg

    def test_the_same_drawing_gives_the_same_bytes(self):
        assert inline(self.drawing()) == inline(self.drawing())

    def test_files(self, tmp_path):
        written = save(self.drawing(), tmp_path)
        assert [path.name for path in written] == ["test.svg", "test.png"]
        assert matplotlib.image.imread(io.BytesIO(written[1].read_bytes())).std() > 0.05

    @pytest.mark.parametrize(
        ("text", "length", "short"), [("relu", 8, "relu"), ("stage1_block1_relu2", 9, "stag…elu2"), ("a\x1b", 8, "a�")]
    )
    def test_shortening_keeps_both_ends(self, text, length, short):
        assert style.shorten(text, length) == short

    def test_unknown_replacements_have_a_stable_look(self):
        assert style.replacement_style("cubic") == style.replacement_style("cubic")
        assert len({style.replacement_style(name) for name in ("identity", "line", "quadratic")}) == 3

    @pytest.mark.parametrize(("dark", "paper"), [(False, style.PAPER), (True, "#15181c")])
    def test_every_theme_colour_stands_out_from_the_page(self, dark, paper):
        declared = style.css_variables(dark=dark)
        colours = [part.split(": ")[1] for part in declared.strip("; ").split(";")][5:]
        assert min(contrast(colour, paper) for colour in colours) >= 2.9


def contrast(first: str, second: str) -> float:
    """WCAG contrast ratio of two colours."""
    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    channels = np.array(matplotlib.colors.to_rgb(colour))
    linear = np.where(channels <= 0.03928, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])
