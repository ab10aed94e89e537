"""Replacement: learn which ReLU elements a network needs, turn the rest into identity, lines or quadratics.

The life cycle is wrap, train, freeze, strip; `reduce` runs it whole, `sweep` over many budgets and replacements:

>>> gated = replace_relus(model, gate="hysteresis", replacement="quadratic")
>>> search(gated, dataset, budget=18_841)
>>> freeze(gated, 18_841)
>>> finetune(gated, dataset)
>>> plain = strip(gated)

Source: specification `replacement` of the design; AutoReP (Peng et al., ICCV 2023, arXiv 2308.10134) and Selective Network
Linearization (Cho et al., ICML 2022, arXiv 2202.02340).
"""

from __future__ import annotations

from keras_relu.replacement.config import PRESETS, Distillation, Finetune, ReduceConfig, Search, preset
from keras_relu.replacement.lifecycle import freeze, gated_layers, kept_count, masks, replace_relus, strip
from keras_relu.replacement.ranking import parse_budget
from keras_relu.replacement.reduce import Reduction, finetune, reduce, search

__all__ = [
    "PRESETS",
    "Distillation",
    "Finetune",
    "ReduceConfig",
    "Reduction",
    "Search",
    "finetune",
    "freeze",
    "gated_layers",
    "kept_count",
    "masks",
    "parse_budget",
    "preset",
    "reduce",
    "replace_relus",
    "search",
    "strip",
]
