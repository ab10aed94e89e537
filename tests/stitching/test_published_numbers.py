"""The published Tiny-10 networks on the real CIFAR-10: the numbers of the specification, section 6, on its 1,000 images."""

import numpy as np
import pytest

from keras_relu import data, stitching
from keras_relu.models import torch_weights
from keras_relu.similarity import match
from keras_relu.similarity.moments import correlations

pytestmark = [pytest.mark.cifar10, pytest.mark.weights, pytest.mark.torch]

CKA = {
    "conv": (0.978618, 0.953801, 0.889425, 0.911580, 0.867925, 0.869014, 0.799547, 0.815474),
    "bn": (0.979485, 0.948364, 0.912211, 0.911296, 0.860381, 0.853610, 0.747619, 0.790794),
    "relu": (0.964017, 0.930440, 0.933414, 0.908520, 0.855148, 0.846230, 0.726328, 0.813341),
}
SEMI = "5 27 19 1 23 14 6 18 15 1 1 17 28 22 2 29 28 23 3 4 13 1 31 8 5 25 18 29 25 30 9 19"


@pytest.fixture(scope="module")
def cifar(data_dir):
    return data.load("cifar10", data_dir=data_dir, normalization="cifar10_image_std")


@pytest.fixture(scope="module")
def tiny(weights_dir):
    return [torch_weights.convert(weights_dir / f"tiny10/in{n}-gn{n}.pt", "tiny10") for n in (0, 1)]


@pytest.fixture(scope="module")
def fitted(tiny, cifar):
    joint = stitching.Joint(stitching.make_pair(*tiny, "bn3", "bn3"))
    return joint, stitching.fit_moments(joint, cifar, "test", images=1000)


def test_cka_of_equal_layers(tiny, cifar):
    found = stitching.compare(
        *tiny, cifar.test, cifar.normalization, layers=["conv*", "bn*", "relu*", "fc"], images=1000
    )
    values = {row["layer_a"]: row["value"] for row in found.rows()}
    assert values["fc"] == pytest.approx(0.894568, abs=2e-4)
    for kind, expected in CKA.items():
        assert [values[f"{kind}{i}"] for i in range(1, 9)] == pytest.approx(expected, abs=2e-4)


def test_the_least_squares_map_at_bn3(fitted):
    made = stitching.direct_maps(fitted[1], names=["least_squares"])["least_squares"]
    found = made.weight[0, 0], made.bias[0], np.linalg.norm(made.weight)
    assert found == pytest.approx((-0.2238077988560788, 0.5339327594401506, 6.218774366), rel=1e-3)
    assert fitted[1].mean_square_difference() == pytest.approx(1.419021, rel=1e-4)


def test_the_stitched_network_at_bn3(fitted, cifar):
    joint, moments = fitted
    made = stitching.direct_maps(moments, names=["least_squares"])["least_squares"]
    found = stitching.read(joint, {"map": stitching.Candidate(made)}, cifar.test, cifar.normalization, cka_images=0)
    assert [found.networks[name]["correct"] for name in ("front", "end")] == pytest.approx([8649, 8627], abs=4)
    assert found.maps["map"]["correct"] == pytest.approx(6789, abs=10)
    assert found.networks["front"]["crossentropy"] == pytest.approx(0.060133, abs=1e-5)
    assert found.networks["front"]["same_class"] == pytest.approx(0.8573, abs=5e-4)


def test_the_semi_match_at_bn3(tiny, cifar):
    joint = stitching.Joint(stitching.make_pair(*tiny, "bn3", "bn3"))
    moments = stitching.fit_moments(joint, cifar, "test", images=3000)
    chosen = match(correlations(moments), "semi")
    assert np.mean(chosen == np.array(SEMI.split(), int)) > 0.9
