"""Direct matching in closed form: the same numbers as a stitching without training, and what is refused."""

import json

import numpy as np
import pytest
from reference.small_networks import skip_net, small_net

from keras_relu import stitching
from keras_relu.errors import UserError

FAST = {"fit_images": 200, "cka_images": 50}


def test_every_map_is_read_as_in_a_stitching(networks, digits):
    found = stitching.match_layers(*networks, digits, layers=["bn1", "bn2"], names=None, ranks=[2], **FAST)
    rows = {(row["front_layer"], row["map"]): row for row in found.rows}
    assert len(found.rows) == len(rows) == 2 * 9
    config = {"init": "ps_inv", "epochs": 0, **FAST}
    made = stitching.stitch(*networks, "bn1", "bn1", digits, config, progress=False)
    for name in ("least_squares", "orthogonal"):
        expected = made.result["readings"][name]
        assert {key: rows["bn1", name][key] for key in expected} == pytest.approx(expected, rel=1e-5)
    assert rows["bn1", "least_squares"]["l2"] < rows["bn1", "rank_2"]["l2"]
    assert rows["bn1", "least_squares"]["weight_norm"] == pytest.approx(made.result["norms"]["least_squares_w"])
    assert sum(rows["bn2", "identity"][key] for key in ("rr", "rw", "wr", "ww")) == digits.test.size
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["layers"][0]["front_layer"] == "bn1"


def test_without_cka_nothing_else_changes(networks, digits):
    with_cka, without = (
        stitching.match_layers(*networks, digits, layers=["bn1"], fit_images=200, cka_images=n).rows[0] for n in (50, 0)
    )
    assert without["cka"] is without["logit_cka"] is None
    for key in with_cka.keys() - {"cka", "cka_after_relu", "logit_cka"}:
        assert without[key] == with_cka[key] or without[key] == pytest.approx(with_cka[key], rel=1e-5), key


def test_a_network_matched_with_itself_has_the_identity(networks, digits):
    found = stitching.match_layers(networks[0], networks[0], digits, layers=["bn*"], names=["least_squares"], **FAST)
    for row in found.rows:
        assert row["correct"] == found.networks["end"]["correct"]
        assert row["weight_norm"] ** 2 == pytest.approx(6 if row["front_layer"] == "bn1" else 8, rel=1e-4)
        assert row["bias_norm"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"names": []}, "No maps"),
        ({"names": ["least_square"]}, "Did you mean 'least_squares'"),
        ({"ranks": [99]}, "rank is 99"),
        ({"layers": ["relu1:relu2"]}, "--resize bilinear"),
        ({"layers": ["nope"]}, "Unknown layer"),
        ({"fit_images": 10**6}, "fit_images is 1000000"),
    ],
)
def test_wrong_requests_are_refused(networks, digits, options, match):
    with pytest.raises(UserError, match=match):
        stitching.match_layers(*networks, digits, **{"layers": ["bn1"], **FAST, **options})


def test_layers_that_cannot_be_matched_are_refused(networks, digits):
    with pytest.raises(UserError, match="goes around it"):
        stitching.match_layers(skip_net(), skip_net(), digits, layers=["branch1"], **FAST)
    dead = small_net(5)
    dead.get_layer("bn1").gamma.assign(np.zeros(6))
    with pytest.raises(UserError, match="dead"):
        stitching.match_layers(networks[0], dead, digits, layers=["bn1"], **FAST)
