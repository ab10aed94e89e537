"""Decomposition: which few filters each class lives on, and a last layer in which every class reads only those.

>>> tables = extract(model, dataset, top_k=(5, 10, 20))
>>> validate(model, tables, dataset)["decomposed"]["correct"]
>>> small = decompose(model, tables[0].rows)
>>> tuned, result = finetune(model, tables[0], dataset)

Beside it: how essential the filters are (`essential`), what the lists of two classes share (`information`), class
selectivity (`selectivity`), and the comparison with class-specific gates (`csg`, `gated`).

Source: Badola et al., "Decomposing the Deep" (arXiv 2112.07719); specification `decomposition` of the design.
"""

from __future__ import annotations

from keras_relu.decomposition import csg, gated, information, selectivity
from keras_relu.decomposition.essential import essential
from keras_relu.decomposition.extract import extract, gather_statistics
from keras_relu.decomposition.finetune import finetune
from keras_relu.decomposition.gated import train_gated
from keras_relu.decomposition.head import decompose, feature_model, find_head
from keras_relu.decomposition.selection import RULES, ResponseStatistics, select
from keras_relu.decomposition.tables import FilterTable, read_table, write_table
from keras_relu.decomposition.validate import collect_features, validate

__all__ = [
    "RULES",
    "FilterTable",
    "ResponseStatistics",
    "collect_features",
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
