"""Which site borrows from which: the mapping file, its rules, and the comparisons that will be left.

A mapping names inducers and the sites each of them induces, itself included for self-induction. Read are the original's
JSON ({inducer: [site, ...]}) and its YAML (`inducer_to_induced`, `order`, `num_prototypes`, `epochs`, `set_as_relu`,
`set_as_identity`). Every rule is checked before anything heavy starts.

Source: specification `induction` of the design, sections 1.5, 5.4 and 6.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tf_keras as keras
import yaml

from keras_relu import surgery
from keras_relu.config import yaml_problem
from keras_relu.errors import UserError, unknown_key
from keras_relu.files import existing_file
from keras_relu.induction.flatten import resolve
from keras_relu.surgery import Site

__all__ = ["Group", "Plan", "make_plan", "normalised", "read_mapping", "sites_of"]

_YAML_KEYS = ("epochs", "inducer_to_induced", "num_prototypes", "order", "set_as_identity", "set_as_relu")


@dataclass(frozen=True)
class Group:
    """One inducer and what it induces.

    Attributes:
        inducer: site whose prototypes are compared.
        induced: sites that borrow, in the order of the graph; the inducer itself first when it is self-induced.
        prototypes: K, the number of prototypes.
    """

    inducer: str
    induced: tuple[str, ...]
    prototypes: int

    @property
    def self_induced(self) -> bool:
        """Whether the inducer borrows its own bits."""
        return self.inducer in self.induced

    @property
    def sites(self) -> tuple[str, ...]:
        """The inducer and its induced sites, each once."""
        return tuple(dict.fromkeys((self.inducer, *self.induced)))


@dataclass(frozen=True)
class Plan:
    """A checked mapping for one network.

    Attributes:
        sites: all ReLU sites of the network, in order.
        groups: in the order in which they are induced.
        identity: sites that become the identity.
        epochs: of the fine-tuning after each group, where the mapping says so.
    """

    sites: tuple[Site, ...]
    groups: tuple[Group, ...]
    identity: tuple[str, ...] = ()
    epochs: tuple[int, ...] | None = None

    def site(self, name: str) -> Site:
        """The site called `name`."""
        return next(site for site in self.sites if site.name == name)

    def rows(self, used: Mapping[str, int] | None = None) -> list[dict[str, Any]]:
        """One row per site: name, shape, role, inducer, comparisons before and left (specification, section 1.5).

        Args:
            used: {inducer: prototypes that something really borrows}; without it every prototype counts.
        """
        return [self._row(site, used or {}) for site in self.sites]

    def _row(self, site: Site, used: Mapping[str, int]) -> dict[str, Any]:
        before = math.prod(site.shape) * (1 if site.max_value is None else 2)
        role, inducer, left = "plain", None, before
        if site.name in self.identity:
            role, left = "identity", 0
        for group in self.groups:
            count = used.get(group.inducer, group.prototypes)
            if site.name == group.inducer:
                role, inducer, left = ("self", site.name, count) if group.self_induced else ("inducer", None, before)
            elif site.name in group.induced:
                role, inducer, left = "induced", group.inducer, 0
        shape = list(site.shape)
        facts = {"site": site.name, "shape": shape, "role": role, "inducer": inducer}
        return {**facts, "comparisons_before": before, "comparisons": left}

    def comparison_count(self, used: Mapping[str, int] | None = None) -> int:
        """Comparisons left per image."""
        return sum(row["comparisons"] for row in self.rows(used))

    def describe(self, used: Mapping[str, int] | None = None) -> dict[str, Any]:
        """The plan as plain values."""
        rows = self.rows(used)
        before, left = (sum(row[key] for row in rows) for key in ("comparisons_before", "comparisons"))
        groups = [{"inducer": g.inducer, "induced": list(g.induced), "prototypes": g.prototypes} for g in self.groups]
        return {
            "groups": groups,
            "identity": list(self.identity),
            "comparisons_before": before,
            "comparisons": left,
            "comparison_fraction": left / before if before else 0.0,
            "sites": rows,
        }


def sites_of(model: keras.Model) -> tuple[Site, ...]:
    """The ReLU sites of a model, those of models nested in it under the names they get once these are unpacked."""
    return tuple(surgery.find_sites(model))


def read_mapping(path: str | os.PathLike) -> dict[str, Any]:
    """A mapping file as {"inducer_to_induced": ..., and any other of the YAML's keys that it has}.

    Raises:
        UserError: no such file, neither JSON nor YAML, a key twice, or an unknown key.
    """
    file = existing_file(path, "mapping")
    try:
        text = file.read_text(encoding="utf-8")
        values = _read_json(text) if file.suffix == ".json" else _UniqueLoader(text).get_single_data()
    except (json.JSONDecodeError, UnicodeDecodeError, yaml.YAMLError, IsADirectoryError) as error:
        raise UserError(f"The mapping {str(path)!r} cannot be read: {yaml_problem(error)}.") from error
    return normalised(values, str(path))


def normalised(values: Any, name: str = "mapping") -> dict[str, Any]:
    """`values` in the form that `read_mapping` returns: a plain {inducer: sites} becomes its `inducer_to_induced`."""
    if not isinstance(values, Mapping) or not values:
        raise UserError(f"The mapping {name!r} must be an object {{inducer: [site, ...]}}, received {values!r:.80}.")
    if "inducer_to_induced" not in values:
        values = {"inducer_to_induced": dict(values)}
    for key in values:
        if key not in _YAML_KEYS:
            raise unknown_key(f"key in the mapping {name!r}", key, _YAML_KEYS)
    return dict(values)


def _read_json(text: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [key for key, _ in pairs]
        for key in names:
            if names.count(key) > 1:
                raise UserError(
                    f"The mapping has the key {key!r} {names.count(key)} times; each inducer may stand once."
                )
        return dict(pairs)

    return json.loads(text, object_pairs_hook=unique)


class _UniqueLoader(yaml.SafeLoader):
    """The safe loader, which refuses a key that stands twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        names = [self.construct_object(key, deep=True) for key, _ in node.value]
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"The mapping has the key {name!r} {names.count(name)} times; each may stand once.")
        return super().construct_mapping(node, deep)


