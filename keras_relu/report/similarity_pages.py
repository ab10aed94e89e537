"""What stands on the pages about similarity: headings, tables and figures, before they become HTML or PDF."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from keras_relu.errors import UserError
from keras_relu.files import read_arrays
from keras_relu.report.curves import curve_drawings
from keras_relu.report.drawing import Drawing
from keras_relu.report.load import load_runs
from keras_relu.report.similarity_figures import HeatMap, Line, heat_map_drawing, line_drawing, matrices_drawing

__all__ = ["Page", "Section", "Table", "comparison_page", "grid_page", "match_page", "stitch_page"]

_MAPS = {
    "before": "before training",
    "stitched": "stitched (after training)",
    "least_squares": "least squares",
    "orthogonal": "best rotation",
    "direct": "direct matching",
    "stitched_recalibrated": "stitched, batch norm re-estimated",
    "least_squares_recalibrated": "least squares, batch norm re-estimated",
}
_PARAMETERS = (
    *(
        "dataset",
        "normalization",
        "front_layer",
        "end_layer",
        "init",
        "mask",
        "target",
        "temperature",
        "flatten",
        "rank",
    ),
    *("resize", "epochs", "batch_size", "optimizer", "learning_rate", "weight_decay", "l1", "cka_weight", "seed"),
)


@dataclass(frozen=True)
class Table:
    """Rows of cells under a caption; numbers are written by `text`."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def text(self) -> list[list[str]]:
        """The cells as text: counts with separators, fractions with four digits, a dash for what is missing."""
        return [[_text(value) for value in row] for row in self.rows]


@dataclass(frozen=True)
class Section:
    """One heading of a page."""

    heading: str
    sentences: Sequence[str] = ()
    tables: Sequence[Table] = ()
    drawings: Sequence[Drawing] = ()


@dataclass(frozen=True)
class Page:
    """A whole report."""

    title: str
    lead: str
    sections: Sequence[Section]
    facts: Mapping[str, str] = field(default_factory=dict)


def stitch_page(folder: str | Path) -> Page:
    """The report of one finished stitching run.

    Raises:
        UserError: no finished stitching run is there, or a file of it is damaged.
    """
    run = load_runs([folder])[0]
    result = run.result
    if not run.finished or result.get("stage") != "stitch":
        raise UserError(f"{str(folder)!r} is no finished stitching run.")
    matrices = read_arrays(Path(folder) / "matrices.npz", "matrices of the stitching run")
    readings = result["readings"]
    title = f"Stitching {result['front_layer']} to {result['end_layer']}"
    lead = (
        f"The front of {_name(result, 'front')} up to {result['front_layer']}, an affine map, the back of "
        f"{_name(result, 'end')} behind {result['end_layer']}: {readings['stitched']['accuracy']:.2%} of the test images, "
        f"the end network alone {readings['end']['accuracy']:.2%}."
    )
    sections = [
        Section("Networks", tables=[_network_table(readings)]),
        Section("Both readings of the map", [_reading_note(result)], [_reading_table(readings)]),
        Section("Right and wrong together", tables=[_hits_table(result)]),
        Section("The map", _map_sentences(result), drawings=_matrix_drawings(matrices, "fit", None)),
        Section("Learning curves", drawings=_curves(folder, result)),
        Section("Settings", tables=[_parameter_table(result)]),
        Section("The same matrices from -1 to 1", drawings=_matrix_drawings(matrices, "fixed", 1.0)),
    ]
    return Page(title, lead, [s for s in sections if s.tables or s.drawings], _facts(result))


def comparison_page(comparison: Mapping[str, Any], facts: Mapping[str, str] | None = None) -> Page:
    """The report of `Comparison.to_dict()`."""
    a, b = comparison["a"], comparison["b"]
    matched, tables = comparison["matched"], comparison["tables"]
    sections = []
    parting = comparison.get("parting", {})
    if matched:
        sentences = [part["sentence"] for part in parting.values()]
        sections.append(Section("Along the network", sentences, [_matched_table(comparison)], _along(comparison)))
    maps = [_comparison_map(name, table, comparison) for name, table in tables.items()]
    sections.append(Section("Layers against layers", drawings=[drawing for drawing in maps if drawing]))
    empty = [
        [name, reason["layer_a"], reason["layer_b"], reason["reason"]]
        for name, table in tables.items()
        for reason in table["reasons"]
        if [reason["layer_a"], reason["layer_b"]] in matched
    ]
    if empty:
        caption = "Matched layers for which a measure is not defined."
        sections.append(Section("Without a value", tables=[Table(caption, ("Measure", a, b, "Reason"), empty)]))
    images = sorted({table["images"] for table in tables.values()})
    lead = f"{len(matched)} matched layers, {', '.join(tables)}, on {', '.join(f'{n:,}' for n in images)} images."
    return Page(f"{a} and {b}, layer by layer", lead, sections, facts or {})


