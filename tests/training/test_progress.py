from __future__ import annotations

import sys

import pytest

from keras_relu.training.progress import Progress, describe


def show(**options) -> None:
    with Progress("search", 10, **options) as progress:
        progress.step(5)
        progress.window({"loss": 0.25})
        progress.epoch(1, 2, {"loss": 0.25, "accuracy": 0.123456, "seconds": 3})


def test_a_line_per_epoch_without_a_terminal(capsys):
    show()
    assert capsys.readouterr().err == "search epoch 1/2: loss 0.25, accuracy 0.1235, seconds 3\n"


def test_the_line_leaves_out_numbers_of_single_layers(capsys):
    with Progress("pred", 10) as progress:
        progress.epoch(1, 1, {"val_predictor_recall": 0.9, "val_recall/block1_expand_relu": 0.8})
    assert capsys.readouterr().err == "pred epoch 1/1: val_predictor_recall 0.9\n"


def test_nothing_when_disabled(capsys):
    show(enabled=False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("fails", [False, True])
def test_a_bar_on_a_terminal_is_taken_down_again(capsys, monkeypatch, fails):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)

    def body() -> Progress:
        with Progress("search", 10) as progress:
            progress.step(5)
            progress.window({"loss": 0.25})
            progress.epoch(1, 2, {"loss": 0.5})
            if fails:
                raise RuntimeError
        return progress

    if fails:
        with pytest.raises(RuntimeError):
            body()
    else:
        assert not body()._bar.live.is_started
    captured = capsys.readouterr()
    assert "search epoch 1/2: loss 0.5" in captured.err
    assert captured.out == ""


def test_describe_leaves_text_out():
    assert describe({"loss": 1.0, "phase": "train", "kept": 12}) == "loss 1, kept 12"
