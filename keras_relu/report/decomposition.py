"""The report of a decomposition: what `keras-relu decompose ... --save` wrote, as figures and tables in one page.

Like the rest of the reports it reads files only and does not import TensorFlow.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_relu.errors import UserError
from keras_relu.files import read_json
from keras_relu.report import decomposition_figures as figures
from keras_relu.report import sections
from keras_relu.report.sections import section, table

__all__ = ["build_report", "load_results"]

_LISTS = ("top_k", "filters", "indices", "matrix", "entropy", "mutual_information", "mutual_information_off_diagonal")
_COUNTS = ("top_k", "correct", "accuracy", "loss", "per_class_correct", "parameters", "multiplications")
# What a result of each kind must hold: keys of its own, the key of its entries, and theirs.
_KINDS: dict[str, tuple[tuple[str, ...], str, tuple[str, ...]]] = {
    "extract": ((), "tables", (*_LISTS, "shared_filters")),
    "mutual-info": ((), "tables", (*_LISTS, "shared_filters")),
    "validate": (
        ("model", "dataset", "split", "total", "per_class_total", "class_names", "original"),
        "tables",
        _COUNTS,
    ),
    "essential": (("class_names",), "tables", ("top_k", "noise", "groups", "total", "per_class_total")),
    "csg": ((), "rows", (*_LISTS, "shared_filters", "order")),
    "selectivity": (("layer", "selectivity", "mean", "median"), "", ()),
}
_TUNED = ("correct", "total", "accuracy", "loss", "top_k", "dataset", "head_parameters", "head_multiplications")


def load_results(paths: Iterable[str | os.PathLike]) -> list[dict[str, Any]]:
    """The results in saved JSON files and in runs of `decompose finetune`, each with its `name`.

    Raises:
        UserError: none given, or one that is missing, damaged or something else.
    """
    results = [_load(Path(path)) for path in paths]
    if not results:
        raise UserError("A report needs at least one result, received none.")
    return results


def _load(path: Path) -> dict[str, Any]:
    if path.is_dir():
        result = read_json(path / "result.json", "result of the run")
        if not isinstance(result, dict) or result.get("stage") != "decompose":
            raise UserError(f"The run {str(path)!r} is not a fine-tuning of a decomposed network.")
        _require(path, result, _TUNED)
        return {**result, "kind": "finetune", "name": path.name}
    result = read_json(path, "result")
    kind = str(result.get("kind", "")).removeprefix("decompose-") if isinstance(result, dict) else ""
    if kind not in _KINDS:
        raise UserError(f"{str(path)!r} is no result of `keras-relu decompose`; write one with --save.")
    own, place, keys = _KINDS[kind]
    _require(path, result, (*own, place) if place else own)
    entries = result[place] if place else []
    if not isinstance(entries, list) or (place and not entries):
        raise UserError(f"The result {str(path)!r} is damaged: {place!r} is no list of entries.")
    for entry in entries:
        _require(path, entry, keys)
    return {**result, "kind": kind, "name": path.name}


def _require(path: Path, part: Any, keys: Iterable[str]) -> None:
    missing = [key for key in keys if not isinstance(part, dict) or key not in part]
    if missing:
        raise UserError(
            f"The result {str(path)!r} is damaged: it lacks {', '.join(missing)}. Write it again with --save."
        )


def build_report(
    paths: Iterable[str | os.PathLike], output: str | os.PathLike, *, figures_dir: str | os.PathLike | None = None
) -> Path:
    """Write the report of saved results to the HTML file `output`; returns its path.

    Args:
        paths: files of `--save`, and runs of `decompose finetune`.
        figures_dir: each figure also goes there as `<name>.svg` and `<name>.png`.

    Raises:
        UserError: as `load_results`; `output` is one of the results or a directory, or `figures_dir` a file.
        KerasReLUError: a file cannot be written.
    """
    if any(Path(output).resolve() == Path(path).resolve() for path in paths):
        raise UserError(f"The report would replace the result {str(output)!r}; choose another --output.")
    results = _with_class_names(load_results(paths))
    parts = [part for make in _SECTIONS if (part := make(results))]
    names = [result["name"] for result in results]
    return sections.write_page("Decomposition", names, parts, output, figures_dir=figures_dir)


def _with_class_names(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Results that do not say what their classes are called borrow the names of one with as many classes."""
    known = {len(names): names for result in results if (names := result.get("class_names"))}
    borrowed = []
    for result in results:
        entries = result.get("tables") or result.get("rows") or [{}]
        names = known.get(len(entries[0].get("indices", ())))
        borrowed.append({**({"class_names": names} if names else {}), **result})
    return borrowed