def match_page(matching: Mapping[str, Any]) -> Page:
    """The report of what `stitch match` found: each map's two readings along the network."""
    rows, layers, end = matching["rows"], matching["layers"], matching["networks"]["end"]
    names = list(dict.fromkeys(row["map"] for row in rows))
    where = [(layer["front_layer"], layer["end_layer"]) for layer in layers]
    labels = [a if a == b else f"{a} : {b}" for a, b in where]
    found = {(row["front_layer"], row["end_layer"], row["map"]): row for row in rows}

    def heat(key: str, heading: str) -> HeatMap:
        values = [[found.get((*place, name), {}).get(key) for place in where] for name in names]
        array = np.array([[np.nan if v is None else v for v in row] for row in values], float)
        return HeatMap(heading, [name.replace("_", " ") for name in names], labels, array, "Map", "Layer")

    drawings = [
        heat_map_drawing(heat(key, heading), f"match-{key}", caption)
        for key, heading, caption in (
            ("accuracy", "Accuracy of the stitched network", f"The end network alone: {end['accuracy']:.2%}."),
            ("cka", "CKA of the mapped activations to the end network's", "On the test images that CKA was asked for."),
        )
        if any(row[key] is not None for row in rows)
    ]
    keys = ("correct", "loss", "crossentropy", "same_class", "cka", "l2", "rr", "rw", "wr", "ww")
    heads = ("Layers and map", "Correct", "Loss", "Cross entropy to it", "Same class", "CKA", "l2", *keys[-4:])
    caption = (
        "Against the end network; rr, rw, wr, ww: test images on which (end, stitched) are right or wrong. Cross entropy "
        "to it is a mean over images and classes, as in the original."
    )
    named = [(labels[where.index((r["front_layer"], r["end_layer"]))], r["map"].replace("_", " ")) for r in rows]
    cells = [[f"{label}, {name}", *(row[k] for k in keys)] for (label, name), row in zip(named, rows, strict=True)]
    fit = matching["fit"]
    lead = f"Maps in closed form, fitted on the split {fit['split']!r}, judged on {end['total']:,} test images."
    title = f"{Path(matching['front']).name} and {Path(matching['end']).name}, matched directly"
    before = [[label, one["cka"], one["l2"]] for label, one in zip(labels, layers, strict=True)]
    tables = [Table(caption, heads, cells), Table("Before any map.", ("Layers", "CKA", "l2"), before)]
    facts = {"Dataset": matching["dataset"], "Front network": matching["front"], "End network": matching["end"]}
    return Page(
        title, lead, [Section("Along the network", drawings=drawings), Section("All maps", tables=tables)], facts
    )


def grid_page(frame: pd.DataFrame) -> Page:
    """The report of a grid of stitchings: accuracy relative to the end network, and the table."""
    sections = []
    for value, what in (("relative_accuracy", "Task"), ("least_squares_cka", "CKA behind least squares")):
        if frame[value].notna().any():
            heat = _grid_map(frame, value, f"{what}: {value.replace('_', ' ')}")
            caption = "Mean over seeds, starts and targets; rows are ordered pairs of networks, columns layers."
            sections.append(Section(what, drawings=[heat_map_drawing(heat, f"grid-{value}", caption)]))
    rows = frame.astype(object).where(frame.notna(), None).to_numpy().tolist()
    sections.append(Section("All runs", tables=[Table("One row per finished run.", list(frame.columns), rows)]))
    return Page("A grid of stitchings", f"{len(frame)} finished runs.", sections)


