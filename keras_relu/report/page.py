"""The report itself: one HTML file that needs nothing else, and on request each figure as SVG and PNG."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from keras_relu.errors import UserError
from keras_relu.files import write_text
from keras_relu.report import drawing, style, tables
from keras_relu.report.curves import curve_drawings
from keras_relu.report.drawing import Drawing
from keras_relu.report.load import RunData, load_runs
from keras_relu.report.masks import mask_drawing
from keras_relu.report.pareto import pareto_drawings
from keras_relu.report.published import STATUSES, published_series
from keras_relu.report.sites import bar_drawing, heat_map_drawings

__all__ = ["build_report"]

# Numbers first, names after: what a reader compares stands in columns aligned to the right.
_TEXT_COLUMNS = {"Run", "State", "Stage", "Dataset", "Network", "Replacement", "Gate", "Normalisation", "Epochs"}


@dataclass(frozen=True)
class _RunSection:
    run: RunData
    anchor: str
    summary: str
    drawings: list[Drawing]
    facts: list[tuple[str, str]]


def build_report(
    paths: Iterable[str | os.PathLike] | str | os.PathLike,
    output: str | os.PathLike,
    *,
    figures_dir: str | os.PathLike | None = None,
    reference: bool = True,
) -> Path:
    """Write the report of the runs and sweeps in `paths` to the HTML file `output`; returns its path.

    With `figures_dir` each figure is also written there as `<name>.svg` and `<name>.png`. `reference=False` leaves
    out the published points. All files are written atomically, the page last.

    Raises:
        UserError: a path is not a run, a run file is damaged, `output` is a directory or `figures_dir` a file.
        KerasReLUError: a file cannot be written.
    """
    target = Path(output)
    if target.is_dir():
        raise UserError(f"The report path {str(target)!r} is a directory. Give a file name such as report.html.")
    if figures_dir is not None and Path(figures_dir).exists() and not Path(figures_dir).is_dir():
        raise UserError(f"The figures path {str(figures_dir)!r} is a file. Give a directory.")
    runs = load_runs(paths)
    sections = [_section(run, index) for index, run in enumerate(runs, 1)]
    groups = {
        "pareto": pareto_drawings(runs, reference=reference),
        "sites": heat_map_drawings(runs),
        "curves": curve_drawings(runs),
    }
    groups = {key: [_clean(item) for item in items] for key, items in groups.items()}
    page = _render(runs, sections, groups, reference)
    if figures_dir is not None:
        for item in itertools.chain(*groups.values(), *(part.drawings for part in sections)):
            drawing.save(item, Path(figures_dir))
    write_text(target, page)
    return target


def _clean(item: Drawing) -> Drawing:
    """The drawing with a slug that is safe as a file name and as an id."""
    return Drawing(_slug(item.slug), style.plain(item.alt), style.plain(item.caption), item.draw)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "figure"


def _section(run: RunData, index: int) -> _RunSection:
    # The index keeps the names apart when two run names differ only in characters that a file name may not have.
    anchor = f"run-{index}-{_slug(run.name)}"
    drawings = [bar_drawing(run, f"sites-{anchor}"), mask_drawing(run, f"masks-{anchor}")]
    return _RunSection(run, anchor, _summary(run), [_clean(item) for item in drawings if item], _facts(run))


def _summary(run: RunData) -> str:
    if not run.finished:
        return "unfinished"
    kept = run.number("relu_count")
    parts = [
        tables.percent(run.number("accuracy")) if run.number("accuracy") is not None else "",
        f"{kept:,.0f} ReLUs" if kept is not None else "",
    ]
    return ", ".join(filter(None, parts)) or run.stage


def _facts(run: RunData) -> list[tuple[str, str]]:
    versions = run.result.get("versions")
    listed = ", ".join(f"{name} {value}" for name, value in versions.items()) if isinstance(versions, dict) else ""
    facts = [
        ("Directory", str(run.path)),
        ("Parent", _text(run.setting("parent"))),
        ("Test loss", _text(run.number("loss"))),
        ("Configuration hash", _text(run.result.get("config_hash"))),
        ("Git revision", _text(run.result.get("git_revision"))),
        ("Versions", listed),
    ]
    return [(name, style.plain(value)) for name, value in facts if value]


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def _render(runs: list[RunData], sections: list[_RunSection], groups: dict[str, list[Drawing]], reference: bool) -> str:
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["svg"] = lambda item: Markup(drawing.inline(item))
    environment.filters["plain"] = style.plain
    datasets = sorted({str(run.setting("dataset")) for run in runs})
    every = [series for name in datasets for series in published_series(name, drawn_only=False)] if reference else []
    return environment.from_string(_resource("page.html")).render(
        css=Markup(_css()),
        written=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        runs=runs,
        headlines=tables.headlines(runs),
        table=tables.run_table(runs).to_dict("records"),
        text_columns=_TEXT_COLUMNS,
        groups=groups,
        sections=sections,
        published=[series for series in every if series.draw] if groups["pareto"] else [],
        withheld=[series for series in every if not series.draw] if groups["pareto"] else [],
        statuses=STATUSES,
        measured=_measured(runs),
    )


def _measured(runs: list[RunData]) -> dict[str, Any]:
    errors = [error for error in map(tables.standard_error, runs) if error is not None]
    return {
        "totals": [f"{total:,.0f}" for total in sorted({run.number("total") for run in runs if run.number("total")})],
        "error": f"{max(errors):.2f}" if errors else None,
        "seeds": sorted({str(run.setting("seed")) for run in runs if run.setting("seed") is not None}),
        "normalizations": sorted({str(run.setting("normalization")) for run in runs if run.setting("normalization")}),
    }


def _resource(name: str) -> str:
    return resources.files("keras_relu.report").joinpath("templates", name).read_text(encoding="utf-8")


def _css() -> str:
    return (
        f":root {{ {style.css_variables(dark=False)} }}\n"
        f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {style.css_variables(dark=True)} }} }}\n"
        + _resource("page.css")
    )
