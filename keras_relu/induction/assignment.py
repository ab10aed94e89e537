"""The outcome of clustering: prototypes of each inducer and what every induced neuron borrows, as one file.

Indices are places in the row-major flattened [H, W, C]; `matrices` converts to the original's channel-first order.
"""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from keras_relu.errors import UserError
from keras_relu.files import atomic_path, existing_file
from keras_relu.induction.mapping import Plan

__all__ = ["Assignment", "GroupAssignment", "file_name", "read_assignment", "write_assignment"]


@dataclass(frozen=True, eq=False)
class GroupAssignment:
    """One inducer's prototypes and the codes of its induced sites.

    Attributes:
        inducer: name of the site.
        shape: its per-image shape.
        prototypes: int64 [K], different places in the flattened inducer.
        codes: {site: int32 [N]}, see `activations.induced.gate_bits`.
        shapes: {site: per-image shape}.
    """

    inducer: str
    shape: tuple[int, ...]
    prototypes: np.ndarray
    codes: Mapping[str, np.ndarray]
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def usage(self) -> np.ndarray:
        """Neurons that borrow each prototype or its complement: int64 [K]."""
        count = len(self.prototypes)
        total = np.zeros(count, np.int64)
        for codes in self.codes.values():
            borrowed = codes[codes < 2 * count]
            total += np.bincount(borrowed % count, minlength=count) if count else 0
        return total

    def pruned(self) -> GroupAssignment:
        """Without the prototypes that nobody borrows: nobody has to compare them."""
        kept = np.flatnonzero(self.usage)
        count, left = len(self.prototypes), len(kept)
        table = np.full(2 * count + 2, -1, np.int32)
        table[kept] = np.arange(left)
        table[count + kept] = left + np.arange(left)
        table[2 * count :] = 2 * left, 2 * left + 1
        codes = {name: table[values] for name, values in self.codes.items()}
        return replace(self, prototypes=self.prototypes[kept], codes=codes)


@dataclass(frozen=True, eq=False)
class Assignment:
    """Assignments of all groups.

    Attributes:
        groups: in the order in which they were made.
        identity: sites that become the identity.
        facts: how it was made: selection, association, seed, images, model_hash, statistics by site, ...
    """

    groups: tuple[GroupAssignment, ...]
    identity: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def used(self) -> dict[str, int]:
        """{inducer: prototypes that something borrows}."""
        return {group.inducer: int(np.count_nonzero(group.usage)) for group in self.groups}

    def joined(self, other: Assignment) -> Assignment:
        """The groups of both; for inducers that are clustered one after the other."""
        both = {key: {**self.facts.get(key, {}), **other.facts.get(key, {})} for key in ("prototypes", "sites")}
        facts = {**self.facts, **other.facts, **both}
        return Assignment((*self.groups, *other.groups), self.identity, facts)


def file_name(plan: Plan, *, selection: str, association: str, seed: int, images: int, model_hash: str) -> str:
    """A name that tells inducers, K, recipe, seed, M and the network's hash apart."""
    first, count = plan.groups[0], len(plan.groups)
    inducers = first.inducer if count == 1 else f"{first.inducer}-and-{count - 1}-more"
    prototypes = "-".join(dict.fromkeys(str(group.prototypes) for group in plan.groups))
    return f"{inducers}_K{prototypes}_{selection}-{association}_seed{seed}_M{images}_{model_hash[:8]}.npz"


def write_assignment(path: str | os.PathLike, assignment: Assignment) -> None:
    """Write an assignment as .npz, atomically; the same assignment gives the same bytes."""
    groups = [
        {"inducer": g.inducer, "shape": list(g.shape), "sites": [[name, list(s)] for name, s in g.shapes.items()]}
        for g in assignment.groups
    ]
    header = {"groups": groups, "identity": list(assignment.identity), "facts": dict(assignment.facts)}
    arrays: dict[str, np.ndarray] = {"header": np.array(json.dumps(header, sort_keys=True, allow_nan=False))}
    for number, group in enumerate(assignment.groups):
        arrays[f"{number}/prototypes"] = np.asarray(group.prototypes, np.int64)
        for name, codes in group.codes.items():
            arrays[f"{number}/{name}"] = np.asarray(codes, np.int32)
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]


def read_assignment(path: str | os.PathLike) -> Assignment:
    """The assignment that `write_assignment` wrote.

    Raises:
        UserError: no such file, damaged, or its numbers are out of range.
    """
    file = existing_file(path, "assignment")
    try:
        with np.load(file, allow_pickle=False) as archive:
            header = json.loads(str(archive["header"]))
            groups = tuple(_read_group(archive, number, entry) for number, entry in enumerate(header["groups"]))
            return Assignment(groups, tuple(header["identity"]), header["facts"])
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"The assignment {str(path)!r} is damaged or no such file: {error}.") from error


def _read_group(archive: Any, number: int, entry: Mapping[str, Any]) -> GroupAssignment:
    shapes = {name: tuple(shape) for name, shape in entry["sites"]}
    prototypes = archive[f"{number}/prototypes"]
    codes = {name: archive[f"{number}/{name}"] for name in shapes}
    if prototypes.ndim != 1 or (
        prototypes.size and not 0 <= prototypes.min() <= prototypes.max() < math.prod(entry["shape"])
    ):
        raise ValueError(f"prototypes of {entry['inducer']} are out of range")
    for name, values in codes.items():
        fits = values.shape == (math.prod(shapes[name]),) and values.min() >= 0
        if not fits or values.max() > 2 * len(prototypes) + 1:
            raise ValueError(f"codes of {name} are out of range")
    return GroupAssignment(entry["inducer"], tuple(entry["shape"]), prototypes, codes, shapes)
