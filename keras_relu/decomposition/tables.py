"""Index files: the influential filters of each class, in the original's JSON format, with a manifest beside.

`indices.json` is `{"0": [22, 50, ...], "1": [...], ...}`: class number -> filters, best first. `indices.manifest.json`
says what they are: number of filters, layer, rule, data set, and the model they were taken from. Files without a
manifest, the published ones for example, are read as well. Pickles are refused: reading one can run code.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from keras_relu.class_filters import checked_rows
from keras_relu.errors import UserError
from keras_relu.files import existing_file, read_json, sha256, write_json, write_text

__all__ = ["FilterTable", "expand_paths", "manifest_path", "read_table", "table_path", "write_table"]


@dataclass(frozen=True)
class FilterTable:
    """The influential filters of every class.

    Attributes:
        rows: one list of filters per class, best first.
        facts: what the manifest says: filters, layer, rule, top_k, dataset, model_hash, scores and more; {} without one.
        path: where it was read from.
    """

    rows: list[list[int]]
    facts: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None

    @property
    def classes(self) -> int:
        """Number of classes C."""
        return len(self.rows)

    @property
    def top_k(self) -> int | float:
        """Filters per class as asked for, a whole number or a fraction; without a manifest their mean number."""
        count = sum(len(row) for row in self.rows) / self.classes
        return self.facts.get("top_k", int(count) if count.is_integer() else count)

    @property
    def name(self) -> str:
        """File name, or what it is called in messages and tables."""
        return self.path.name if self.path else f"{self.facts.get('rule', 'filters')} k={self.top_k:g}"

    def filters(self) -> int:
        """Number of filters D: as recorded, otherwise the largest index + 1."""
        return int(self.facts.get("filters") or max(max(row) for row in self.rows) + 1)

    def membership(self, filters: int | None = None) -> np.ndarray:
        """0/1 of [C, D]: whether the class has the filter."""
        member = np.zeros((self.classes, filters or self.filters()), np.int64)
        for number, row in enumerate(self.rows):
            member[number, row] = 1
        return member

    def describe(self) -> dict[str, Any]:
        """The few facts that results repeat."""
        return {
            "file": str(self.path) if self.path else None,
            "top_k": self.top_k,
            "rule": self.facts.get("rule"),
            "layer": self.facts.get("layer"),
        }


def manifest_path(path: str | os.PathLike) -> Path:
    """`indices.json` -> `indices.manifest.json`."""
    return Path(path).with_suffix(".manifest.json")


def table_path(path: str | os.PathLike, size: float, *, several: bool) -> Path:
    """The file of one k: `path` itself, or `indices_5.json` beside it when there are several.

    Raises:
        UserError: the name does not end in .json, or ends as manifests do.
    """
    path = Path(path)
    if path.suffix != ".json" or path.name.endswith(".manifest.json"):
        raise UserError(f"An index file must be named <name>.json, received {str(path)!r}.")
    return path.with_name(f"{path.stem}_{size}{path.suffix}") if several else path


def expand_paths(paths: Sequence[str | os.PathLike]) -> list[Path]:
    """Existing files; `indices.json` that does not exist itself stands for `indices_5.json`, `indices_10.json`, ...

    Raises:
        UserError: neither the file nor its family exists.
    """
    return [found for path in paths for found in _expand(Path(path))]


def _expand(path: Path) -> list[Path]:
    if path.exists():
        return [path]
    sized = re.compile(rf"{re.escape(path.stem)}_(\d+(?:\.\d+)?(?:e-\d+)?){re.escape(path.suffix)}")
    family = [(float(hit[1]), file) for file in sorted(path.parent.glob("*")) if (hit := sized.fullmatch(file.name))]
    return [file for _, file in sorted(family)] or [existing_file(path, "index file")]


def write_table(path: str | os.PathLike, table: FilterTable) -> None:
    """Write the index file and its manifest, each atomically.

    Raises:
        UserError: the name does not end in .json, or ends as manifests do.
    """
    path = table_path(path, table.top_k, several=False)
    write_text(path, json.dumps({str(number): row for number, row in enumerate(table.rows)}))
    write_json(manifest_path(path), {**table.facts, "sha256": sha256(path)})


def read_table(path: str | os.PathLike, *, classes: int | None = None, filters: int | None = None) -> FilterTable:
    """The table in an index file, with its manifest's facts when there is one.

    Args:
        classes: number of classes it must have.
        filters: number of filters that exist; a larger index is refused.

    Raises:
        UserError: missing, not JSON or not such a table; class numbers that are not 0, 1, 2, ...; a filter that is no
            whole number, negative, too large or listed twice; other classes than asked for; a manifest that is
            damaged or belongs to another content.
    """
    path = existing_file(path, "index file")
    rows = _rows(path)
    facts = _facts(path)
    if classes is not None and len(rows) != classes:
        raise UserError(f"The index file {str(path)!r} is for {len(rows)} classes; {classes} are needed.")
    try:
        return FilterTable(checked_rows(rows, filters or facts.get("filters")), facts, path)
    except UserError as error:
        raise UserError(f"The index file {str(path)!r} is malformed: {error}") from None


def _rows(path: Path) -> list[Any]:
    try:
        text = path.read_bytes().decode("utf-8")
        content = json.loads(text, object_pairs_hook=_without_doubles)
    except (ValueError, IsADirectoryError) as error:
        raise UserError(
            f"The index file {str(path)!r} is not JSON ({error}); expected class number -> list of filters. "
            "Pickled index files are not read."
        ) from None
    if not isinstance(content, dict) or not content or not all(isinstance(row, list) for row in content.values()):
        raise UserError(f"The index file {str(path)!r} must be an object of class number -> list of filters.")
    wanted = [str(number) for number in range(len(content))]
    if set(content) != set(wanted):
        odd = next(key for key in content if key not in wanted)
        raise UserError(
            f"The index file {str(path)!r} has the class {odd!r}; its {len(wanted)} classes must be 0 to {len(wanted) - 1}."
        )
    return [content[number] for number in wanted]


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key stands twice")
    return content


def _facts(path: Path) -> dict[str, Any]:
    file = manifest_path(path)
    if not file.exists():
        return {}
    facts = read_json(file, "manifest")
    if not isinstance(facts, dict) or not _is_number(facts.get("filters"), whole=True):
        raise UserError(f"The manifest {str(file)!r} is malformed: it must be an object with the number of 'filters'.")
    texts = [facts.get(key) for key in ("rule", "layer", "dataset", "model_hash")]
    if not all(text is None or isinstance(text, str) for text in texts) or not _is_number(facts.get("top_k", 1)):
        raise UserError(
            f"The manifest {str(file)!r} is malformed: top_k must be a number above 0, and rule, layer, dataset and "
            "model_hash texts."
        )
    if facts.get("sha256") != sha256(path):
        raise UserError(
            f"The index file {str(path)!r} is not the one its manifest was written for; remove {file.name} if it was "
            "changed on purpose."
        )
    return facts


def _is_number(value: Any, *, whole: bool = False) -> bool:
    return (
        isinstance(value, int if whole else (int, float)) and not isinstance(value, bool) and 0 < value < float("inf")
    )
