"""The pure function: values, gradients, dtypes and infinities."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import gated as reference

from keras_relu.activations import masked_relu
from keras_relu.errors import UserError

X = [[-1.5, 0.5, 2, -0.25], [1, -2, 0.75, -0.5]]
SCORE = [0.8, -0.4, 0.001, -0.002]
UPSTREAM = [[1, -1, 0.5, 2], [0.25, 1, -1, 1]]
# name: mask, coefficients, surrogate, y, gradient to x, gradient to the score
VECTORS = {
    "identity": (
        [1, 0, 1, 0], None, "true",
        [[0, 0.5, 2, -0.25], [1, -2, 0.75, -0.5]], [[0, -1, 0.5, 2], [0.25, 1, -1, 1]],
        [1.756651, 1.026031, 0, 0.692148],
    ),
    "identity, relu surrogate": (
        [1, 0, 1, 0], None, "relu",
        [[0, 0.5, 2, -0.25], [1, -2, 0.75, -0.5]], [[0, -1, 0.5, 0], [0.25, 0, -1, 0]],
        [1.756651, 1.026031, 0, 0.692148],
    ),
    "identity, relu surrogate, relay mask": (
        [1, 0, 0, 1], None, "relu",
        [[0, 0.5, 2, 0], [1, -2, 0.75, 0]], [[0, -1, 0.5, 0], [0.25, 0, -1, 0]],
        [1.756651, 1.026031, 0, 0.692148],
    ),
    "scaled quadratic": (
        [1, 0, 1, 0], [0, 0.5, 0.1], "true",
        [[0, 0.275, 2, -0.11875], [1, -0.6, 0.75, -0.225]], [[0, -0.6, 0.5, 0.9], [0.25, 0.1, -1, 0.4]],
        [0.731938, 0.192381, -0.013006, 0.320118],
    ),
    "quadratic": (
        [1, 0, 1, 0], [0.2, 0.5, 0.2], "true",
        [[0, 0.5, 2, 0.0875], [1, 0, 0.75, 0]], [[0, -0.7, 0.5, 0.8], [0.25, -0.3, -1, 0.3]],
        [0.146388, 0, -0.043353, -0.121126],
    ),
    "line": (
        [1, 0, 1, 0], [0.4, 0.5], "true",
        [[0, 0.65, 2, 0.275], [1, -0.6, 0.75, 0.15]], [[0, -0.5, 0.5, 1], [0.25, 0.5, -1, 0.5]],
        [0.439163, 0.384761, 0.225435, -0.484503],
    ),
}  # fmt: skip


def run(x, score, mask, coefficients, upstream, surrogate="true", **options):
    """y and the gradients to x, score and coefficients (None without) as NumPy arrays."""
    x, score, mask, upstream = (tf.constant(a, tf.float32) for a in (x, score, mask, upstream))
    sources = [x, score] + ([] if coefficients is None else [tf.constant(coefficients, tf.float32)])
    with tf.GradientTape() as tape:
        tape.watch(sources)
        y = masked_relu(x, score, mask, *sources[2:], surrogate=surrogate, **options)
    gradients = tape.gradient(y, sources, upstream)
    return [y.numpy(), *(gradient.numpy() for gradient in gradients)]


def random_case(seed, shape, degree):
    """x, score, mask, coefficients, upstream; multiples of 1/8 so that no x is near the kink without being on it."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-16, 17, shape) / 8
    score = rng.normal(size=shape[1:])
    mask = (rng.uniform(size=shape[1:]) < rng.choice([0.0, 0.3, 1.0])).astype(np.float32)
    return x, score, mask, rng.normal(size=(degree + 1, shape[-1])), rng.normal(size=shape)