def _of(results: Sequence[Mapping[str, Any]], *kinds: str) -> list[Mapping[str, Any]]:
    return [result for result in results if result["kind"] in kinds]


def _accuracy(results: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    measured, tuned = _of(results, "validate"), _of(results, "finetune")
    if not measured and not tuned:
        return None
    rows: list[Sequence[Any]] = []
    for result in measured:
        for label, entry in [("original", result["original"])] + [
            (figures.table_label(entry), entry) for entry in result["tables"]
        ]:
            rows.append((label, entry["correct"], result["total"], *_numbers(entry, "parameters", "multiplications")))
    for run in tuned:
        label = f"{run['name']}: {figures.table_label(run)}, fine-tuned"
        rows.append((label, run["correct"], run["total"], *_numbers(run, "head_parameters", "head_multiplications")))
    heads = ("last layer", "correct", "images", "accuracy", "loss", "parameters", "multiplications")
    drawings = figures.curve_drawings(measured, tuned)
    for index, result in enumerate(measured, 1):
        drawings += figures.class_drawings(result, f"classes-{index}")
    return section("Accuracy", [table("The last layer: accuracy and size.", heads, rows)], drawings)


def _numbers(entry: Mapping[str, Any], *sizes: str) -> tuple[Any, ...]:
    return (f"{100 * entry['accuracy']:.2f} %", entry["loss"], *(entry.get(size) for size in sizes))


def _noise(results: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    drawings, rows = [], []
    for index, result in enumerate(_of(results, "essential", "csg"), 1):
        entries = _noise_entries(result)
        if not entries:
            continue
        heading = "Gaussian noise at filters" if result["kind"] == "essential" else "Gaussian noise, filters by gates"
        drawings.append(figures.noise_drawing(entries, f"noise-{index}", f"{heading} ({entries[0]['noise']})"))
        if result["kind"] == "essential":
            drawings.append(figures.noise_class_drawing(entries[0], result, f"noise-classes-{index}"))
        rows += [(entry["label"], entry["noise"], *_survivors(entry)) for entry in entries]
    heads = ("filters", "noise", "no noise", "at influential", "at others")
    title = "Images still answered rightly; mean and standard deviation over the draws."
    return section("Essential filters", [table(title, heads, rows)], drawings) if rows else None


def _noise_entries(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    if result["kind"] == "essential":
        return [{**entry, "label": figures.table_label(entry)} for entry in result["tables"]]
    return [
        {**row, **row["essential"], "label": f"{row['order']}, k = {row['top_k']}"}
        for row in result["rows"]
        if row.get("essential")
    ]


def _survivors(entry: Mapping[str, Any]) -> tuple[Any, str, str]:
    groups = entry["groups"]
    influential, other = (
        f"{groups[name]['correct_mean']:,.0f} \N{PLUS-MINUS SIGN} {groups[name]['correct_std']:.0f}"
        for name in ("influential", "other")
    )
    return groups["none"]["correct"], influential, other


def _lists(results: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    found = [(entry, result) for result in _of(results, "extract", "mutual-info") for entry in result["tables"]]
    gates = [(row, result) for result in _of(results, "csg") for row in result["rows"]]
    if not found and not gates:
        return None
    drawings = []
    for index, (entry, result) in enumerate(found + gates, 1):
        drawings.append(figures.filter_drawing(entry, result, f"filters-{index}"))
        drawings.append(figures.information_drawing(entry, result, f"information-{index}"))
    heads = ("filters", "all pairs", "without self pairs", "self pairs", "shared filters")
    keys = ("mutual_information", "mutual_information_off_diagonal", "entropy", "shared_filters")
    rows = [(figures.table_label(entry), *(entry[key] for key in keys)) for entry, _ in found + gates]
    title = (
        "Mutual information between the filter lists of classes, in nats; the published average includes self pairs."
    )
    return section("Filters of the classes", [table(title, heads, rows)], drawings)


def _selectivity(results: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    rows = [
        (f"{result['name']}: {result['layer']}", len(result["selectivity"]), result["mean"], result["median"])
        for result in _of(results, "selectivity")
    ]
    title = "Class selectivity of the filters: 0 = all classes drive them alike, 1 = one class alone does."
    listed = table(title, ("layer", "filters", "mean", "median"), rows)
    return section("Class selectivity", [listed], []) if rows else None


_SECTIONS = (_accuracy, _noise, _lists, _selectivity)
