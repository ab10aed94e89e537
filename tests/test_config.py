"""Configurations: unknown keys, wrong values and broken files are refused in one sentence."""

from __future__ import annotations

from typing import Any

import pydantic
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from keras_relu.config import Config, load_yaml
from keras_relu.errors import UserError


class Phase(Config):
    epochs: int = pydantic.Field(6, ge=0)
    rate: float = pydantic.Field(0.1, gt=0)


class Job(Config):
    name: str = "job"
    search: Phase = Phase()
    second: Phase | None = None
    options: dict[str, Any] = pydantic.Field(default_factory=dict)


def test_defaults_and_values():
    job = Job.parse({"search": {"epochs": 3}})
    assert (job.name, job.search.epochs, job.search.rate, job.second) == ("job", 3, 0.1, None)


def test_a_configuration_does_not_change():
    with pytest.raises(pydantic.ValidationError):
        Job.parse({}).name = "other"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nmae": "x"}, r"Unknown key in Job 'nmae'\. Did you mean 'name'\? Allowed: name, options, search, second\."),
        ({"search": {"epoch": 1}}, r"Unknown key in search 'epoch'\. Did you mean 'epochs'\? Allowed: epochs, rate\."),
        ({"second": {"rat": 1}}, r"Unknown key in second 'rat'\. Did you mean 'rate'\? Allowed: epochs, rate\."),
        ({"search": {"epochs": -1}}, r"^search\.epochs: .*greater than or equal to 0, received -1\.$"),
        ({"search": {"epochs": "many"}}, r"^search\.epochs: .*integer.*, received 'many'\.$"),
        ({"search": {"rate": float("nan")}}, r"^search\.rate: .*finite.*received nan\.$"),
        ({"search": {"rate": float("inf")}}, r"^search\.rate: .*finite.*received inf\.$"),
        ({"search": None}, r"^search: .*received None\.$"),
    ],
)
def test_what_is_refused(values, message):
    with pytest.raises(UserError, match=message) as caught:
        Job.parse(values)
    assert "\n" not in str(caught.value)


@given(
    st.fixed_dictionaries(
        {"name": st.text(max_size=9)},
        optional={
            "search": st.fixed_dictionaries({"epochs": st.integers(0, 9), "rate": st.floats(1e-9, 1e9)}),
            "options": st.dictionaries(st.text(max_size=5), st.integers() | st.booleans() | st.none(), max_size=3),
        },
    )
)
def test_plain_values_survive_yaml(values):
    job = Job.parse(values)
    assert Job.parse(yaml.safe_load(yaml.safe_dump(job.to_dict()))) == job


def test_a_file_is_read(tmp_path):
    (tmp_path / "a.yaml").write_text("search:\n  epochs: 2\n")
    assert load_yaml(tmp_path / "a.yaml") == {"search": {"epochs": 2}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1, 2", "not valid YAML"),
        (b"\xff\xfe\x00a", "not valid YAML"),
        (b"- 1\n- 2\n", "must be a mapping of keys, received list"),
        (b"", "must be a mapping of keys, received NoneType"),
        (b"!!python/object/apply:os.getcwd []", "not valid YAML"),
    ],
)
def test_a_broken_file_is_named(tmp_path, content, message):
    (tmp_path / "broken.yaml").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load_yaml(tmp_path / "broken.yaml")
    assert "broken.yaml" in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"The configuration '.*none\.yaml' does not exist\."):
        load_yaml(tmp_path / "none.yaml")


def test_a_folder_is_no_configuration(tmp_path):
    with pytest.raises(UserError, match="configuration"):
        load_yaml(tmp_path)
