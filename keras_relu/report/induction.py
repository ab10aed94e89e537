"""The report of induction: runs of `keras-relu induce build`, `finetune` and `run` as figures and tables in one page.

Like the rest of the reports it reads files only and does not import TensorFlow.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_relu.errors import UserError
from keras_relu.files import read_json
from keras_relu.report import induction_figures as figures
from keras_relu.report import style
from keras_relu.report.sections import section, table, write_page

__all__ = ["build_report", "load_results", "states_of"]

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
    results = load_results(paths)
    sections = [_accuracy(results), *(_run(result, number) for number, result in enumerate(results, 1))]
    names = [result["name"] for result in results]
    return write_page("Induction", names, sections, output, figures_dir=figures_dir)


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
    return section("Accuracy against comparisons", [table(title, heads, rows)], drawings)


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
    tables = [table(title, ("inducer", "asked for", "selected", "used"), counts)]
    rows = [(site, e.get("inducer"), e.get("mismatch"), e.get("lost_energy")) for site, e in sites.items()]
    tables += [table("Wrong bits per site.", ("site", "inducer", "wrong bits", "energy lost"), rows)] if rows else []
    return section(f"Run {number}: {name}", tables, drawings)
