"""The report of induction: runs of `keras-relu induce build`, `finetune` and `run` as figures and tables in one page.

Like the rest of the reports it reads files only and does not import TensorFlow.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from keras_relu.errors import UserError
from keras_relu.files import read_json, write_text
from keras_relu.report import drawing, style
from keras_relu.report import induction_figures as figures
from keras_relu.report.drawing import Drawing

__all__ = ["build_report", "load_results"]

_NEEDED = ("accuracy", "comparison_count", "comparison_count_before", "prototypes", "assignment")


def load_results(paths: Iterable[str | os.PathLike]) -> list[dict[str, Any]]:
    """The results of runs, each with its `name`.

    Raises:
        UserError: none given, or one that is missing, damaged, unfinished or no induction.
    """
    results = [_load(Path(path)) for path in paths]
    if not results:
        raise UserError("A report needs at least one run, received none.")
    return results


def _load(path: Path) -> dict[str, Any]:
    result = read_json(path / "result.json", "result of the run")
    if not isinstance(result, dict) or result.get("stage") != "induce" or any(key not in result for key in _NEEDED):
        raise UserError(f"The run {str(path)!r} is no run of `keras-relu induce build`, `finetune` or `run`.")
    return {**result, "name": style.plain(path.name)}


def build_report(
    paths: Iterable[str | os.PathLike], output: str | os.PathLike, *, figures_dir: str | os.PathLike | None = None
) -> Path:
    """Write the report of runs to the HTML file `output`; returns its path.

    Args:
        paths: run directories.
        figures_dir: each figure also goes there as `<name>.svg` and `<name>.png`.

    Raises:
        UserError: as `load_results`; `output` is a directory or `figures_dir` a file.
        KerasReLUError: a file cannot be written.
    """
    target = Path(output)
    if target.is_dir():
        raise UserError(f"The report path {str(target)!r} is a directory. Give a file name such as induction.html.")
    if figures_dir is not None and Path(figures_dir).exists() and not Path(figures_dir).is_dir():
        raise UserError(f"The figures path {str(figures_dir)!r} is a file. Give a directory.")
    results = load_results(paths)
    sections = [_accuracy(results), *(_run(result, number) for number, result in enumerate(results, 1))]
    if figures_dir is not None:
        for section in sections:
            for item in section["drawings"]:
                drawing.save(item, Path(figures_dir))
    write_text(target, _render(results, sections))
    return target


def _render(results: Sequence[Mapping[str, Any]], sections: Sequence[Mapping[str, Any]]) -> str:
    folder = resources.files("keras_relu.report").joinpath("templates")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters["svg"] = lambda item: Markup(drawing.inline(item))
    dark = f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {style.css_variables(dark=True)} }} }}"
    css = folder.joinpath("page.css").read_text(encoding="utf-8")
    return environment.from_string(folder.joinpath("sections.html").read_text(encoding="utf-8")).render(
        title="Induction report",
        css=Markup(f":root {{ {style.css_variables(dark=False)} }}\n{dark}\n{css}"),
        names=[result["name"] for result in results],
        written=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        sections=sections,
    )


def _section(title: str, tables: list[dict[str, Any]], drawings: list[Drawing]) -> dict[str, Any]:
    slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:60] or "part"
    return {"title": title, "slug": slug, "tables": tables, "drawings": drawings}


def _table(title: str, heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> dict[str, Any]:
    return {"title": title, "heads": heads, "rows": [[_cell(value) for value in row] for row in rows]}


def _cell(value: Any) -> str:
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else style.plain(value)


def states_of(result: Mapping[str, Any]) -> dict[str, float]:
    """{state: accuracy} of a run; one that was not fine-tuned ends with its re-estimated statistics."""
    tuned = "accuracy_before_finetune" in result
    states = {key: result[key] for key in figures.STATES if result.get(key) is not None}
    if not tuned:
        states["accuracy_before_finetune"] = states.pop("accuracy")
    return states


def _accuracy(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    points = [{"name": r["name"], "comparisons": r["comparison_count"], "states": states_of(r)} for r in results]
    baselines = [result["baseline_accuracy"] for result in results if result.get("baseline_accuracy") is not None]
    rows = [_row(result, point) for result, point in zip(results, points, strict=True)]
    heads = ("run", "recipe", "comparisons", "of all", "before", *figures.STATES.values())
    title = "Test accuracy in percent; `before` is the network without induction."
    drawings = [figures.accuracy_drawing(points, max(baselines, default=None))]
    return _section("Accuracy against comparisons", [_table(title, heads, rows)], drawings)


def _row(result: Mapping[str, Any], point: Mapping[str, Any]) -> list[Any]:
    facts = result["assignment"]
    options = [word for word in ("polarity", "constants") if facts.get(word)]
    recipe = " + ".join([str(facts.get("selection")), str(facts.get("association")), *options])
    fraction = result["comparison_count"] / max(1, result["comparison_count_before"])
    accuracies = [result.get("baseline_accuracy"), *(point["states"].get(state) for state in figures.STATES)]
    percents = [None if value is None else f"{100 * value:.2f}" for value in accuracies]
    return [result["name"], recipe, result["comparison_count"], f"{100 * fraction:.2f} %", *percents]


def _run(result: Mapping[str, Any], number: int) -> dict[str, Any]:
    name, drawings = result["name"], []
    for place, (inducer, entry) in enumerate(result["prototypes"].items(), 1):
        if entry["usage"]:
            drawings.append(figures.usage_drawing(name, inducer, entry["usage"], f"usage-{number}-{place}"))
            drawings.append(
                figures.places_drawing(name, inducer, entry["shape"], entry["places"], f"places-{number}-{place}")
            )
    sites = result["assignment"].get("sites") or {}
    if sites:
        drawings.append(figures.mismatch_drawing(name, sites, f"mismatch-{number}"))
    counts = [(i, *(e[key] for key in ("nominal", "selected", "used"))) for i, e in result["prototypes"].items()]
    title = "Prototypes: asked for, selected (different responses only), and borrowed from."
    tables = [_table(title, ("inducer", "asked for", "selected", "used"), counts)]
    rows = [(site, e.get("inducer"), e.get("mismatch"), e.get("lost_energy")) for site, e in sites.items()]
    tables += [_table("Wrong bits per site.", ("site", "inducer", "wrong bits", "energy lost"), rows)] if rows else []
    return _section(f"Run {number}: {name}", tables, drawings)
