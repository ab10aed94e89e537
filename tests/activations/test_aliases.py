"""The original's module names."""

import pytest

from keras_relu.activations import MaskedReLU, aliases
from keras_relu.errors import UserError

TABLE = {
    "ReLU_masked": ("threshold", "identity", "true"),
    "ReLU_masked_relay": ("hysteresis", "identity", "true"),
    "ReLU_masked_spgrad": ("threshold", "identity", "relu"),
    "ReLU_masked_spgrad_relay": ("hysteresis", "identity", "relu"),
    "ReLU_masked_poly": ("threshold", "scaled_quadratic", "true"),
    "ReLU_masked_poly_relay": ("hysteresis", "scaled_quadratic", "true"),
    "ReLU_masked_autopoly": ("threshold", "quadratic", "true"),
    "ReLU_masked_autopoly_relay": ("hysteresis", "quadratic", "true"),
    "ReLU_masked_dapa_relay": ("hysteresis", "moment_quadratic", "true"),
}


def test_every_name_is_in_the_table_and_the_documentation():
    assert aliases.list_aliases() == sorted(TABLE)
    assert all(f"`{name}`" in aliases.__doc__ for name in TABLE)


@pytest.mark.parametrize(("name", "expected"), TABLE.items())
def test_names_resolve_to_a_composition(name, expected):
    layer = MaskedReLU(**aliases.resolve(name))
    assert (layer.gate.name, layer.replacement.name, layer.surrogate) == expected


def test_degree_one():
    assert aliases.resolve("ReLU_masked_autopoly", degree=1)["replacement"].name == "line"
    assert aliases.resolve("ReLU_masked_dapa_relay", degree=1)["replacement"].name == "moment_line"


def test_options_arrive():
    assert aliases.resolve("ReLU_masked_relay", threshold=0.01)["gate"].tau == 0.01
    poly = aliases.resolve("ReLU_masked_poly", scale_x=0.3, scale_x2=0.2)["replacement"]
    assert (poly.s1, poly.s2) == (0.3, 0.2)
    assert aliases.resolve("ReLU_masked_autopoly", scale_x2=2.0)["replacement"].scale_x2 == 2.0
    dapa = aliases.resolve("ReLU_masked_dapa_relay", var_min=0.1, clip_x2=0.2)["replacement"]
    assert (dapa.variance_floor, dapa.clip) == (0.1, 0.2)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ReLU_maskd", {}, "Did you mean 'ReLU_masked'"),
        ("ReLU_masked", {"threshold": 0.1}, "Unknown option"),
        ("ReLU_masked_autopoly", {"degree": 3}, "degree must be 1 or 2"),
    ],
)
def test_resolve_refuses(name, options, message):
    with pytest.raises(UserError, match=message):
        aliases.resolve(name, **options)
