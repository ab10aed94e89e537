"""The report of compression: all variants of a network in one table and plot, and predictor quality layer by layer.

It shows what `keras-relu variants` read from the runs and does not import TensorFlow.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_relu.errors import UserError
from keras_relu.files import read_json
from keras_relu.report import compression_figures as figures
from keras_relu.report import sections

__all__ = ["VARIANT_HEADS", "build_report", "read_variants", "variant_rows"]

VARIANT_HEADS = (
    "variant",
    "stage",
    "accuracy",
    "parameters",
    "multiplications",
    "fused",
    "sparsity",
    "file bytes",
    "zipped bytes",
    "latency (ms)",
)
_PREDICTOR_HEADS = ("predictor", "precision", "recall", "false negatives", "live", "predicted live")
_PREDICTOR_KEYS = ("precision", "recall", "false_negative_fraction", "live_fraction", "predicted_fraction")
_NUMBERS = ("parameters", "macs", "bytes", "compressed_bytes", "latency_ms")


def read_variants(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The entries that `keras-relu variants --save` wrote.

    Raises:
        UserError: the file is missing or holds something else.
    """
    content = read_json(path, "table of variants")
    entries = content.get("variants") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries or not all(map(_is_variant, entries)):
        raise UserError(f"{str(path)!r} is no table of variants; write one with `keras-relu variants --save`.")
    return entries


def _is_variant(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("name"), str)
        and all(isinstance(entry.get(key), (int, float)) for key in _NUMBERS)
    )


def variant_rows(variants: Sequence[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    """The rows of the table under `VARIANT_HEADS`."""
    return [
        (
            entry["name"],
            f"{entry.get('stage')}{', int8' if entry.get('int8') else ''}",
            None if entry.get("accuracy") is None else f"{100 * entry['accuracy']:.2f} %",
            entry["parameters"],
            entry["macs"],
            entry.get("fused_multiplications"),
            None if entry.get("sparsity") is None else f"{100 * entry['sparsity']:.2f} %",
            entry["bytes"],
            entry["compressed_bytes"],
            f"{entry['latency_ms']:.3g}",
        )
        for entry in variants
    ]


def build_report(
    variants: Sequence[Mapping[str, Any]], output: str | os.PathLike, *, figures_dir: str | os.PathLike | None = None
) -> Path:
    """Write the report of the entries of `compression.variants.describe_variants` to the HTML file `output`.

    Args:
        figures_dir: each figure also goes there as `<name>.svg` and `<name>.png`.

    Raises:
        UserError: no entry; `output` is a directory or `figures_dir` a file.
        KerasReLUError: a file cannot be written.
    """
    if not variants:
        raise UserError("A report needs at least one variant, received none.")
    parts = [_variants(variants), *_predictors(variants)]
    names = [str(entry["name"]) for entry in variants]
    return sections.write_page("Compression", names, parts, output, figures_dir=figures_dir)


def _variants(variants: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    title = (
        "Accuracy on the test images. Multiplications per image: of the network as it is, and with its wide blocks fused. "
        "Sparsity of all kernels, predictors left out. Size and latency (median of single images on one thread) are those "
        "of the TFLite file, which computes a predicted network unfused, predictors and all."
    )
    table = sections.table(title, VARIANT_HEADS, variant_rows(variants))
    return sections.section("Variants", [table], figures.variant_drawings(variants))


def _predictors(variants: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    parts = []
    for index, entry in enumerate(variants, 1):
        if not entry.get("predictors"):
            continue
        rows = [(one["name"], *(one.get(key) for key in _PREDICTOR_KEYS)) for one in entry["predictors"]]
        title = "Per predicted ReLU on the validation images: precision and recall of 'live', and fractions of all activations."
        table = sections.table(title, _PREDICTOR_HEADS, rows)
        drawing = figures.predictor_drawing(entry, f"predictors-{index}")
        parts.append(sections.section(f"Predictors of {entry['name']}", [table], [drawing]))
    return parts
