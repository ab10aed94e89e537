from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from keras_relu.errors import UserError
from keras_relu.training import checkpoint


def groups(value: float = 1.0, *, shape=(2, 3)) -> dict[str, list[tf.Variable]]:
    weights = [tf.Variable(tf.fill(shape, value)), tf.Variable(int(value), dtype=tf.int64)]
    return {"model": weights, "optimizer": [tf.Variable(value)]}


class TestRoundTrip:
    def test_values_and_meta(self, tmp_path):
        meta = {"done": 7, "history": [{"loss": 0.1}], "ratio": 1 / 3}
        checkpoint.save(tmp_path / "a.npz", groups(5.0), meta)
        target = groups(0.0)
        assert checkpoint.restore(tmp_path / "a.npz", target) == meta
        np.testing.assert_array_equal(target["model"][0], np.full((2, 3), 5.0))
        assert int(target["model"][1]) == 5

    def test_nothing_but_the_file_is_left(self, tmp_path):
        checkpoint.save(tmp_path / "a.npz", groups(), {})
        assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]

    def test_latest_by_number_and_prefix(self, tmp_path):
        for name in ("train-step-00000009.npz", "train-step-100000000.npz", "other-step-999999999.npz", "best.npz"):
            (tmp_path / name).touch()
        assert checkpoint.latest(tmp_path, "train-").name == "train-step-100000000.npz"
        assert checkpoint.latest(tmp_path, "finetune-") is None
        assert checkpoint.latest(tmp_path / "missing") is None


class TestRefusals:
    @pytest.fixture
    def saved(self, tmp_path):
        path = tmp_path / "a.npz"
        checkpoint.save(path, groups(), {"seed": 1})
        return path

    def refuse(self, path, target, message, **options):
        before = {name: [v.numpy() for v in variables] for name, variables in target.items()}
        with pytest.raises(UserError, match=message):
            checkpoint.restore(path, target, **options)
        for name, variables in target.items():
            for variable, value in zip(variables, before[name], strict=True):
                np.testing.assert_array_equal(variable, value)

    def test_missing(self, tmp_path):
        self.refuse(tmp_path / "no.npz", groups(), "does not exist")

    def test_garbage(self, tmp_path):
        (tmp_path / "a.npz").write_bytes(b"no zip at all")
        self.refuse(tmp_path / "a.npz", groups(0.0), "corrupt")

    @pytest.mark.parametrize("keep", [0.1, 0.5, 0.95])
    def test_truncated(self, saved, keep):
        content = saved.read_bytes()
        saved.write_bytes(content[: int(keep * len(content))])
        self.refuse(saved, groups(0.0), "corrupt")

    def test_pickled_objects(self, tmp_path):
        np.savez(tmp_path / "a.npz", **{"model/0000": np.array([{}], dtype=object)})
        self.refuse(tmp_path / "a.npz", groups(0.0), "corrupt")

    def test_without_meta(self, tmp_path):
        np.savez(tmp_path / "a.npz", x=np.zeros(3))
        self.refuse(tmp_path / "a.npz", groups(0.0), "corrupt")

    def test_other_shape(self, saved):
        self.refuse(saved, groups(0.0, shape=(3, 2)), r"float32 \(2, 3\) for .* which is float32 \(3, 2\) here")

    def test_other_count(self, saved):
        self.refuse(saved, {**groups(0.0), "ema": [tf.Variable(1.0)]}, "ema/0000")

    def test_the_callers_check_comes_first(self, saved):
        def check(meta):
            raise UserError(f"other seed {meta['seed']}")

        self.refuse(saved, groups(0.0), "other seed 1", check=check)
