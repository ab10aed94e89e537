"""Names, configurations and instances of small frozen dataclasses, turned into each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from keras_relu.errors import UserError, unknown_key

__all__ = ["from_any", "to_config"]

T = TypeVar("T")


def to_config(value: Any) -> dict[str, Any]:
    """`{"name": ..., option: value}` of a dataclass instance with a class attribute `name`."""
    return {"name": value.name, **dataclasses.asdict(value)}


def from_any(kind: str, value: Any, table: Mapping[str, type[T]], base: type[T]) -> T:
    """An instance of `base` from a name in `table`, a configuration made by `to_config`, or an instance.

    Raises:
        UserError: an unknown name or option, or another type.
    """
    if isinstance(value, base):
        return value
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping) or "name" not in value:
        raise UserError(
            f"A {kind} must be a name, a configuration with a 'name', or a {base.__name__}, received {value!r}."
        )
    return _build(kind, dict(value), table)


def _build(kind: str, config: dict[str, Any], table: Mapping[str, type[T]]) -> T:
    name = config.pop("name")
    if name not in table:
        raise unknown_key(kind, name, table)
    chosen: Any = table[name]
    options = [field.name for field in dataclasses.fields(chosen)]
    for key in config:
        if key not in options:
            raise unknown_key(f"option of {kind} {name!r}", key, options)
    return chosen(**config)