@pytest.mark.parametrize("name", VECTORS)
def test_vectors(name):
    mask, row, surrogate, y, dx, dscore = VECTORS[name]
    coefficients = None if row is None else np.repeat(np.array(row)[:, None], 4, axis=1)
    results = run(X, SCORE, mask, coefficients, UPSTREAM, surrogate)
    for result, expected in zip(results, (y, dx, dscore), strict=False):
        np.testing.assert_allclose(result, expected, atol=1e-6)


def test_a_replaced_negative_input_is_not_rectified_first():
    y, *_ = run(X, SCORE, [1, 0, 1, 0], None, UPSTREAM)
    assert y[0, 3] == -0.25
    assert y[1, 1] == -2


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31),
    st.sampled_from([(1, 3), (4, 5), (2, 3, 2), (3, 2, 3, 2)]),
    st.sampled_from([None, 1, 2]),
    st.sampled_from(["true", "relu"]),
    st.sampled_from([None, 1.0]),
)
def test_values_and_gradients_equal_the_oracle(seed, shape, degree, surrogate, max_value):
    x, score, mask, coefficients, upstream = random_case(seed, shape, degree or 1)
    identity = np.array([[0.0] * shape[-1], [1.0] * shape[-1]])
    weights, limit = (identity, None) if degree is None else (coefficients, coefficients), max_value or np.inf
    expected = reference.gated(x, score, mask, weights[0], upstream, surrogate, limit)
    results = run(x, score, mask, weights[1], upstream, surrogate, max_value=max_value)
    for result, wanted in zip(results, expected, strict=False):
        np.testing.assert_allclose(result, wanted, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("shared", [(1, 1, 3), (1, 1, 1)])
@pytest.mark.parametrize("degree", [None, 1, 2])
def test_shared_scores_sum_what_they_share(shared, degree):
    x, score, mask, coefficients, upstream = random_case(5, (4, 2, 3, 3), degree or 1)
    score, mask = np.resize(score, shared), np.resize([1.0, 0.0, 0.0], shared).astype(np.float32)
    wide = [np.broadcast_to(a, x.shape[1:]) for a in (score, mask)]
    identity = np.array([[0.0] * 3, [1.0] * 3])
    expected = reference.gated(x, *wide, identity if degree is None else coefficients, upstream)
    results = run(x, score, mask, None if degree is None else coefficients, upstream)
    axes = tuple(axis for axis, size in enumerate(shared) if size == 1)
    np.testing.assert_allclose(results[2], expected.score.sum(axes, keepdims=True), rtol=1e-5)
    for result, wanted in zip(results[:2] + results[3:], (expected.y, expected.x, expected.coefficients), strict=False):
        np.testing.assert_allclose(result, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("degree", [1, 2])
def test_coefficient_gradient_equals_finite_differences(degree):
    x, score, mask, coefficients, upstream = random_case(7, (3, 2, 2, 2), degree)
    mask = np.array([[[1, 0], [0, 1]], [[0, 0], [1, 1]]], np.float32)

    def loss(w):
        return float(np.sum(run(x, score, mask, w, upstream)[0].astype(np.float64) * upstream))

    gradient = run(x, score, mask, coefficients, upstream)[3]
    for index in np.ndindex(*coefficients.shape):
        step = np.zeros_like(coefficients)
        step[index] = 0.25
        difference = (loss(coefficients + step) - loss(coefficients - step)) / 0.5
        assert gradient[index] == pytest.approx(difference, rel=1e-4, abs=1e-4)


def test_all_replaced_by_lines_is_exactly_affine():
    x, score, _, coefficients, upstream = random_case(3, (4, 3), 1)
    y, *_ = run(x, score, np.zeros(3), coefficients, upstream)
    np.testing.assert_array_equal(y, np.float32(x) * np.float32(coefficients[1]) + np.float32(coefficients[0]))


@pytest.mark.parametrize("degree", [None, 1, 2])
@pytest.mark.parametrize("surrogate", ["true", "relu"])
def test_all_kept_is_exactly_relu(degree, surrogate):
    x, score, _, coefficients, upstream = random_case(3, (4, 3, 2), degree or 1)
    coefficients = None if degree is None else coefficients
    y, dx, _, *dw = run(x, score, np.ones((3, 2)), coefficients, upstream, surrogate)
    np.testing.assert_array_equal(y, tf.nn.relu(np.float32(x)))
    np.testing.assert_array_equal(dx, np.where(x > 0, np.float32(upstream), 0))
    assert not np.any(dw)


@pytest.mark.parametrize("degree", [None, 1, 2])
def test_infinities_of_kept_elements_stay_out_of_the_polynomial(degree):
    x = [[np.inf, -np.inf, 1.0], [2.0, 3.0, -1.0]]
    coefficients = None if degree is None else np.full((degree + 1, 3), 0.5)
    y, dx, _, *dw = run(x, np.zeros(3), [1, 1, 0], coefficients, np.ones((2, 3)))
    np.testing.assert_array_equal(y[:, :2], [[np.inf, 0], [2, 3]])
    np.testing.assert_array_equal(dx[:, :2], [[1, 0], [1, 1]])
    assert np.isfinite(y[:, 2]).all()
    assert np.isfinite(dw).all()


@pytest.mark.parametrize("degree", [None, 1, 2])
def test_infinities_of_replaced_elements_follow_the_replacement(degree):
    coefficients = None if degree is None else np.array([[0.5, 0.5], [1.0, 1.0], [0.5, 0.5]])[: degree + 1]
    y, dx, *_ = run([[np.inf, -np.inf]], np.zeros(2), [0, 0], coefficients, np.ones((1, 2)))
    np.testing.assert_array_equal(y, [[np.inf, np.inf if degree == 2 else -np.inf]])
    assert not np.isnan(dx).any()


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
@pytest.mark.parametrize("degree", [None, 1, 2])
def test_half_precision_inputs(dtype, degree):
    x, score, mask, coefficients, upstream = random_case(11, (4, 3, 3), degree or 1)
    coefficients = None if degree is None else tf.constant(coefficients, tf.float32)
    half, score = tf.cast(x, dtype), tf.constant(score, tf.float32)
    sources = [half, score] + ([] if degree is None else [coefficients])
    with tf.GradientTape() as tape:
        tape.watch(sources)
        y = masked_relu(half, score, tf.constant(mask), *sources[2:])
    gradients = tape.gradient(y, sources, tf.cast(upstream, dtype))
    assert [t.dtype for t in (y, *gradients)] == [dtype, dtype, tf.float32, tf.float32][: 1 + len(sources)]
    exact = run(x, score, mask, coefficients, upstream)
    for half_result, result in zip((y, *gradients), exact, strict=True):
        np.testing.assert_allclose(tf.cast(half_result, tf.float32), result, rtol=0.03, atol=0.06)


def test_half_precision_squares_do_not_overflow():
    coefficients = tf.constant([[0.0], [1.0], [0.01]])
    y = masked_relu(tf.constant([[400.0]], tf.float16), tf.zeros([1]), tf.zeros([1]), coefficients)
    np.testing.assert_allclose(y, [[2000.0]], rtol=1e-2)


def test_a_part_of_the_batch_gives_the_gradient_scaled_up():
    x, score, mask, coefficients, upstream = random_case(13, (8, 2, 2), 2)
    _, dx, dscore, dw = run(x, score, mask, coefficients, upstream, gradient_fraction=0.25)
    exact = run(x, score, mask, coefficients, upstream)
    part = run(x[:2], score, mask, coefficients, upstream[:2])
    np.testing.assert_array_equal(dx, exact[1])
    np.testing.assert_array_equal(dscore, exact[2])
    np.testing.assert_allclose(dw, 4 * part[3], rtol=1e-6)
    np.testing.assert_allclose(
        run(x[:1], score, mask, coefficients, upstream[:1], gradient_fraction=0.01)[3],
        run(x[:1], score, mask, coefficients, upstream[:1])[3],
    )


def gradients_to(asked, x, upstream, score, mask, coefficients):
    """Gradients to the arguments named in `asked`; usable in eager mode and in a graph."""
    sources = {"x": x, "score": score, "coefficients": coefficients}
    with tf.GradientTape() as tape:
        tape.watch(list(sources.values()))
        y = masked_relu(x, score, mask, coefficients)
    return tape.gradient(y, [sources[name] for name in asked], upstream)


def test_graph_equals_eager():
    x, score, mask, coefficients, upstream = (tf.constant(a, tf.float32) for a in random_case(17, (4, 3, 2), 2))
    arguments = ["x", "score", "coefficients"], x, upstream, score, mask, coefficients
    for a, b in zip(tf.function(gradients_to)(*arguments), gradients_to(*arguments), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def executed_ops(asked):
    """Operations that are left after TensorFlow optimised a graph of the gradients named in `asked`."""
    values = [np.asarray(a, np.float32) for a in random_case(17, (4, 3, 2), 2)]
    options, metadata = tf.compat.v1.RunOptions(output_partition_graphs=True), tf.compat.v1.RunMetadata()
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        x, score, mask, coefficients, upstream = (tf.compat.v1.placeholder(tf.float32, a.shape) for a in values)
        gradients = gradients_to(asked, x, upstream, score, mask, coefficients)
        feed = dict(zip((x, score, mask, coefficients, upstream), values, strict=True))
        session.run(gradients, feed, options=options, run_metadata=metadata)
    return [node.op for graph in metadata.partition_graphs for node in graph.node]


def test_gradients_that_nobody_asks_for_are_pruned():
    assert executed_ops(["x"]).count("BiasAddGrad") == 0
    assert executed_ops(["x", "coefficients"]).count("BiasAddGrad") == 3
    assert executed_ops(["x", "coefficients", "score"]).count("BiasAddGrad") == 4


@pytest.mark.parametrize("degree", [None, 2])
def test_gradients_wait_for_the_upstream_gradient(degree):
    """Else a graph computes parts of them in the forward pass and holds tensors as large as x until the backward pass."""
    with tf.Graph().as_default() as graph:
        x, score, mask, coefficients, upstream = (
            tf.compat.v1.placeholder(tf.float32, a.shape) for a in random_case(17, (4, 3, 2), degree or 1)
        )
        with tf.GradientTape() as tape:
            tape.watch([x, score])
            y = masked_relu(x, score, mask, None if degree is None else coefficients)
        before = len(graph.get_operations())
        tape.gradient(y, [x, score], upstream)
        late = {upstream.op}
        for op in graph.get_operations()[before:]:
            if late.intersection([*op.control_inputs, *(tensor.op for tensor in op.inputs)]):
                late.add(op)
            else:
                assert op.type in ("Const", "Shape", "Identity", "IdentityN"), f"{op.type} does not wait"


def test_the_batch_size_may_be_unknown():
    function = tf.function(lambda x: masked_relu(x, tf.zeros([2, 3]), tf.zeros([2, 3]), tf.ones([3, 3])))
    concrete = function.get_concrete_function(tf.TensorSpec([None, 2, 3]))
    assert concrete(tf.ones([5, 2, 3])).shape == (5, 2, 3)


def test_refuses_an_unknown_surrogate():
    with pytest.raises(UserError, match="Unknown surrogate 'tru'"):
        masked_relu(tf.ones([1, 3]), tf.ones([3]), tf.ones([3]), surrogate="tru")


@pytest.mark.parametrize("shape", [(4, 3), (2, 2)])
def test_refuses_coefficients_of_another_shape(shape):
    with pytest.raises(UserError, match="Coefficients must be"):
        masked_relu(tf.ones([1, 3]), tf.ones([3]), tf.ones([3]), tf.ones(shape))
