"""Two networks compared layer by layer: the same numbers as the measures, reasons for empty cells, where they part."""

import json

import numpy as np
import pytest
import tf_keras as keras
from reference.small_networks import small_net

from keras_relu import models, similarity, splitting, stitching, surgery
from keras_relu.errors import UserError
from keras_relu.stitching.layers import choose_layers
from keras_relu.stitching.spill import Spill, spilled

BATCH = 50


def run_compare(networks, digits, **options):
    settings = {"layers": ["all"], "images": 120, "batch_size": BATCH, **options}
    return stitching.compare(*networks, digits.test, digits.normalization, **settings)


def representations(model, names, digits, count=120):
    """In the batches of `run_compare`, so that rounding is the same."""
    net = keras.Model(model.input, {name: model.get_layer(name).output for name in names})
    images = digits.test.images[:count]
    batches = [net(digits.normalization.apply(images[start : start + BATCH])) for start in range(0, count, BATCH)]
    return [np.concatenate([batch[name] for batch in batches]) for name in names]


def test_every_measure_equals_the_function_on_the_arrays(networks, digits):
    # Not bn1: both are linear in the same 9 pixels, so that correlations coincide and PWCCA is not determined.
    names = ["relu1", "relu2", "pool"]
    found = run_compare(networks, digits, layers=names, measures=list(similarity.MEASURES))
    a, b = (representations(model, names, digits) for model in networks)
    for measure, table in found.tables.items():
        for i in range(3):
            try:
                expected = similarity.MEASURES[measure](a[i], b[i])
            except similarity.DegenerateError:
                assert (i, i) in table.reasons
                continue
            tolerance = 0.05 if measure == "cka_minibatch" else 1e-4
            assert table.values[i, i] == pytest.approx(expected, abs=tolerance), (measure, names[i])
            assert (i, i) not in table.reasons


def test_all_pairs_of_layers_have_a_cka(networks, digits):
    found = run_compare(networks, digits)
    assert found.layers_a == ["conv1", "bn1", "relu1", "conv2", "bn2", "relu2", "pool", "fc"]
    values = found.tables["cka"].values
    assert values.shape == (8, 8)
    a, b = representations(networks[0], ["relu1"], digits), representations(networks[1], ["bn2"], digits)
    assert values[2, 4] == pytest.approx(similarity.cka(a[0], b[0]), abs=1e-5)


def test_a_network_is_one_with_itself(networks, digits):
    found = run_compare((networks[0], networks[0]), digits, measures=["cka", "corr", "ls", "procrustes", "l2"])
    for measure in ("cka", "corr", "ls", "procrustes"):
        np.testing.assert_allclose(np.diag(found.tables[measure].values), 1, atol=1e-6)
    np.testing.assert_allclose(np.diag(found.tables["l2"].values), 0, atol=1e-9)
    assert "never falls" in found.parting("cka").sentence


def test_files_give_the_numbers_of_memory(networks, digits):
    options = {"measures": ["cka", "cca"], "bootstrap": 5, "null": True, "permutations": 2}
    memory = run_compare(networks, digits, **options)
    files = run_compare(networks, digits, memory_bytes=1, **options)
    assert json.dumps(memory.to_dict()) == json.dumps(files.to_dict())


def test_empty_cells_have_reasons(networks, digits):
    found = run_compare(networks, digits, measures=["ls", "l2", "cca"], layers=["conv1", "relu2"], images=80)
    assert found.tables["ls"].reasons[0, 1].startswith("maps of different size")
    assert "too few" in found.tables["cca"].reasons[0, 0]
    assert "matched layers only" in found.tables["cca"].reasons[0, 1]
    described = found.to_dict()
    assert described["tables"]["ls"]["values"][0][1] is None
    assert json.loads(json.dumps(described, allow_nan=False)) == described
    other = small_net(7, width=5)
    widths = run_compare((networks[0], other), digits, measures=["l2"], layers=["bn1"])
    assert widths.tables["l2"].reasons[0, 0] == "different numbers of channels, 6 and 5"


def test_dead_layers_are_flagged_everywhere_and_never_nan(networks, digits):
    dead = keras.models.clone_model(networks[1])
    dead.set_weights(networks[1].get_weights())
    dead.get_layer("bn1").gamma.assign(np.zeros(6))
    found = run_compare(
        (networks[0], dead),
        digits,
        measures=list(similarity.MEASURES),
        layers=["bn1", "conv2"],
        null=True,
        permutations=2,
        bootstrap=3,
    )
    for measure, table in found.tables.items():
        if measure not in ("l2", "cca_original", "lr_original", "r2_original"):
            assert (0, 0) in table.reasons, measure
        for array in (table.values, table.error, table.null_mean, table.null_std):
            assert array is None or not np.isinf(array).any()
    assert "dead" in found.tables["cka"].reasons[0, 0]
    json.dumps(found.to_dict(), allow_nan=False)


def test_values_that_are_not_finite_are_refused_with_the_layer(networks, digits):
    broken = surgery.copy_model(networks[1])
    broken.get_layer("conv2").bias.assign(np.full(8, np.nan))
    with pytest.raises(similarity.DegenerateError, match="'conv2' of the second network gives NaN"):
        run_compare((networks[0], broken), digits, layers=["bn1", "conv2"])


