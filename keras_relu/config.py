"""Typed configuration: unknown keys are refused with the nearest valid one, values are checked before anything heavy starts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic
import yaml
from typing_extensions import Self

from keras_relu.errors import UserError, unknown_key
from keras_relu.files import existing_file

__all__ = ["Config", "load_yaml", "merged", "yaml_problem"]


class Config(pydantic.BaseModel):
    """Base of every configuration: immutable, no unknown keys, errors in one sentence."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """A checked configuration from plain values.

        Raises:
            UserError: an unknown key (with the nearest valid one), a wrong type or a value out of range.
        """
        try:
            return cls.model_validate(dict(values))
        except pydantic.ValidationError as error:
            raise _explain(cls, error.errors()[0]) from None

    def to_dict(self) -> dict[str, Any]:
        """Plain values that `parse` and YAML accept."""
        return self.model_dump(mode="json")


def _explain(cls: type[Config], problem: Mapping[str, Any]) -> UserError:
    where = [str(part) for part in problem["loc"]]
    if problem["type"] == "extra_forbidden":
        return unknown_key(f"key in {'.'.join(where[:-1]) or cls.__name__}", where[-1], _fields(cls, where[:-1]))
    if problem["type"] == "literal_error":
        return unknown_key(".".join(where), problem["input"], re.findall(r"'([^']*)'", problem["ctx"]["expected"]))
    return UserError(f"{'.'.join(where) or cls.__name__}: {problem['msg']}, received {problem['input']!r}.")


def _fields(cls: type[pydantic.BaseModel], path: list[str]) -> list[str]:
    for name in path:
        inner = [cls.model_fields[name].annotation] if name in cls.model_fields else []
        options = [t for a in inner for t in (a, *getattr(a, "__args__", ())) if isinstance(t, type)]
        cls = next((t for t in options if issubclass(t, pydantic.BaseModel)), cls)
    return list(cls.model_fields)


def yaml_problem(error: Exception) -> str:
    """What is wrong with a YAML text, in one line with its line number."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    text = str(problem or error).splitlines()[0]
    return f"{text} in line {mark.line + 1}" if mark is not None else text


def load_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file (safe loader).

    Raises:
        UserError: the file is missing, is no YAML, or holds something other than a mapping.
    """
    try:
        values = yaml.safe_load(existing_file(path, "configuration").read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"The configuration {str(path)!r} is not valid YAML: {yaml_problem(error)}.") from error
    if not isinstance(values, dict):
        raise UserError(f"The configuration {str(path)!r} must be a mapping of keys, received {type(values).__name__}.")
    return values


def merged(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the keys of `extra` on top, nested mappings key by key."""
    result = dict(base)
    for key, value in extra.items():
        nested = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if nested else value
    return result
