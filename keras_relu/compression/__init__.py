"""Compact networks made cheaper: pruning, quantization-aware training that keeps the zeros, ReLU predictors, layer fusion.

Stages, each from the run of the one before: vanilla (ordinary training), pruned, then pqat (int8) or pred (predictors).
Spec: fusion. Importing the package imports tensorflow-model-optimization only where it is needed.
"""

__all__: list[str] = []
