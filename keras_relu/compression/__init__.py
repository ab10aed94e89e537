"""Compact networks made cheaper: pruning, quantization-aware training that keeps the zeros, ReLU predictors, layer fusion.

Stages, each from the run of the one before: vanilla (ordinary training), pruned, then pqat (int8) or pred (predictors).
Spec: fusion.
"""

from keras_relu.compression.config import PqatConfig, PruneConfig
from keras_relu.compression.pqat import pqat
from keras_relu.compression.prediction import PredConfig, predict
from keras_relu.compression.prune import prune

__all__ = ["PqatConfig", "PredConfig", "PruneConfig", "pqat", "predict", "prune"]
