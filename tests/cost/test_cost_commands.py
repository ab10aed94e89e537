"""The commands, in this process."""

import json

import pytest

from keras_relu.cli import main


@pytest.fixture
def command(capsys):
    def run(*arguments):
        code = main([*map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def files(network, reduced, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    network.save(folder / "all.keras")
    reduced["identity"].save(folder / "part.keras")
    return folder


def test_estimate_lower_and_compare(command, files, tmp_path):
    code, out, err = command(
        "lower", files / "part.keras", "--output", tmp_path / "low", "--preset", "spu-semi2k-64", "--json"
    )
    assert code == 0, err
    answer = json.loads(out)
    assert answer["comparisons_after"] < answer["comparisons_before"]
    assert {site["action"] for site in answer["sites"]} == {"lowered", "folded"}
    code, out, err = command(
        "cost", "estimate", tmp_path / "low", "--preset", "spu-semi2k-64", "--rtt", "1ms", "--json"
    )
    assert code == 0, err
    estimate = json.loads(out)
    assert estimate["rtt_s"] == 0.001
    assert estimate["executed_comparisons"] == answer["comparisons_after"]
    page = tmp_path / "cost.html"
    given = ("cost", "compare", files / "all.keras", files / "part.keras", tmp_path / "low", "--output", page)
    code, out, err = command(*given, "--figures", tmp_path / "figures", "--json")
    assert code == 0, err
    assert len(json.loads(out)["estimates"]) == 9
    text = page.read_text()
    assert "Estimated: spu-cheetah-64" in text
    assert "USENIX Security 2022" in text
    assert "not priced" in text or "Excludes" in text
    assert list((tmp_path / "figures").glob("layers-*.svg"))


def test_tables_for_people(command, files):
    code, out, err = command("cost", "estimate", files / "part.keras", "--preset", "delphi-gc-epyc")
    assert code == 0, err
    assert "evaluator stores" in out
    assert "not lowered" in out
    code, out, _ = command("cost", "presets")
    assert code == 0
    assert "18248" in out
    assert "cryptonite" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cost", "estimate", "nowhere.keras"), "nowhere.keras"),
        (("cost", "estimate", "{all}", "--preset", "spu"), "cost preset"),
        (("cost", "estimate", "{all}", "--bandwidth", "fast"), "bandwidth"),
        (("cost", "compare", "{all}", "--figures", "x"), "--output"),
        (("cost", "compare", "{all}", "--measured", "{all}"), "not valid JSON"),
        (("cost", "measure", "{all}", "--protocol", "spdz"), "protocol"),
        (("cost", "measure", "{all}", "--engine", "/nonexistent"), "does not exist"),
        (("lower", "{all}", "--output", "x", "--rtt", "1ms"), "--preset"),
    ],
)
def test_wrong_input_gets_one_sentence(command, files, arguments, message):
    given = [argument.format(all=files / "all.keras") for argument in arguments]
    code, out, err = command(*given)
    assert code == 2, err
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
