from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from keras_relu.errors import UserError
from keras_relu.training.optimizers import clip_by_global_norm, compute_gradients, get_optimizer

RATES = [0.1, 0.1, 0.02, 0.05, 0.01]
START = [np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3), np.array([0.5, -0.25], np.float32)]
RANDOM = np.random.default_rng(1)
GRADIENTS = [[RANDOM.normal(size=w.shape).astype(np.float32) for w in START] for _ in RATES]


def run(name: str, *, compiled: bool = True, **options) -> list[np.ndarray]:
    variables = [tf.Variable(w) for w in START]
    optimizer = get_optimizer(name, **options)
    optimizer.build(variables)

    def step(gradients, lr):
        optimizer.apply(zip(gradients, variables, strict=True), lr)

    step = tf.function(step) if compiled else step
    for gradients, lr in zip(GRADIENTS, RATES, strict=True):
        step([tf.constant(g) for g in gradients], tf.constant(lr))
    return [v.numpy() for v in variables]


def sgd_oracle(w, i, *, momentum=0.0, nesterov=False, weight_decay=0.0):
    v = np.zeros_like(w, np.float64)
    for gradients, lr in zip(GRADIENTS, RATES, strict=True):
        g = gradients[i] + weight_decay * w
        v = momentum * v + g
        w = w - lr * (g + momentum * v if nesterov else v)
    return w


def adam_oracle(w, i, *, betas=(0.9, 0.999), epsilon=1e-8, weight_decay=0.0, decoupled=False):
    m = v = np.zeros_like(w, np.float64)
    for t, (gradients, lr) in enumerate(zip(GRADIENTS, RATES, strict=True), 1):
        g = gradients[i].astype(np.float64)
        if decoupled:
            w = w - lr * weight_decay * w
        else:
            g = g + weight_decay * w
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        w = w - lr * (m / (1 - betas[0] ** t)) / (np.sqrt(v / (1 - betas[1] ** t)) + epsilon)
    return w


SGD_CASES = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.9, "weight_decay": 0.1},
]
ADAM_CASES = [{}, {"betas": (0.5, 0.999), "weight_decay": 0.01}, {"epsilon": 0.1}]