def make_plan(
    sites: keras.Model | Sequence[Site],
    mapping: Mapping[str, Any] | str | os.PathLike,
    prototypes: int | Sequence[int] | None = None,
) -> Plan:
    """Check a mapping against a network.

    Args:
        sites: the network, or its sites.
        mapping: a file, or its content; names may be the original's (`relu0`, `layer1[0].relu_1`).
        prototypes: K, one for all inducers or one each (in the mapping's `order` where it has one); None takes the mapping's
            `num_prototypes`.

    Raises:
        UserError: an unknown site; a site before its inducer, induced twice, induced and the identity, or an inducer that
            another induces; an empty list; a number of prototypes that is missing, or not within 1 and the inducer's size.
    """
    known = tuple(sites) if isinstance(sites, Sequence) else sites_of(sites)
    values = read_mapping(mapping) if isinstance(mapping, (str, os.PathLike)) else normalised(mapping)
    names = [site.name for site in known]
    groups = _groups(values["inducer_to_induced"], names)
    identity = tuple(_known(name, names) for name in _listed(values, "set_as_identity"))
    plain = [_known(name, names) for name in _listed(values, "set_as_relu")]
    order = [_known(name, names) for name in _listed(values, "order")] or list(groups)
    if sorted(order) != sorted(groups):
        raise UserError(f"order must name every inducer once: {', '.join(groups)}; received {', '.join(order)}.")
    _check_roles(groups, identity, plain)
    counts = _counts(order, prototypes if prototypes is not None else values.get("num_prototypes"))
    ordered = [_group(name, groups[name], counts[name], known) for name in order]
    return Plan(known, tuple(ordered), identity, _epochs(values.get("epochs"), len(order)))


