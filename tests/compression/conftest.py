"""The large networks, built once for all tests that count."""

import pytest

from keras_relu import models


@pytest.fixture(scope="session")
def built():
    """`built(name)`: the network with zero kernels, for counting; not to be changed."""
    made = {}

    def build(name):
        if name not in made:
            made[name] = models.build(name, seed=None)
        return made[name]

    return build