class TestValues:
    @pytest.mark.parametrize("options", SGD_CASES)
    def test_sgd(self, options):
        for i, value in enumerate(run("sgd", **options)):
            np.testing.assert_allclose(value, sgd_oracle(START[i], i, **options), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("options", ADAM_CASES)
    def test_adam(self, options):
        for i, value in enumerate(run("adam", **options)):
            np.testing.assert_allclose(value, adam_oracle(START[i], i, **options), rtol=1e-4, atol=1e-5)

    def test_adamw(self):
        for i, value in enumerate(run("adamw", weight_decay=0.1)):
            expected = adam_oracle(START[i], i, weight_decay=0.1, decoupled=True)
            np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)

    def test_small_gradients_see_epsilon_after_the_bias_correction(self):
        """Keras' form would step by a few per cent less at gradients of 5e-5 (spec replacement, section 7)."""
        variable = tf.Variable([0.0])
        optimizer = get_optimizer("adam")
        optimizer.build([variable])
        optimizer.apply([(tf.constant([5e-5]), variable)], 1.0)
        assert float(variable[0]) == pytest.approx(-5e-5 / (5e-5 + 1e-8), rel=2e-5)

    def test_eager_equals_graph(self):
        for a, b in zip(run("adam"), run("adam", compiled=False), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.torch
class TestTorchParity:
    def torch_run(self, kind: str, **options) -> list[np.ndarray]:
        torch = pytest.importorskip("torch")
        parameters = [torch.nn.Parameter(torch.tensor(w)) for w in START]
        optimizer = getattr(torch.optim, kind)(parameters, lr=1.0, **options)
        for gradients, lr in zip(GRADIENTS, RATES, strict=True):
            optimizer.param_groups[0]["lr"] = lr
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = torch.tensor(gradient)
            optimizer.step()
        return [p.detach().numpy() for p in parameters]

    @pytest.mark.parametrize("options", SGD_CASES)
    def test_sgd(self, options):
        for ours, theirs in zip(run("sgd", **options), self.torch_run("SGD", **options), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize(("name", "kind"), [("adam", "Adam"), ("adamw", "AdamW")])
    def test_adam(self, name, kind):
        ours = run(name, weight_decay=0.01, epsilon=1e-8)
        theirs = self.torch_run(kind, weight_decay=0.01, eps=1e-8)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=5e-5, atol=5e-6)

    def test_clipping(self):
        torch = pytest.importorskip("torch")
        parameters = [torch.nn.Parameter(torch.tensor(w)) for w in START]
        for parameter, gradient in zip(parameters, GRADIENTS[0], strict=True):
            parameter.grad = torch.tensor(gradient)
        theirs = torch.nn.utils.clip_grad_norm_(parameters, 0.5)
        clipped, norm = clip_by_global_norm([tf.constant(g) for g in GRADIENTS[0]], 0.5)
        assert float(norm) == pytest.approx(float(theirs), rel=1e-6)
        for ours, parameter in zip(clipped, parameters, strict=True):
            np.testing.assert_allclose(ours, parameter.grad.numpy(), rtol=1e-5)


class TestApply:
    def test_decay_can_leave_vectors_out(self):
        matrix, vector = tf.Variable(START[0]), tf.Variable(START[1])
        optimizer = get_optimizer("sgd", weight_decay=0.1, decay_vectors=False)
        optimizer.build([matrix, vector])
        optimizer.apply([(tf.zeros_like(matrix), matrix), (tf.zeros_like(vector), vector)], 1.0)
        np.testing.assert_array_equal(vector, START[1])
        np.testing.assert_allclose(matrix, 0.9 * START[0], rtol=1e-6)

    @pytest.mark.parametrize("name", ["sgd", "adam"])
    def test_nothing_changes_where_when_is_false(self, name):
        variable = tf.Variable(START[1])
        optimizer = get_optimizer(name)
        optimizer.build([variable])
        step = tf.function(lambda ok: optimizer.apply([(tf.ones_like(variable), variable)], 0.1, when=ok))
        step(tf.constant(False))
        np.testing.assert_array_equal(variable, START[1])
        assert all(not v.numpy().any() for v in optimizer.variables)
        step(tf.constant(True))
        assert not np.array_equal(variable, START[1])

    def test_a_missing_gradient_leaves_its_variable_alone(self):
        first, second = tf.Variable(1.0), tf.Variable(2.0)
        optimizer = get_optimizer("sgd", momentum=0.9)
        optimizer.build([first, second])
        optimizer.apply([(tf.constant(1.0), first), (None, second)], 0.1)
        assert (float(first), float(second)) == (pytest.approx(0.9), 2.0)

    def test_variables_are_the_slots_and_the_count(self):
        variables = [tf.Variable(w) for w in START]
        for name, options, count in (("sgd", {}, 0), ("sgd", {"momentum": 0.5}, 2), ("adam", {}, 5)):
            optimizer = get_optimizer(name, **options)
            optimizer.build(variables)
            optimizer.build(variables)
            assert len(optimizer.variables) == count

    def test_refuses_a_variable_it_was_not_built_for(self):
        with pytest.raises(UserError, match="pass it to build"):
            get_optimizer("sgd").apply([(tf.constant(1.0), tf.Variable(1.0))], 0.1)


class TestComputeGradients:
    def test_scale_is_divided_out_before_clipping(self):
        variable = tf.Variable([3.0, 4.0])
        with tf.GradientTape() as tape:
            loss = 1024.0 * tf.reduce_sum(tf.square(variable)) / 2.0
        gradients, norm = compute_gradients(tape, loss, [variable], clip_norm=1.0, scale=tf.constant(1024.0))
        assert float(norm) == pytest.approx(5.0)
        np.testing.assert_allclose(gradients[0], [0.6, 0.8], rtol=1e-5)

    def test_clipping_keeps_none(self):
        clipped, _ = clip_by_global_norm([None, tf.constant([3.0, 4.0])], 10.0)
        assert clipped[0] is None
        np.testing.assert_allclose(clipped[1], [3.0, 4.0])


class TestRefusals:
    def test_unknown_name(self):
        with pytest.raises(UserError, match="Did you mean 'adam'"):
            get_optimizer("adan")

    @pytest.mark.parametrize(
        ("name", "options", "message"),
        [
            ("adam", {"momentum": 0.9}, "'momentum' has no effect with the optimizer 'adam'"),
            ("sgd", {"betas": (0.9, 0.999)}, "'betas' has no effect with the optimizer 'sgd'"),
            ("sgd", {"nesterov": True}, "no effect without momentum"),
            ("sgd", {"decay_vectors": False}, "no effect without weight_decay"),
            ("sgd", {"momentum": 1.0}, "momentum must be"),
            ("sgd", {"weight_decay": -1.0}, "weight_decay must be"),
            ("adam", {"betas": (0.9, 1.0)}, "betas must be"),
            ("adam", {"epsilon": 0.0}, "epsilon must be"),
        ],
    )
    def test_options(self, name, options, message):
        with pytest.raises(UserError, match=message):
            get_optimizer(name, **options)

    def test_clip_norm(self):
        with pytest.raises(UserError, match="positive"):
            clip_by_global_norm([tf.constant([1.0])], 0.0)