def _groups(table: Any, names: Sequence[str]) -> dict[str, list[str]]:
    if not isinstance(table, Mapping) or not table:
        raise UserError(f"A mapping needs at least one inducer with a list of sites, received {table!r:.80}.")
    groups: dict[str, list[str]] = {}
    for inducer, induced in table.items():
        if not isinstance(induced, (list, tuple)) or not induced:
            raise UserError(f"The inducer {inducer!r} needs a list of at least one site, received {induced!r:.80}.")
        name = _known(inducer, names)
        if name in groups:
            raise UserError(f"The inducer {name!r} stands twice in the mapping, under two names.")
        groups[name] = [_known(other, names) for other in induced]
    return groups


def _known(name: Any, names: Sequence[str]) -> str:
    found = resolve(str(name), names)
    if found not in names:
        raise unknown_key("ReLU site in the mapping", str(name), names)
    return found


def _listed(values: Mapping[str, Any], key: str) -> list[Any]:
    given = values.get(key) or []
    if not isinstance(given, (list, tuple)):
        raise UserError(f"{key} must be a list of sites, received {given!r:.80}.")
    return list(given)


def _check_roles(groups: Mapping[str, list[str]], identity: Iterable[str], plain: Iterable[str]) -> None:
    inducer_of: dict[str, str] = {}
    for inducer, induced in groups.items():
        for name in induced:
            if name in inducer_of:
                raise UserError(f"Site {name!r} is induced twice, by {inducer_of[name]!r} and by {inducer!r}.")
            inducer_of[name] = inducer
    for name, inducer in inducer_of.items():
        if name in groups and name != inducer:
            raise UserError(
                f"Site {name!r} is an inducer and induced by {inducer!r}; an inducer may only be induced by itself."
            )
    for role, others in (("the identity", identity), ("a plain ReLU", plain)):
        for name in others:
            if name in inducer_of or name in groups:
                raise UserError(f"Site {name!r} is both {role} and part of an induction.")
    both = set(identity) & set(plain)
    if both:
        raise UserError(f"Site {min(both)!r} is both the identity and a plain ReLU.")


def _counts(inducers: Sequence[str], given: Any) -> dict[str, int]:
    if given is None:
        raise UserError("The number of prototypes is missing: give one for all inducers or one each, in their order.")
    numbers = list(given) if isinstance(given, (list, tuple)) else [given] * len(inducers)
    if len(numbers) != len(inducers):
        raise UserError(f"There are {len(inducers)} inducers, but {len(numbers)} numbers of prototypes.")
    return dict(zip(inducers, numbers, strict=True))


def _group(inducer: str, induced: Sequence[str], prototypes: Any, sites: Sequence[Site]) -> Group:
    position = {site.name: index for index, site in enumerate(sites)}
    size = math.prod(sites[position[inducer]].shape)
    for name in induced:
        if position[name] < position[inducer]:
            raise UserError(
                f"Site {name!r} comes before its inducer {inducer!r}; bits can only be borrowed from earlier."
            )
    if isinstance(prototypes, bool) or not isinstance(prototypes, int) or not 1 <= prototypes <= size:
        raise UserError(f"The inducer {inducer!r} can have 1 to {size} prototypes, received {prototypes!r}.")
    return Group(inducer, tuple(sorted(induced, key=position.__getitem__)), prototypes)


def _epochs(given: Any, count: int) -> tuple[int, ...] | None:
    if given is None:
        return None
    valid = isinstance(given, (list, tuple)) and all(isinstance(n, int) and n >= 0 for n in given)
    if not valid or len(given) != count:
        raise UserError(f"epochs must be {count} whole numbers, one per inducer, received {given!r:.80}.")
    return tuple(given)
