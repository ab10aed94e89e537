"""Induction: many ReLUs borrow the sign bits of a few prototype neurons of an earlier layer.

>>> plan = make_plan(model, {"stem_relu": ["stem_relu", "stage1_block1_relu1"]}, prototypes=250)
>>> cache = write_cache(model, dataset, "cache", images=10_000)
>>> assignment = cluster(plan, cache, model=model, dataset=dataset)
>>> induced, facts = build(model, assignment, dataset)
>>> result = finetune(induced, dataset, teacher=model)

`run_induction` does all of it, resumably; `search` chooses the sites and the number of prototypes on validation images.

Sources: specification `induction` of the design; the induced ReLU of A. Jevnisek et al. (secure inference).
"""

from __future__ import annotations

from keras_relu.induction.assignment import Assignment, GroupAssignment, read_assignment, write_assignment
from keras_relu.induction.build import build, induce
from keras_relu.induction.cache import Cache, open_cache, write_cache
from keras_relu.induction.cluster import cluster
from keras_relu.induction.config import PRESETS, ClusterConfig, InduceConfig, PipelineConfig, preset
from keras_relu.induction.finetune import finetune
from keras_relu.induction.flatten import flatten
from keras_relu.induction.mapping import Group, Plan, make_plan, read_mapping
from keras_relu.induction.matrices import from_matrices, read_matrices, to_matrices, write_matrices
from keras_relu.induction.run import run_induction
from keras_relu.induction.search import search

__all__ = [
    "PRESETS",
    "Assignment",
    "Cache",
    "ClusterConfig",
    "Group",
    "GroupAssignment",
    "InduceConfig",
    "PipelineConfig",
    "Plan",
    "build",
    "cluster",
    "finetune",
    "flatten",
    "from_matrices",
    "induce",
    "make_plan",
    "open_cache",
    "preset",
    "read_assignment",
    "read_mapping",
    "read_matrices",
    "run_induction",
    "search",
    "to_matrices",
    "write_assignment",
    "write_cache",
    "write_matrices",
]