def _grid_map(frame: pd.DataFrame, value: str, title: str) -> HeatMap:
    pairs = frame["front"].astype(str) + " to " + frame["end"].astype(str)
    same = frame["front_layer"] == frame["end_layer"]
    layers = frame["front_layer"].where(same, frame["front_layer"] + " to " + frame["end_layer"])
    table = frame.assign(pair=pairs, layer=layers).pivot_table(index="pair", columns="layer", values=value, sort=False)
    return HeatMap(title, list(table.index), list(table.columns), table.to_numpy(float), "Front to end", "Layer")


def _network_table(readings: Mapping[str, Any]) -> Table:
    rows = [
        [label, readings[name]["accuracy"], readings[name]["correct"], readings[name]["loss"]]
        for label, name in (
            ("front network", "front"),
            ("end network", "end"),
            ("stitched", "stitched"),
            ("least squares", "least_squares"),
        )
        if name in readings
    ]
    return Table(
        "On the test images; loss is the cross entropy with the labels.", ("", "Accuracy", "Correct", "Loss"), rows
    )


def _reading_table(readings: Mapping[str, Any]) -> Table:
    keys = ("accuracy", "relative_accuracy", "crossentropy", "same_class", "cka", "cka_after_relu", "l2", "logit_cka")
    heads = (
        *("Map", "Accuracy", "Of the end network's", "Cross entropy to it", "Same class"),
        *("CKA before ReLU", "CKA after ReLU", "l2", "CKA of logits", "l2 of logits"),
    )
    rows = [
        [label, *(readings[name][key] for key in (*keys, "logit_l2"))]
        for name, label in _MAPS.items()
        if name in readings
    ]
    caption = (
        "By the task (left) and by the activations (right), each against the end network. Cross entropy is a mean over "
        "images and classes, as in the original; l2 is a mean squared difference."
    )
    return Table(caption, heads, rows)


def _reading_note(result: Mapping[str, Any]) -> str:
    readings, fit = result["readings"], result["fit"]
    where = f"Least squares was fitted on {fit['images'] or 0:,} images of the split {fit['split']!r}."
    if "least_squares" not in readings:
        return "There is no closed form: the representations are too wide for it."
    trained, fitted = readings["stitched"], readings["least_squares"]
    if trained["accuracy"] > fitted["accuracy"] and (trained["l2"] or 0) > (fitted["l2"] or 0):
        return (
            f"{where} The two readings disagree: the trained map is the better one for the task "
            f"({trained['accuracy']:.2%} against {fitted['accuracy']:.2%}), yet farther from the end network's activations "
            f"(l2 {trained['l2']:.4f} against {fitted['l2']:.4f}), so its accuracy alone says little about similarity."
        )
    return f"{where} Both readings agree on which map is the better one."


def _hits_table(result: Mapping[str, Any]) -> Table:
    heads = ("First and second", "right, right", "right, wrong", "wrong, right", "wrong, wrong")
    names = {"end_stitched": "end, stitched", "end_least_squares": "end, least squares"}
    names |= {"stitched_least_squares": "stitched, least squares", "end_front": "end, front"}
    rows = [[names[key], *(count[k] for k in ("rr", "rw", "wr", "ww"))] for key, count in result["hits"].items()]
    return Table("Test images on which two networks are right or wrong.", heads, rows)


def _parameter_table(result: Mapping[str, Any]) -> Table:
    settings = {**result["parameters"], **{key: result.get(key) for key in _PARAMETERS if key in result}}
    settings["epochs"] = result["parameters"]["epochs"]
    rows = [[key, settings.get(key)] for key in _PARAMETERS if settings.get(key) is not None]
    return Table("What the run was asked for.", ("Setting", "Value"), rows)


def _map_sentences(result: Mapping[str, Any]) -> list[str]:
    norms = ", ".join(f"{name.removesuffix('_w')} {value:.3f}" for name, value in result["norms"].items())
    layer = result["layer"]
    similar = f"Before any map the layers have CKA {_text(layer['cka'])} and l2 {_text(layer['l2'])}."
    return [similar, f"Frobenius norms: {norms}."]


def _matrix_drawings(arrays: Mapping[str, np.ndarray], kind: str, limit: float | None) -> list[Drawing]:
    shown = {
        n.removesuffix("_w").replace("_", " "): a for n, a in arrays.items() if n.endswith("_w") and max(a.shape) <= 512
    }
    if not shown:
        return []
    scale = "from -1 to 1" if limit else "each on its own symmetric scale"
    caption = f"Rows are output channels, columns input channels; {scale}. Gap is least squares minus after."
    return [matrices_drawing(shown, f"matrices-{kind}", caption, limit=limit)]


