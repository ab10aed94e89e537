"""The stitching layer: a 1x1 convolution on maps, a dense layer on vectors, masks, ranks, saving."""

import json

import numpy as np
import pytest
import tf_keras as keras

from keras_relu.errors import UserError
from keras_relu.layers.stitch import Stitch


def built(shape, units, **options):
    layer = Stitch(units, **options)
    layer.build((None, *shape))
    return layer


def rows(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


@pytest.mark.parametrize("shape", [(4, 3, 5), (5,)])
def test_it_is_an_affine_map_of_the_last_axis(shape):
    layer, x = built(shape, 7), rows(2, *shape)
    weight, bias = rows(7, 5), rows(7)
    layer.assign(weight, bias)
    np.testing.assert_allclose(layer(x), x @ weight.T + bias, atol=1e-5)
    np.testing.assert_array_equal(layer.matrix(), weight)
    assert layer.compute_output_shape((None, *shape)) == (None, *shape[:-1], 7)


def test_it_equals_kerass_convolution():
    layer, x = built((4, 3, 5), 7), rows(2, 4, 3, 5)
    twin = keras.layers.Conv2D(7, 1)
    twin.build((None, 4, 3, 5))
    twin.set_weights([layer.kernel.numpy()[None, None], layer.bias.numpy()])
    np.testing.assert_allclose(layer(x), twin(x), atol=1e-6)


def test_the_mask_removes_entries_for_good():
    layer = built((5,), 3, masked=True)
    mask = np.zeros((3, 5))
    mask[[0, 1, 2], [4, 0, 0]] = 1
    layer.assign(rows(3, 5), rows(3), mask)
    assert np.array_equal(layer.matrix() != 0, mask.astype(bool))
    assert len(layer.trainable_variables) == 2
    with pytest.raises(UserError, match="has no mask"):
        built((5,), 3).assign(rows(3, 5), rows(3), mask)


def test_a_rank_bounds_the_matrix():
    layer = built((6,), 5, rank=2)
    assert np.linalg.matrix_rank(layer.matrix(), tol=1e-5) == 2
    np.testing.assert_allclose(layer.first.numpy().T @ layer.first.numpy(), np.eye(2), atol=1e-5)
    assert not layer.bias.numpy().any()
    low = rows(5, 2) @ rows(2, 6)
    layer.assign(low, rows(5))
    np.testing.assert_allclose(layer.matrix(), low, atol=1e-4)


def test_starts_are_those_of_pytorch_and_belong_to_the_seed():
    weights = [built((400,), 300, seed=seed).kernel.numpy() for seed in (1, 1, 2)]
    assert np.array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], weights[2])
    assert np.abs(weights[0]).max() <= 1 / 20
    assert weights[0].std() == pytest.approx(1 / 20 / np.sqrt(3), rel=0.02)


@pytest.mark.parametrize("options", [{}, {"masked": True}, {"rank": 2}])
def test_it_is_saved_and_read_back(tmp_path, options):
    inputs = keras.Input((4, 4, 3))
    model = keras.Model(inputs, Stitch(5, seed=3, name="stitch", **options)(inputs))
    model.save(tmp_path / "m.keras")
    x = rows(2, 4, 4, 3)
    again = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(again(x), model(x))
    config = json.loads(json.dumps(model.get_layer("stitch").get_config()))
    assert Stitch.from_config(config).get_config() == config


def test_wrong_arguments_are_refused():
    with pytest.raises(UserError, match="units of at least 1"):
        Stitch(0)
    with pytest.raises(UserError, match="rank or a mask"):
        Stitch(3, rank=1, masked=True)
    with pytest.raises(UserError, match="rank 4; allowed is 1 to 3"):
        built((5,), 3, rank=4)
