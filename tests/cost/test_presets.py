"""Every constant comes from its file with its source; none is in code."""

import pytest

from keras_relu.cost.link import Link, parse_bytes, parse_seconds
from keras_relu.cost.presets import CONSTANTS, Preset, get_preset, list_presets, published_runs
from keras_relu.errors import UserError

# Section A.4 and A.5 of the field survey: preset, constant, value, what its source must name.
SURVEY = [
    ("delphi-gc-epyc", "storage_evaluator_bytes", 18248, "cryptonite"),
    ("delphi-gc-epyc", "storage_garbler_bytes", 3590, "cryptonite"),
    ("delphi-gc-epyc", "comparison_bytes", 42 * 28, "42 wires"),
    ("delphi-gc-epyc", "offline_seconds", 103.7e-6, "gc_models.py"),
    ("delphi-gc-epyc", "comparison_seconds", 54.6e-6, "gc_models.py"),
    ("delphi-gc-atom", "offline_seconds", 686.8e-6, "gc_models.py"),
    ("delphi-gc-atom", "comparison_seconds", 346.0e-6, "gc_models.py"),
    ("delphi-gc-atom", "storage_evaluator_bytes", 15896 + 1176 + 1176, "cryptonite"),
    ("delphi-reported", "comparison_seconds", 20.9e-6, "AAAI 2026"),
    ("delphi-reported", "base_seconds", 0.09, "AAAI 2026"),
    ("cheetah-64-documented", "comparison_bytes", 690.503 / 8, "cheetah/nonlinear/README.md"),
    ("cheetah-64-documented", "truncation_bytes", 723.754 / 8, "cheetah/nonlinear/README.md"),
    ("cheetah-64-documented", "truncation_known_bytes", 36.252 / 8, "cheetah/nonlinear/README.md"),
    ("cheetah-32-documented", "comparison_bytes", 348.377 / 8, "cheetah/nonlinear/README.md"),
    ("cheetah-32-documented", "truncation_bytes", 369.503 / 8, "cheetah/nonlinear/README.md"),
    ("cheetah-32-documented", "truncation_known_bytes", 32.252 / 8, "cheetah/nonlinear/README.md"),
    ("tfe-aby3", "comparison_seconds", 0.29 / (3 * 2**16), "tf-encrypted"),
    ("crypten-64", "comparison_rounds", 9, "CrypTen"),
]
# Bytes and rounds of a whole ReLU, comparison and selection together.
WHOLE = [
    ("semi2k-64-documented", 232, 9),
    ("semi2k-32-documented", 100, 8),
    ("aby3-64-documented", 120, 9),
    ("aby3-32-documented", 52, 8),
    ("spu-semi2k-64", 144, 8),
    ("spu-aby3-64", 172, 11),
    ("spu-cheetah-64", 98.5, 20),
    ("crypten-64", 1900544 / 4096, 9),
]


@pytest.mark.parametrize(("name", "constant", "value", "source"), SURVEY)
def test_constants_of_the_survey_have_their_value_and_source(name, constant, value, source):
    preset = get_preset(name)
    assert preset.get(constant) == pytest.approx(value, rel=1e-4)
    assert source in preset.source_of(constant)


@pytest.mark.parametrize(("name", "total_bytes", "rounds"), WHOLE)
def test_a_relu_is_its_comparison_and_its_selection(name, total_bytes, rounds):
    preset = get_preset(name)
    assert preset.get("comparison_bytes") + preset.get("selection_bytes") == pytest.approx(total_bytes)
    assert preset.get("comparison_rounds") + preset.get("selection_rounds") == rounds


@pytest.mark.parametrize("name", list_presets())
def test_presets_say_what_they_are(name):
    preset = get_preset(name)
    assert preset.includes
    assert preset.excludes
    assert set(preset.constants) <= set(CONSTANTS)
    assert preset.link.bits_per_second > 0
    used = {constant.source for constant in preset.constants.values()}
    assert used == set(preset.sources), "a source without a constant, or the other way round"


def test_published_networks_are_cited():
    runs = {(run["system"], run["network"], run["link"]): run for run in published_runs()}
    assert runs["TF Encrypted (ABY3)", "ResNet50", "0.02 ms round trip"]["seconds"] == 19.07
    assert runs["TF Encrypted (ABY3)", "ResNet50", "40 ms round trip"]["seconds"] == 84.29
    assert all(run["source"] for run in published_runs())


def test_unknown_presets_and_damaged_ones_are_refused():
    with pytest.raises(UserError, match="Did you mean 'spu-semi2k-64'"):
        get_preset("spu-semi2k")
    values = get_preset("spu-semi2k-64").to_dict()
    for change in ({"comparison_byte": values["constants"]["comparison_bytes"]},):
        with pytest.raises(UserError, match="comparison_byte"):
            Preset.parse({**values, "constants": {**values["constants"], **change}})
    with pytest.raises(UserError, match="without a source"):
        Preset.parse({**values, "sources": {}})


def test_links_in_the_units_people_write():
    link = Link.parse("384Mbps", "40ms")
    assert (link.bits_per_second, link.rtt_s) == (384e6, 0.04)
    assert Link.parse("1 Gbps", "0s").rtt_s == 0.0
    assert parse_bytes("1.5MB") == 1.5e6
    assert parse_bytes("2MiB") == 2 << 20
    assert parse_seconds("300ms") == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("bandwidth", "rtt"), [("384", "40ms"), ("-1Mbps", "40ms"), ("0Mbps", "1s"), ("fast", "40ms"), ("1Mbps", "40")]
)
def test_links_that_make_no_sense(bandwidth, rtt):
    with pytest.raises(UserError, match="unit"):
        Link.parse(bandwidth, rtt)