def test_the_null_of_permutations_is_where_unrelated_layers_lie(networks, digits):
    measures = ["cka", "cka_unbiased", "cka_minibatch", "ls", "corr", "mnn"]
    found = run_compare(networks, digits, measures=measures, layers=["bn1"], null=True, permutations=8)
    for measure in measures:
        table = found.tables[measure]
        assert table.null_mean[0, 0] + 2 * table.null_std[0, 0] < table.values[0, 0], measure
    a, b = (representations(model, ["bn1"], digits)[0] for model in networks)
    generator = np.random.default_rng(0)
    drawn = [similarity.cka(a, b[generator.permutation(len(b))]) for _ in range(40)]
    assert found.tables["cka"].null_mean[0, 0] == pytest.approx(np.mean(drawn), abs=0.02)
    assert found.tables["cka"].null_std[0, 0] == pytest.approx(np.std(drawn), rel=0.4)


def test_the_bootstrap_gives_errors_that_shrink_with_images(networks, digits):
    errors = []
    for images in (40, 320):
        options = {"measures": ["cka", "ls", "cka_minibatch"], "layers": ["bn1"], "bootstrap": 60, "batch_size": 20}
        errors.append(run_compare(networks, digits, images=images, **options))
    for measure in ("cka", "ls"):
        few, many = (found.tables[measure].error[0, 0] for found in errors)
        assert 0 < many < few < 0.3
    assert errors[0].tables["cka_minibatch"].error[0, 0] > 0
    again = run_compare(networks, digits, images=40, measures=["cka", "ls", "cka_minibatch"], layers=["bn1"], bootstrap=60,
                        batch_size=20)  # fmt: skip
    assert again.tables["cka"].error[0, 0] == errors[0].tables["cka"].error[0, 0]


def test_a_changed_network_parts_where_it_was_changed(networks, digits):
    changed = surgery.copy_model(networks[0])
    layer = changed.get_layer("conv2")
    layer.kernel.assign(np.random.default_rng(0).normal(size=layer.kernel.shape))
    found = run_compare((networks[0], changed), digits, layers=["conv*", "bn*", "relu*"])
    parting = found.parting()
    assert (parting.before, parting.layer) == ("relu1", "conv2")
    assert parting.high == pytest.approx(1, abs=1e-5)
    assert "part at 'conv2'" in parting.sentence
    assert run_compare(networks, digits, layers=["bn1"]).parting() is None


def test_a_reduced_network_is_compared_at_its_sites(networks, digits):
    reduced = surgery.replace_sites(
        networks[0], lambda s: keras.layers.Activation("linear", name=s.name) if s.name == "relu1" else None
    )
    found = run_compare((networks[0], reduced), digits, layers=["sites"])
    assert found.layers_a == found.layers_b == ["relu1", "relu2", "fc"]
    assert len(found.matched) == 3
    assert found.tables["cka"].values[0, 0] < 1


def test_choices_of_layers(networks):
    a, b = (splitting.unpack(model) for model in networks)
    assert choose_layers(a, b, ["bn*", "fc"]).a == ["bn1", "bn2", "fc"]
    pairs = choose_layers(a, b, ["bn1:relu1", "bn1:bn1"])
    assert (pairs.a, pairs.b, pairs.matched) == (["bn1"], ["relu1", "bn1"], [(0, 0), (0, 1)])
    assert choose_layers(a, b, ["cuts"]).a == choose_layers(a, b, ["all"]).a
    for patterns, match in (
        ([], "No layers"),
        (["bn3*"], "layer of"),
        (["fc", "bn3*"], r"bn3\*"),
        (["bn9"], "Did you mean 'bn"),
        (["bn1:bn1", "bn2"], "cannot be mixed"),
        (["image:bn1"], "cannot be compared"),
    ):
        with pytest.raises(UserError, match=match):
            choose_layers(a, b, patterns)


def test_patterns_reach_the_names_of_the_original():
    network = splitting.unpack(models.build("resnet20", seed=None))
    chosen = choose_layers(network, network, ["bn1", "layer3*add"]).a
    assert chosen == ["stem_bn", *(f"stage3_block{block}_add" for block in (1, 2, 3))]


def test_wrong_requests_are_refused(networks, digits):
    for options, match in (
        ({"measures": []}, "No measures"),
        ({"measures": ["ccka"]}, "Did you mean 'cka'"),
        ({"images": 1}, "images is 1; allowed is 2 to 360"),
        ({"images": 100_000}, "allowed is 2 to 360"),
        ({"permutations": 1}, "permutations must be at least 2"),
        ({"bootstrap": 1}, "bootstrap 0 or at least 2"),
    ):
        with pytest.raises(UserError, match=match):
            run_compare(networks, digits, **options)
    with pytest.raises(UserError, match="different images"):
        run_compare((networks[0], small_net(1, shape=(9, 9, 1))), digits)


def test_spills_are_read_in_slices_and_cleaned_up():
    rows = np.arange(60, dtype=np.float32).reshape(10, 6)
    for memory_bytes in (10**6, 0):
        with spilled({"x": 6}, 10, memory_bytes=memory_bytes) as spills:
            spill = spills["x"]
            spill.append(rows[:4].reshape(4, 2, 3))
            np.testing.assert_array_equal(spill[1:3], rows[1:3])
            spill.append(rows[4:])
            assert spill.shape == (10, 6)
            np.testing.assert_array_equal(spill[3:99], rows[3:])
            assert spill[5:5].shape == (0, 6)
            with pytest.raises(UserError, match="step of 2"):
                spill[0:8:2]
            file = spill.file
        assert file is None or not file.exists()


def test_a_full_disk_is_foreseen(monkeypatch):
    import shutil
    from types import SimpleNamespace

    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match="choose fewer images or layers"), spilled({"x": 6}, 100, memory_bytes=0):
        pass


def test_a_spill_in_memory_has_no_file():
    assert Spill(3, 2, None).file is None
