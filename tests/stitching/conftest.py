"""Two small networks, trained for a moment on the digits, that every test of stitching can cut."""

from __future__ import annotations

import pytest
import tf_keras as keras
from reference.small_networks import small_net

from keras_relu import data


def trained(model, dataset, epochs=12):
    """Fitted a little, so that its accuracy is far above chance."""
    images, labels = dataset.train.images, dataset.train.labels
    model.compile(keras.optimizers.legacy.Adam(0.02), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(dataset.normalization.apply(images).numpy(), labels, batch_size=64, epochs=epochs, verbose=0)
    return model


@pytest.fixture(scope="session")
def digits():
    return data.load("digits")


@pytest.fixture(scope="session")
def networks(digits):
    return trained(small_net(0), digits), trained(small_net(1), digits)


@pytest.fixture(scope="session")
def saved(networks, tmp_path_factory):
    """Paths of both networks as .keras files."""
    folder = tmp_path_factory.mktemp("networks")
    paths = [folder / f"{name}.keras" for name in "ab"]
    for model, path in zip(networks, paths, strict=True):
        keras.Model(model.inputs, model.outputs, name=model.name).save(path)
    return paths
