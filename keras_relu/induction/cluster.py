"""Selection and association for the groups of a plan: cache in, assignment out.

Source: specification `induction` of the design, sections 4 and 10.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tf_keras as keras

from keras_relu.errors import UserError
from keras_relu.files import atomic_path, existing_file
from keras_relu.induction import association
from keras_relu.induction.assignment import Assignment, GroupAssignment
from keras_relu.induction.cache import Cache, take_images
from keras_relu.induction.config import ClusterConfig
from keras_relu.induction.mapping import Group, Plan
from keras_relu.induction.selection import select

if TYPE_CHECKING:
    from keras_relu.data import Dataset

__all__ = ["cluster", "prototypes_file"]


def cluster(
    plan: Plan,
    cache: Cache,
    config: ClusterConfig | Mapping[str, Any] | None = None,
    *,
    model: keras.Model | None = None,
    dataset: Dataset | None = None,
    prototypes_dir: str | os.PathLike | None = None,
    reuse_prototypes: bool = False,
    on_group: Callable[[str], None] | None = None,
) -> Assignment:
    """Prototypes and codes for every group of `plan`.

    Args:
        plan: its sites must be in the cache.
        cache: responses of the network, see `cache.write_cache`.
        config: a `ClusterConfig` or plain values; the number of images is the cache's.
        model: the network the cache was made of; needed for the energy, which sums over its pre-activations.
        dataset: as `model`.
        prototypes_dir: where the prototypes of each inducer are kept, one file each.
        reuse_prototypes: take them from there instead of selecting; the original's IS_RECLUSTER other than TRUE.
        on_group: called with a line of text when a group begins.

    Raises:
        UserError: a stale cache, a missing model or data set, or prototypes that cannot be reused.
    """
    config = config if isinstance(config, ClusterConfig) else ClusterConfig.parse(config or {})
    if model is not None:
        cache.require(model)
    if config.association == "energy" and (model is None or dataset is None):
        raise UserError("The energy association needs the model and the data set; with hamming the cache is enough.")
    groups, statistics = [], {}
    for group in plan.groups:
        if on_group:
            on_group(f"{group.inducer}: {group.prototypes} prototypes for {len(group.induced)} sites")
        prototypes = _prototypes(group, cache, config, prototypes_dir, reuse_prototypes)
        codes, lost = _codes(group, prototypes, cache, config, model, dataset)
        if group.self_induced and config.ties == "self":
            codes[group.inducer] = association.self_first(codes[group.inducer], prototypes)
        shapes = {name: plan.site(name).shape for name in group.induced}
        groups.append(GroupAssignment(group.inducer, plan.site(group.inducer).shape, prototypes, codes, shapes))
        for name in group.induced:
            wrong = association.cached_mismatch(cache, group.inducer, prototypes, name, codes[name])
            statistics[name] = {"inducer": group.inducer, "mismatch": wrong, "lost_energy": lost.get(name)}
    facts = {
        **{key: value for key, value in config.to_dict().items() if key not in ("images", "split")},
        **{key: cache.header[key] for key in ("model_hash", "images", "split", "dataset")},
        "prototypes": {group.inducer: group.prototypes for group in plan.groups},
        "sites": statistics,
    }
    return Assignment(tuple(groups), plan.identity, facts)


def prototypes_file(folder: str | os.PathLike, inducer: str, count: int, config: ClusterConfig, cache: Cache) -> Path:
    """Where the prototypes of an inducer are kept: named with K, selection, seed, M and the network's hash."""
    name = (
        f"{inducer}_K{count}_{config.selection}_seed{config.seed}_M{cache.images}_{cache.header['model_hash'][:8]}.npy"
    )
    return Path(folder) / name


def _prototypes(
    group: Group, cache: Cache, config: ClusterConfig, folder: str | os.PathLike | None, reuse: bool
) -> np.ndarray:
    file = None if folder is None else prototypes_file(folder, group.inducer, group.prototypes, config, cache)
    if reuse and file is None:
        raise UserError(
            "reuse_prototypes needs prototypes_dir, the folder with the prototypes of an earlier clustering."
        )
    words = cache.bits(group.inducer)
    if reuse and file is not None:
        return _read_prototypes(file, len(words))
    others = [name for name in group.induced if name != group.inducer] if config.selection == "kmodes" else []
    union = [cache.bits(name) for name in others]
    found = select(config.selection, words, group.prototypes, images=cache.images, seed=config.seed, union=union)
    if file is not None:
        with atomic_path(file) as temporary, open(temporary, "wb") as stream:
            np.save(stream, found, allow_pickle=False)
    return found


def _read_prototypes(file: Path, size: int) -> np.ndarray:
    try:
        found = np.load(existing_file(file, "file of prototypes"), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"The prototypes {str(file)!r} cannot be read: {error}.") from error
    valid = found.ndim == 1 and found.dtype == np.int64 and found.size and 0 <= found.min() <= found.max() < size
    if not valid or len(np.unique(found)) != len(found):
        raise UserError(f"The prototypes {str(file)!r} must be different whole numbers from 0 to {size - 1}.")
    return found


def _codes(
    group: Group,
    prototypes: np.ndarray,
    cache: Cache,
    config: ClusterConfig,
    model: keras.Model | None,
    dataset: Dataset | None,
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    options = {"polarity": config.polarity, "constants": config.constants}
    if config.association == "hamming":
        rows = cache.rows(group.inducer, prototypes)
        # One site at a time: mapped pages count as memory as long as they are mapped.
        return {n: association.hamming_codes(cache.bits(n), rows, cache.images, **options) for n in group.induced}, {}
    assert model is not None
    assert dataset is not None
    images = min(config.energy_images or cache.images, cache.images)
    part = take_images(dataset, cache.header["split"], images)
    return association.energy_codes(
        model, group.inducer, prototypes, group.induced, part, dataset.normalization, **options
    )
