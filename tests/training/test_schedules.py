from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_relu.errors import UserError
from keras_relu.training.schedules import SCHEDULES, get_schedule

SEGMENTS = [{"rates": [0.1, 1.0]}, {"curve": "cosine", "epochs": 3, "start": 1.0, "end": 0.01}]
OPTIONS = {"cosine_rst": {"first_period": 10}, "segments": {"segments": SEGMENTS}}


def curve(name: str, steps: list[int], **options) -> list[float]:
    schedule = get_schedule(name, **options)
    return [float(schedule(step)) for step in steps]


class TestValues:
    def test_cosine(self):
        values = curve("cosine", [0, 25, 50, 100], peak=0.1, floor=1e-5, total_steps=100)
        expected = [1e-5 + (0.1 - 1e-5) * (1 + math.cos(math.pi * p)) / 2 for p in (0, 0.25, 0.5, 1)]
        np.testing.assert_allclose(values, expected, rtol=1e-5)

    def test_held_within_an_epoch(self):
        values = curve("cosine", [0, 9, 10, 19, 20], peak=1.0, total_steps=100, hold_steps=10)
        assert values[0] == values[1] == 1.0
        assert values[2] == values[3] == pytest.approx((1 + math.cos(0.1 * math.pi)) / 2)
        assert values[4] < values[3]

    def test_warm_restarts_at_1_3_7_15_periods(self):
        values = curve("cosine_rst", [0, 10, 30, 70, 150], peak=1.0, total_steps=400, first_period=10)
        np.testing.assert_allclose(values, 1.0, atol=1e-4)
        lows = curve("cosine_rst", [9, 29, 69], peak=1.0, total_steps=400, first_period=10)
        assert max(lows) < 0.03

    def test_finetune_is_the_rescaled_tail(self):
        """Spec replacement 3.3: 0.01 over 100 epochs gives 0.00981 first, 0.0026 at the 50th, 1e-5 at the last epoch."""
        options = {"peak": 0.01, "floor": 1e-5, "total_steps": 1000, "hold_steps": 10}
        values = curve("cosine_finetune", [0, 495, 999], **options)
        np.testing.assert_allclose(values, [0.00981, 0.0026, 1e-5], rtol=3e-3)

    def test_modified_falls_to_about_half(self):
        values = curve("cos_modified", [0, 100], peak=0.1, floor=1e-5, total_steps=100)
        np.testing.assert_allclose(values, [0.1, (0.1 + 1e-5) / 2], rtol=1e-5)

    def test_step(self):
        values = curve("step", [0, 49, 50, 75], peak=0.1, total_steps=100)
        np.testing.assert_allclose(values, [0.1, 0.1, 0.01, 0.001], rtol=1e-5)

    def test_polynomial(self):
        values = curve("polynomial", [0, 50, 100], peak=0.2, total_steps=100, power=2.0)
        np.testing.assert_allclose(values, [0.2, 0.05, 0.0], atol=1e-7)

    def test_warm_up_is_linear_and_the_curve_starts_after_it(self):
        values = curve("cosine", [0, 1, 4, 5], peak=0.1, total_steps=105, warmup_steps=5)
        np.testing.assert_allclose(values, [0.02, 0.04, 0.1, 0.1], rtol=1e-6)


class TestProperties:
    @pytest.mark.parametrize("name", sorted(SCHEDULES))
    def test_graph_equals_eager_and_is_float32(self, name):
        schedule = get_schedule(name, peak=0.1, total_steps=50, warmup_steps=5, **OPTIONS.get(name, {}))
        compiled = tf.function(schedule)
        for step in (0, 4, 5, 23, 49, 50):
            value = compiled(tf.constant(step, tf.int32))
            assert value.dtype == tf.float32
            assert float(value) == pytest.approx(float(schedule(step)), rel=1e-5)

    @pytest.mark.parametrize("name", sorted(SCHEDULES))
    @settings(max_examples=15, deadline=None)
    @given(step=st.integers(0, 10_000), warmup=st.integers(0, 50))
    def test_stays_between_zero_and_the_peak(self, name, step, warmup):
        schedule = get_schedule(name, peak=0.3, total_steps=200, warmup_steps=warmup, **OPTIONS.get(name, {}))
        assert -1e-6 <= float(schedule(step)) <= 0.3 * (1 + 1e-5)


class TestRefusals:
    def test_unknown_name_with_the_nearest(self):
        with pytest.raises(UserError, match="Did you mean 'cosine'"):
            get_schedule("cosin", peak=0.1, total_steps=10)

    @pytest.mark.parametrize(
        ("name", "options", "message"),
        [
            ("cosine", {"power": 2.0}, "no option 'power'"),
            ("constant", {"floor": 0.01}, "no effect"),
            ("constant", {"hold_steps": 5}, "no effect"),
            ("cosine_finetune", {"hold": 3}, "no option 'hold'"),
            ("cosine_rst", {}, "needs first_period"),
            ("segments", {}, "needs segments"),
            ("cosine", {"warmup_steps": 10}, "warmup_steps must be in"),
            ("cosine", {"floor": 0.2}, "floor"),
            ("cosine", {"peak": 0.0}, "positive"),
            ("cosine", {"peak": math.inf}, "finite"),
            ("cosine", {"total_steps": 0}, "at least 1"),
        ],
    )
    def test_options_without_effect_or_out_of_range(self, name, options, message):
        with pytest.raises(UserError, match=message):
            get_schedule(name, **{"peak": 0.1, "total_steps": 10, **options})