def _curves(folder: str | Path, result: Mapping[str, Any]) -> list[Drawing]:
    """Those of the stitching, and of the two networks where their runs are still there."""
    paths = [result.get(f"{side}_path") for side in ("front", "end")]
    known = [path for path in paths if path and (Path(path) / "metrics.csv").is_file()]
    return curve_drawings(load_runs([folder, *dict.fromkeys(known)]))


def _facts(result: Mapping[str, Any]) -> dict[str, str]:
    facts = {
        "Front network": result.get("front_path") or result.get("front"),
        "End network": result.get("end_path") or result.get("end"),
        "Command": result.get("command"),
        "Configuration hash": result.get("config_hash"),
        "Git revision": result.get("git_revision"),
        "Frozen weights": "unchanged, compared by SHA-256",
    }
    return {name: str(value) for name, value in facts.items() if value}


def _name(result: Mapping[str, Any], side: str) -> str:
    return Path(str(result.get(side) or result.get(f"{side}_path") or f"the {side} network")).name


def _matched_table(comparison: Mapping[str, Any]) -> Table:
    tables = comparison["tables"]
    rows = []
    for a, b in comparison["matched"]:
        cells = [_cell(comparison, table, a, b) for table in tables.values()]
        rows.append([a if a == b else f"{a} : {b}", *cells])
    caption = "Matched layers. +- is two standard errors; in brackets the mean of unrelated pairings, where computed."
    return Table(caption, ("Layer", *tables), rows)


def _cell(comparison: Mapping[str, Any], table: Mapping[str, Any], a: str, b: str) -> str:
    i, j = comparison["layers_a"].index(a), comparison["layers_b"].index(b)
    value = table["values"][i][j]
    if value is None:
        return "-"
    error = table["error"][i][j] if table["error"] else None
    null = table["null_mean"][i][j] if table["null_mean"] else None
    spread = "" if error is None else f" +- {2 * error:.4f}"
    return f"{value:.4f}{spread}" + ("" if null is None else f" ({null:.3f})")


def _along(comparison: Mapping[str, Any]) -> list[Drawing]:
    where = [(comparison["layers_a"].index(a), comparison["layers_b"].index(b)) for a, b in comparison["matched"]]
    lines = {False: [], True: []}  # type: dict[bool, list[Line]]
    for name, table in comparison["tables"].items():
        arrays = [_along_array(table[key], where) for key in ("values", "error", "null_mean", "null_std")]
        if arrays[0] is not None and np.isfinite(arrays[0]).any():
            bounded = bool(np.nanmax(np.abs(arrays[0])) <= 1.05)
            lines[bounded].append(Line(name, *arrays))
    caption = (
        "Each measure at the matched layers, input left. Bands are two standard errors; grey is where unrelated layers lie "
        "(mean and two deviations over random pairings of the images)."
    )
    names = [a if a == b else f"{a} : {b}" for a, b in comparison["matched"]]
    return [
        line_drawing(names, part, f"along-{'similar' if bounded else 'far'}", caption, "Along the network")
        for bounded, part in ((True, lines[True]), (False, lines[False]))
        if part
    ]


def _along_array(nested: Any, where: list[tuple[int, int]]) -> Any:
    if nested is None:
        return None
    return np.array([np.nan if nested[i][j] is None else nested[i][j] for i, j in where], float)


def _comparison_map(name: str, table: Mapping[str, Any], comparison: Mapping[str, Any]) -> Drawing | None:
    values = np.array([[np.nan if v is None else v for v in row] for row in table["values"]], float)
    if not np.isfinite(values).any():
        return None
    limits = (0.0, 1.0) if np.nanmax(values) <= 1.0 and np.nanmin(values) >= 0.0 else None
    heat = HeatMap(
        f"{name} on {table['images']:,} images",
        comparison["layers_a"],
        comparison["layers_b"],
        values,
        comparison["a"],
        comparison["b"],
        limits,
    )
    caption = f"{name}: rows are layers of {comparison['a']}, columns of {comparison['b']}; grey cells have no value."
    return heat_map_drawing(heat, f"map-{name}", caption)


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        value = float(value)
        return f"{value:.4g}" if abs(value) >= 10 or 0 < abs(value) < 1e-3 else f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
