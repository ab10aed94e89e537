"""The published reference points: complete, labelled, and the known artefacts kept out of the plots."""

import pytest

from keras_relu.report.published import STATUSES, published_series

EVERY = published_series(drawn_only=False)


def test_ids_are_unique():
    assert len({series.id for series in EVERY}) == len(EVERY)


@pytest.mark.parametrize("series", EVERY, ids=lambda series: series.id)
def test_each_series_says_where_it_comes_from(series):
    assert series.source
    assert series.status in STATUSES
    assert series.convention == "relu"
    assert series.dataset in ("cifar10", "cifar100", "tiny_imagenet")
    assert series.points
    assert list(series.points) == sorted(series.points)
    assert all(0 < accuracy < 100 for _, accuracy in series.points)
    assert all(count <= (series.relu_count_total or count) for count, _ in series.points)


def test_artefacts_and_superseded_numbers_are_never_drawn_by_default():
    drawn = {series.status for series in EVERY if series.draw}
    assert drawn == {"reported", "abstract", "third-party", "disputed"}


def test_artefacts_are_recorded_with_their_reason():
    artefacts = [series for series in EVERY if series.status == "artefact"]
    assert (9416, 93.24) in {point for series in artefacts for point in series.points}
    assert all("in-place ReLU" in series.note for series in artefacts)


def test_the_anchor_of_the_quadratic_on_the_small_network():
    (series,) = [series for series in EVERY if series.id == "autorep-v2-quadratic"]
    assert series.points == ((1800, 90.81), (12900, 91.93), (24900, 92.36), (51200, 92.94))
    assert (series.relu_count_total, series.baseline) == (188416, 93.84)


def test_only_series_of_the_dataset_are_given():
    assert {series.dataset for series in published_series("cifar100")} == {"cifar100"}
    assert published_series("digits") == []


def test_the_legend_names_system_network_count_and_standing():
    legends = [series.legend for series in published_series("cifar10")]
    assert "AutoReP v2.0.0 quadratic, resnet18_small (N 188k)" in legends
    assert "SNL, resnet18_snl / wide_resnet_22_8 [third-party]" in legends
