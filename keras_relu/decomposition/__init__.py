"""Decomposition: which few filters each class lives on, and a last layer in which every class reads only those.

>>> tables = extract(model, dataset, top_k=(5, 10, 20))
>>> validate(model, tables, dataset)["decomposed"]["correct"]
>>> small = decompose(model, tables[0].rows)
>>> tuned, result = finetune(model, tables[0], dataset)

Beside it: how essential the filters are (`essential`), what the lists of two classes share (`information`), class
selectivity (`selectivity`), and the comparison with class-specific gates (`csg`, `gated`). What needs a network loads
TensorFlow on first use; index files, rules, gates and mutual information do not.

Source: Badola et al., "Decomposing the Deep" (arXiv 2112.07719); specification `decomposition` of the design.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from keras_relu.decomposition import csg, information, selectivity
from keras_relu.decomposition.comparison import compare_gates
from keras_relu.decomposition.noise import essential
from keras_relu.decomposition.selection import RULES, ResponseStatistics, select
from keras_relu.decomposition.tables import FilterTable, read_table, write_table

if TYPE_CHECKING:
    from keras_relu.decomposition import gated
    from keras_relu.decomposition.extraction import extract, gather_statistics
    from keras_relu.decomposition.finetuning import finetune
    from keras_relu.decomposition.gated import train_gated
    from keras_relu.decomposition.head import decompose, feature_model, find_head
    from keras_relu.decomposition.validation import collect_features, validate

__all__ = [
    "RULES",
    "FilterTable",
    "ResponseStatistics",
    "collect_features",
    "compare_gates",
    "csg",
    "decompose",
    "essential",
    "extract",
    "feature_model",
    "find_head",
    "finetune",
    "gated",
    "gather_statistics",
    "information",
    "read_table",
    "select",
    "selectivity",
    "train_gated",
    "validate",
    "write_table",
]

_WITH_TENSORFLOW = {
    "collect_features": "validation",
    "decompose": "head",
    "extract": "extraction",
    "feature_model": "head",
    "find_head": "head",
    "finetune": "finetuning",
    "gather_statistics": "extraction",
    "train_gated": "gated",
    "validate": "validation",
}


def __getattr__(name: str) -> Any:
    if name in _WITH_TENSORFLOW:
        return getattr(importlib.import_module(f"{__name__}.{_WITH_TENSORFLOW[name]}"), name)
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
