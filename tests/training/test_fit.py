from __future__ import annotations

import os
import signal

import numpy as np
import pytest
import tensorflow as tf

from keras_relu.errors import EXIT_INTERRUPTED, Interrupted, TrainingDivergedError, UserError
from keras_relu.evaluate import NonFiniteLogitsError
from keras_relu.runs import Run
from keras_relu.training import checkpoint, fit

EPOCHS, BATCH, PER_EPOCH = 3, 8, 6


def send(number: int, at: int):
    """An `on_step` that sends this process a signal before step `at`."""
    return lambda step: os.kill(os.getpid(), number) if step == at else None


def new_run(path, *, resume: bool = False) -> Run:
    return Run.create(path, config={"seed": 3}, stage="train", resume=resume)


def train(step, dataset, run=None, **options):
    options = {"epochs": EPOCHS, "batch_size": BATCH, "seed": 3, "log_every": 4, "progress": False} | options
    return fit(step, dataset, run=run, **options)


def same(first, second) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first.values(), second.values(), strict=True))


def metrics(run: Run) -> list[dict]:
    """The rows without wall times, which no two runs share."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in run.rows()]


class TestResume:
    @pytest.mark.parametrize(("number", "at"), [(signal.SIGTERM, 8), (signal.SIGUSR1, 11)])
    def test_signal_and_resume_equal_an_uninterrupted_run_exactly(self, tmp_path, make_step, tiny_dataset, number, at):
        whole, first, second = (make_step(batch_norm=True) for _ in range(3))
        whole_run = new_run(tmp_path / "whole")
        expected = train(whole, tiny_dataset, whole_run, checkpoint_every=5)
        with pytest.raises(Interrupted, match=f"after step {at + 1} of 18"):
            train(first, tiny_dataset, new_run(tmp_path / "cut"), checkpoint_every=5, on_step=send(number, at))
        run = new_run(tmp_path / "cut", resume=True)
        resumed = train(second, tiny_dataset, run, checkpoint_every=5, resume=True)
        assert same(whole, second)
        assert not same(whole, first)
        assert metrics(run) == metrics(whole_run)
        assert [h["loss"] for h in resumed["history"]] == [h["loss"] for h in expected["history"]]

    def test_killed_without_a_signal_it_goes_on_from_the_last_checkpoint(self, tmp_path, make_step, tiny_dataset):
        class PowerCut(Exception):
            pass

        def cut(step: int) -> None:
            if step == 11:
                raise PowerCut

        whole, second = make_step(), make_step()
        train(whole, tiny_dataset)
        run = new_run(tmp_path / "cut")
        with pytest.raises(PowerCut):
            train(make_step(), tiny_dataset, run, checkpoint_every=5, on_step=cut)
        assert checkpoint.latest(run.checkpoints, "train-").name == "train-step-00000010.npz"
        train(second, tiny_dataset, new_run(tmp_path / "cut", resume=True), checkpoint_every=5, resume=True)
        assert same(whole, second)

    def test_a_checkpoint_at_the_end_of_an_epoch_does_not_repeat_or_skip_that_end(
        self, tmp_path, make_step, tiny_dataset
    ):
        ends: list[int] = []

        def fail(epoch: int, logs: dict) -> None:
            ends.append(epoch)
            if len(ends) == 1:
                raise KeyboardInterrupt

        run = new_run(tmp_path / "r")
        options = {"checkpoint_every": PER_EPOCH, "on_epoch": fail}
        with pytest.raises(KeyboardInterrupt):
            train(make_step(), tiny_dataset, run, **options)
        train(make_step(), tiny_dataset, run, resume=True, **options)
        assert ends == [0, 0, 1, 2]
        assert [row["epoch"] for row in run.rows() if row["seconds"] is not None] == [1, 2, 3]

    def test_a_finished_phase_is_restored_without_training(self, tmp_path, make_step, tiny_dataset):
        run, whole, again = new_run(tmp_path / "r"), make_step(), make_step()
        expected = train(whole, tiny_dataset, run)
        rows = run.rows()
        result = train(again, tiny_dataset, run, resume=True, on_step=lambda step: pytest.fail("trained"))
        assert same(whole, again)
        assert result["history"] == expected["history"]
        assert run.rows() == rows

    def test_phases_of_one_run_do_not_touch_each_other(self, tmp_path, make_step, tiny_dataset):
        run = new_run(tmp_path / "r")
        train(make_step(), tiny_dataset, run, phase="search", epochs=1)
        with pytest.raises(Interrupted):
            train(make_step(), tiny_dataset, run, phase="finetune", epochs=1, on_step=send(signal.SIGTERM, 2))
        train(make_step(), tiny_dataset, run, phase="search", epochs=1, resume=True)
        train(make_step(), tiny_dataset, run, phase="finetune", epochs=1, resume=True)
        assert [r["phase"] for r in run.rows() if r["seconds"] is not None] == ["search", "finetune"]

    def test_without_a_checkpoint_it_starts_from_the_beginning(self, tmp_path, make_step, tiny_dataset):
        run = new_run(tmp_path / "r")
        run.log({"phase": "train", "epoch": 1, "step": 4, "loss": 9.0})
        assert train(make_step(), tiny_dataset, run, resume=True)["steps"] == EPOCHS * PER_EPOCH
        assert 9.0 not in [row["loss"] for row in run.rows()]

    def test_refuses_other_settings(self, tmp_path, make_step, tiny_dataset):
        run, step = new_run(tmp_path / "r"), make_step()
        train(step, tiny_dataset, run, epochs=1)
        before = step.values()
        with pytest.raises(UserError, match="'train' was saved with seed 3, now it is 4"):
            train(step, tiny_dataset, run, epochs=1, seed=4, resume=True)
        assert all(np.array_equal(a, b) for a, b in zip(before, step.values(), strict=True))

    def test_needs_a_run(self, make_step, tiny_dataset):
        with pytest.raises(UserError, match="needs a run"):
            train(make_step(), tiny_dataset, resume=True)


class TestStopping:
    def test_without_a_run_nothing_is_saved_and_the_message_says_so(self, make_step, tiny_dataset):
        with pytest.raises(Interrupted, match="not saved") as caught:
            train(make_step(), tiny_dataset, on_step=send(signal.SIGTERM, 1))
        assert caught.value.exit_code == EXIT_INTERRUPTED

    def test_handlers_are_put_back(self, make_step, tiny_dataset):
        before = signal.getsignal(signal.SIGUSR1)
        train(make_step(), tiny_dataset, max_steps=1)
        assert signal.getsignal(signal.SIGUSR1) is before


class TestDivergence:
    @pytest.mark.parametrize("bad", [5, 8])
    def test_names_the_first_bad_step_and_keeps_the_checkpoint_from_before(
        self, tmp_path, make_step, tiny_dataset, bad
    ):
        run = new_run(tmp_path / "r")
        with pytest.raises(
            TrainingDivergedError, match=rf"The loss of step {bad} of phase 'train' is not finite.*-step-"
        ):
            train(make_step(poison=bad), tiny_dataset, run, checkpoint_every=3, log_every=50)
        kept = checkpoint.latest(run.checkpoints, "train-")
        assert kept.name == f"train-step-{bad // 3 * 3:08d}.npz"
        checkpoint.restore(kept, make_step().variables())

    def test_a_weight_that_is_not_finite_is_never_saved(self, tmp_path, make_step, tiny_dataset):
        step, run = make_step(), new_run(tmp_path / "r")

        def poison(index: int) -> None:
            if index == 4:
                step.optimizer.variables[0].assign(tf.fill(step.optimizer.variables[0].shape, np.inf))

        with pytest.raises(TrainingDivergedError, match="not finite"):
            train(step, tiny_dataset, run, checkpoint_every=5, on_step=poison)
        assert not list(run.checkpoints.glob("*.npz"))

    def test_a_validation_without_finite_outputs_is_a_divergence(self, make_step, tiny_dataset):
        def validate():
            raise NonFiniteLogitsError("NaN logits.")

        with pytest.raises(TrainingDivergedError, match="After step 5 of 'train': NaN logits"):
            train(make_step(), tiny_dataset, validate=validate)

    def test_says_when_there_is_no_checkpoint(self, make_step, tiny_dataset):
        with pytest.raises(TrainingDivergedError, match=r"step 0 .* no checkpoint"):
            train(make_step(poison=0), tiny_dataset)


class TestLogging:
    def test_windows_and_epochs(self, tmp_path, make_step, tiny_dataset):
        run = new_run(tmp_path / "r")
        seen = []
        result = train(
            make_step(),
            tiny_dataset,
            run,
            epochs=2,
            validate=lambda: {"accuracy": 0.5, "val_loss": 1.5},
            on_epoch=lambda epoch, logs: seen.append((epoch, logs)),
        )
        windows = [r["step"] for r in run.rows() if r["seconds"] is None]
        epochs = [(r["epoch"], r["step"]) for r in run.rows() if r["seconds"] is not None]
        assert windows == [4, 8, 12]
        assert epochs == [(1, 6), (2, 12)]
        assert run.rows()[-1]["val_accuracy"] == 0.5
        assert [epoch for epoch, _ in seen] == [0, 1]
        assert seen[1][1] == result["history"][1]
        assert result["val_loss"] == 1.5
        assert result["steps"] == 12

    def test_an_epoch_is_the_mean_of_its_steps(self, tmp_path, make_step, tiny_dataset):
        run = new_run(tmp_path / "r")
        train(make_step(), tiny_dataset, run, epochs=1, log_every=1)
        rows = run.rows()
        assert rows[-1]["loss"] == pytest.approx(np.mean([r["loss"] for r in rows[:-1]]), rel=1e-12)

    def test_one_line_per_epoch_when_there_is_no_terminal(self, capsys, make_step, tiny_dataset):
        train(make_step(), tiny_dataset, epochs=1, progress=True)
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("train epoch 1/1: loss ")
        assert captured.err.count("\n") == 1

    def test_training_learns(self, make_step, tiny_dataset):
        history = train(make_step(), tiny_dataset, epochs=4)["history"]
        assert history[-1]["loss"] < history[0]["loss"]


class TestSteps:
    def test_on_step_sees_every_step_and_may_assign(self, make_step, tiny_dataset):
        steps = []
        train(make_step(), tiny_dataset, epochs=1, on_step=steps.append)
        assert steps == list(range(PER_EPOCH))

    def test_the_step_is_traced_once(self, make_step, tiny_dataset):
        traced = []
        step = make_step()

        def counting(images, labels, index):
            traced.append(index)
            return step(images, labels, index)

        counting.variables = step.variables
        train(counting, tiny_dataset, epochs=2)
        assert len(traced) == 1
        assert traced[0].dtype == tf.int32

    def test_max_steps(self, make_step, tiny_dataset):
        result = train(make_step(), tiny_dataset, max_steps=8)
        assert (result["steps"], result["epochs"]) == (8, 2)

    def test_no_epochs(self, make_step, tiny_dataset):
        result = train(make_step(), tiny_dataset, epochs=0)
        assert (result["steps"], result["history"]) == (0, [])

    def test_checkpoints_after_every_epoch_by_default(self, tmp_path, make_step, tiny_dataset):
        run = new_run(tmp_path / "r")
        with pytest.raises(Interrupted):
            train(make_step(), tiny_dataset, run, on_step=send(signal.SIGTERM, 2 * PER_EPOCH))
        assert sorted(p.name for p in run.checkpoints.glob("*.npz")) == [
            "train-step-00000012.npz",
            "train-step-00000013.npz",
        ]


class TestRefusals:
    @pytest.mark.parametrize("wrong", [{"epochs": -1}, {"log_every": 0}, {"batch_size": 0}, {"checkpoint_every": -1}])
    def test_numbers_out_of_range(self, make_step, tiny_dataset, wrong):
        with pytest.raises(UserError, match="received"):
            train(make_step(), tiny_dataset, **wrong)

    def test_a_batch_larger_than_the_split(self, make_step, tiny_dataset):
        with pytest.raises(UserError, match="50 image"):
            train(make_step(), tiny_dataset, batch_size=51)

    def test_a_step_without_a_loss(self, tiny_dataset):
        def step(images, labels, index):
            return {"accuracy": tf.constant(0.0)}

        step.variables = dict
        with pytest.raises(UserError, match="must return 'loss'"):
            train(step, tiny_dataset)
