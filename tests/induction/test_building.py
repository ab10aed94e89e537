"""Induced networks: identity with K = N, untouched sites, statistics, choosing matrices, files, other architectures, masks."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from reference import borrowed as reference
from reference.small_networks import small_net

from keras_relu import counting, replacement, surgery
from keras_relu.activations import InducedReLU
from keras_relu.errors import UserError
from keras_relu.induction import (
    Assignment,
    GroupAssignment,
    build,
    cluster,
    finetune,
    from_matrices,
    induce,
    make_plan,
    read_assignment,
    read_matrices,
    to_matrices,
    write_assignment,
    write_cache,
    write_matrices,
)
from keras_relu.induction.assignment import file_name
from keras_relu.induction.matrices import to_channel_first, to_channel_last
from keras_relu.training.recalibrate import reestimate_batch_norm

STEM, SECOND, THIRD = "stem_relu", "stage1_block1_relu1", "stage1_block1_relu2"
MAPPING = {STEM: [STEM, SECOND, THIRD]}
HAMMING = {"association": "hamming", "polarity": False, "constants": False}


@pytest.fixture(scope="module")
def assignment(network, digits, cache):
    return cluster(make_plan(network, MAPPING, 20), cache, model=network, dataset=digits)


class TestGraph:
    @pytest.mark.parametrize("config", [HAMMING, {"energy_images": 64}], ids=["hamming", "energy"])
    def test_all_neurons_as_prototypes_are_the_network_itself(self, network, digits, cache, logits, config):
        """Bit for bit, also on images that are not in the cache."""
        plan = make_plan(network, {STEM: [STEM]}, 256)
        made = cluster(plan, cache, config, model=network, dataset=digits)
        induced = induce(network, made)
        np.testing.assert_array_equal(logits(induced), logits(network))
        assert counting.count(induced).comparison_count == 960

    def test_values_equal_the_choosing_matrices(self, network, digits, cache, responses):
        """y = x (D C + o) at the first induced site, whose input nothing has changed."""
        plan = make_plan(network, {STEM: [SECOND]}, 30)
        made = cluster(plan, cache, model=network, dataset=digits)
        induced = induce(network, made)
        matrix = to_matrices(made)[f"{STEM}->{SECOND}"]
        first = np.transpose(responses[STEM].reshape(-1, 8, 8, 4), (0, 3, 1, 2)).reshape(200, -1) >= 0
        gate = first @ matrix.dense() + matrix.offset
        x = np.transpose(responses[SECOND].reshape(-1, 8, 8, 4), (0, 3, 1, 2))
        expected = np.transpose(x * gate.reshape(x.shape), (0, 2, 3, 1))
        probe = keras.Model(induced.inputs, induced.get_layer(SECOND).output)
        found = probe(digits.normalization.apply(digits.train.images[:200]))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)

    def test_other_sites_and_an_inducer_without_itself_stay(self, network, digits, cache, responses):
        plan = make_plan(network, {STEM: [THIRD]}, 30)
        made = cluster(plan, cache, HAMMING)
        induced = induce(network, made)
        counts = counting.count(induced)
        assert counts.comparison_count == 960 - 256 == plan.comparison_count()
        assert counts.relu_count == 960 - 256
        outputs = [induced.get_layer(STEM).output[0], induced.get_layer(SECOND).output]
        found = keras.Model(induced.inputs, outputs)(digits.normalization.apply(digits.train.images[:200]))
        for name, y in zip((STEM, SECOND), found, strict=True):
            np.testing.assert_allclose(tf.reshape(y, [200, -1]), np.maximum(responses[name], 0), rtol=1e-5, atol=1e-6)
        assert isinstance(induced.get_layer("stage2_block1_relu1"), keras.layers.ReLU)

    def test_unused_prototypes_are_not_compared(self, network, assignment):
        group = assignment.groups[0]
        codes = {name: np.where(values % 20 == 7, 40, values).astype(np.int32) for name, values in group.codes.items()}
        fewer = GroupAssignment(group.inducer, group.shape, group.prototypes, codes, group.shapes)
        one = Assignment((fewer,))
        assert one.used == {STEM: 19}
        assert counting.count(induce(network, one)).comparison_count == 192 + 19
        kept = fewer.pruned()
        bits = np.random.default_rng(0).integers(0, 2, (9, 20))
        left = bits[:, np.arange(20) != 7]
        for name in codes:
            np.testing.assert_array_equal(
                reference.gate(left, kept.codes[name]), reference.gate(bits, fewer.codes[name])
            )

    def test_a_wrong_assignment_is_refused(self, network, digits, assignment):
        with pytest.raises(UserError, match="Unknown ReLU site of the assignment"):
            induce(small_net(0), assignment)
        group = assignment.groups[0]
        shape = GroupAssignment(STEM, (8, 8, 5), group.prototypes, group.codes, group.shapes)
        with pytest.raises(UserError, match=r"of shape \(8, 8, 5\)"):
            induce(network, Assignment((shape,)))
        with pytest.raises(UserError, match="Unknown cap 'kept'"):
            induce(network, assignment, cap="kept")
        other = surgery.copy_model(network)
        other.get_layer("classifier").set_weights([w + 1 for w in network.get_layer("classifier").get_weights()])
        with pytest.raises(UserError, match="other weights"):
            build(other, assignment, digits)

    def test_a_source_that_comes_later_is_refused(self, network):
        with pytest.raises(UserError, match="not computed before"):
            surgery.replace_sites(
                network,
                lambda site: InducedReLU(name=site.name) if site.name == STEM else None,
                sources={STEM: SECOND},
            )
        with pytest.raises(UserError, match="Unknown ReLU site"):
            surgery.preactivations(network, ["absent"])


class TestStatistics:
    def test_they_are_the_means_over_batches(self, network, digits):
        copy = surgery.copy_model(network)
        assert reestimate_batch_norm(copy, digits.train, digits.normalization, images=100, batch_size=50) == 6
        x = digits.normalization.apply(digits.train.images[:100])
        conv = keras.Model(network.inputs, network.get_layer("stem_conv").output)(x).numpy().reshape(2, 50, 8, 8, 4)
        layer = copy.get_layer("stem_bn")
        np.testing.assert_allclose(layer.moving_mean, conv.mean((1, 2, 3)).mean(0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(layer.moving_variance, conv.var((1, 2, 3)).mean(0), rtol=1e-3, atol=1e-5)
        for old, new in zip(network.trainable_weights, copy.trainable_weights, strict=True):
            np.testing.assert_array_equal(old, new)
        assert layer.momentum == network.get_layer("stem_bn").momentum

    def test_nothing_to_do_and_too_many_images(self, network, digits):
        plain = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])
        assert reestimate_batch_norm(plain, digits.train, digits.normalization, images=10) == 0
        for images in (0, 10**6):
            with pytest.raises(UserError, match="Statistics can be estimated on 1 to"):
                reestimate_batch_norm(network, digits.train, digits.normalization, images=images)

    def test_build_counts_and_measures(self, network, digits, assignment):
        induced, result = build(network, assignment, digits, bn_images=500)
        assert result["comparison_count_before"] == 960
        assert result["comparison_count"] == 192 + assignment.used[STEM] == counting.count(induced).comparison_count
        assert result["prototypes"][STEM]["nominal"] == 20
        assert sum(result["prototypes"][STEM]["usage"]) <= result["induced_elements"] == 768
        assert result["bn_layers"] == 6
        assert result["baseline_accuracy"] > 0.5
        assert 0 <= result["accuracy_before_bn"] <= 1
        _, without = build(network, assignment, digits, bn_images=0, test=False)
        assert without["val_accuracy"] == without["val_accuracy_before_bn"] == result["val_accuracy_before_bn"]
        assert "accuracy" not in without


class TestFiles:
    def test_assignments_round_trip_to_the_same_bytes(self, assignment, tmp_path):
        write_assignment(tmp_path / "a.npz", assignment)
        found = read_assignment(tmp_path / "a.npz")
        assert found.facts == assignment.facts
        np.testing.assert_array_equal(found.groups[0].prototypes, assignment.groups[0].prototypes)
        for name, codes in assignment.groups[0].codes.items():
            np.testing.assert_array_equal(found.groups[0].codes[name], codes)
        write_assignment(tmp_path / "b.npz", found)
        assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()

    def test_names_tell_recipes_apart(self, network):
        plan = make_plan(network, MAPPING, 20)
        common = {"selection": "fps", "association": "energy-pc", "seed": 3, "images": 200, "model_hash": "ab" * 32}
        assert file_name(plan, **common) == "stem_relu_K20_fps-energy-pc_seed3_M200_abababab.npz"

    @pytest.mark.parametrize("damage", ["cut", "text", "codes", "prototypes"])
    def test_damage_is_noticed(self, assignment, tmp_path, damage):
        path = tmp_path / "a.npz"
        group = assignment.groups[0]
        if damage == "codes":
            broken = GroupAssignment(
                STEM, group.shape, group.prototypes, {STEM: group.codes[STEM] + 40}, {STEM: group.shape}
            )
            write_assignment(path, Assignment((broken,)))
        elif damage == "prototypes":
            broken = GroupAssignment(STEM, group.shape, group.prototypes + 256, group.codes, group.shapes)
            write_assignment(path, Assignment((broken,)))
        else:
            write_assignment(path, assignment)
            path.write_bytes(path.read_bytes()[:200] if damage == "cut" else b"text")
        with pytest.raises(UserError, match="damaged or no such file"):
            read_assignment(path)

    def test_channel_first_places(self):
        shape = (4, 3, 5)
        places = np.arange(60)
        first = to_channel_first(places, shape)
        expected = np.transpose(places.reshape(shape), (2, 0, 1)).ravel()
        np.testing.assert_array_equal(expected[first], places)
        np.testing.assert_array_equal(to_channel_last(first, shape), places)
        np.testing.assert_array_equal(to_channel_first(np.arange(7), (7,)), np.arange(7))

    @pytest.mark.parametrize("options", [HAMMING, {"association": "hamming"}], ids=["plain", "polarity and constants"])
    def test_choosing_matrices(self, network, cache, responses, tmp_path, options):
        made = cluster(make_plan(network, MAPPING, 20), cache, options)
        matrices = to_matrices(made)
        write_matrices(tmp_path / "m.npz", matrices)
        found = read_matrices(tmp_path / "m.npz")
        assert list(found) == [f"{STEM}->{name}" for name in MAPPING[STEM]]
        rows = cache.rows(STEM, made.groups[0].prototypes)
        from keras_relu.induction import bits

        prototypes = bits.unpack(rows, 200).T
        first = np.transpose((responses[STEM] >= 0).reshape(-1, 8, 8, 4), (0, 3, 1, 2)).reshape(200, -1)
        for pair, matrix in found.items():
            name = pair.partition("->")[2]
            dense = matrix.dense()
            if options is HAMMING:
                # The original's: exactly one 1 per column, nothing else.
                assert (dense.sum(0) == 1).all()
                assert set(np.unique(dense)) == {0.0, 1.0}
                assert not matrix.offset.any()
            gate = reference.gate(prototypes, made.groups[0].codes[name])
            expected = np.transpose(gate.reshape(-1, 8, 8, 4), (0, 3, 1, 2)).reshape(200, -1)
            np.testing.assert_array_equal(first @ dense + matrix.offset, expected)
        again = to_matrices(from_matrices(found))
        for pair, matrix in matrices.items():
            np.testing.assert_array_equal(again[pair].dense(), matrix.dense())
            np.testing.assert_array_equal(again[pair].offset, matrix.offset)

    def test_matrices_that_are_no_choice_are_refused(self, network, cache, tmp_path):
        from dataclasses import replace

        matrix = to_matrices(cluster(make_plan(network, MAPPING, 20), cache, HAMMING))[f"{STEM}->{SECOND}"]
        for changes, message in (
            ({"value": matrix.value * 2}, "is no choice"),
            ({"offset": matrix.offset + 1}, "is no choice"),
            ({"row": matrix.row[1:]}, "at most one entry"),
            ({"col": matrix.col[::-1]}, "at most one entry"),
            ({"row": matrix.row + 256}, "at most one entry"),
        ):
            with pytest.raises(UserError, match=message):
                from_matrices({f"{STEM}->{SECOND}": replace(matrix, **changes)})
        with pytest.raises(UserError, match="inducer->induced"):
            from_matrices({STEM: matrix})
        (tmp_path / "m.npz").write_bytes(b"PK")
        with pytest.raises(UserError, match="cannot be read"):
            read_matrices(tmp_path / "m.npz")


class TestOtherNetworks:
    def test_relu6_in_mobilenet(self, tmp_path):
        from keras_relu import data

        images = data.load("synthetic", options={"image_shape": (32, 32, 3), "train_size": 80, "test_size": 20})
        model = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=images.classes)
        names = [site.name for site in surgery.find_sites(model)]
        plan = make_plan(model, {names[0]: names[:3]}, 16)
        cache = write_cache(model, images, tmp_path / "cache", images=64, sites=names[:3])
        made = cluster(plan, cache, model=model, dataset=images)
        total = counting.count(model).comparison_count
        saved = sum(2 * np.prod(plan.site(name).shape) for name in names[:3])
        dropped, kept = induce(model, made), induce(model, made, cap="keep")
        assert plan.comparison_count() == total - saved + 16
        assert counting.count(dropped).comparison_count == total - saved + made.used[names[0]]
        assert counting.count(kept).comparison_count == total - saved // 2 + made.used[names[0]]
        x = images.normalization.apply(images.test.images)
        assert np.isfinite(dropped(x, training=False)).all()
        assert kept.get_layer(names[1]).max_value == 6.0

    def test_models_within_models_are_unpacked(self, network, digits, tmp_path):
        inputs = keras.Input((8, 8, 1))
        outer = keras.Model(inputs, network(inputs), name="outer")
        plan = make_plan(outer, {"tiny_stem_relu": ["tiny_stem_relu", "tiny_stage1_block1_relu1"]}, 8)
        from keras_relu.induction.build import prepare

        flat = prepare(outer)
        cache = write_cache(flat, digits, tmp_path / "cache", images=70)
        made = cluster(plan, cache, model=flat, dataset=digits)
        induced, result = build(outer, made, digits, bn_images=100)
        assert result["comparison_count"] == 960 - 512 + made.used["tiny_stem_relu"]
        assert induced.get_layer("tiny_stem_relu_bits")

    def test_masked_and_induced_sites_in_one_network(self, network, digits, assignment, tmp_path):
        """Induction first: what is left of plain ReLUs can be masked, frozen, stripped, and every count stays exact."""
        induced = induce(network, assignment)
        used = assignment.used[STEM]
        gated = replacement.replace_relus(induced, replacement="identity")
        assert [layer.name for layer in replacement.gated_layers(gated)] == [
            "stage2_block1_relu1",
            "stage2_block1_relu2",
        ]
        assert counting.count(gated).comparison_count == 192 + used
        assert replacement.freeze(gated, 50) == 50
        plain = replacement.strip(gated)
        assert (counting.count(plain).relu_count, counting.count(plain).comparison_count) == (50, 50 + used)
        plain.save(tmp_path / "both.keras")
        from keras_relu.runs import load_model

        loaded = load_model(tmp_path / "both.keras")
        x = digits.normalization.apply(digits.test.images[:16])
        np.testing.assert_array_equal(loaded(x, training=False), gated(x, training=False))
        assert counting.count(loaded).comparison_count == 50 + used
        with pytest.raises(UserError, match="Unknown ReLU site in the mapping"):
            make_plan(plain, {STEM: [STEM]}, 5)

    def test_reducing_what_is_left_of_an_induced_network(self, network, digits, cache):
        """The inducer keeps its ReLU here, which is no site any more and must not be counted among the masked ones."""
        made = cluster(make_plan(network, {STEM: [SECOND, THIRD]}, 20), cache, HAMMING)
        induced = induce(network, made)
        settings = {"budget": 50, "replacement": "identity", "batch_size": 64, "distillation": None}
        settings |= {"search": {"epochs": 1}, "finetune": {"epochs": 0}}
        reduction = replacement.reduce(induced, digits, settings, progress=False)
        assert sum(int(mask.sum()) for mask in reduction.masks.values()) == 50
        assert reduction.result["relu_count"] == counting.count(reduction.model).comparison_count == 256 + 50

    def test_masks_first(self, network, digits, tmp_path):
        """The other order: the masked site is no plain ReLU any more, the others can be induced."""
        gated = replacement.replace_relus(network, replacement="identity")
        replacement.freeze(gated, 800)
        plain = replacement.strip(gated)
        left = [site.name for site in surgery.find_sites(plain)]
        assert left == []
        half = surgery.replace_layers(
            gated, lambda layer: keras.layers.ReLU(name=layer.name) if layer.name in (STEM, SECOND) else None
        )
        cache = write_cache(half, digits, tmp_path / "cache", images=100)
        made = cluster(make_plan(half, {STEM: [STEM, SECOND]}, 12), cache, model=half, dataset=digits)
        induced = induce(half, made)
        masked = {layer.name: layer.relu_count() for layer in replacement.gated_layers(induced)}
        assert counting.count(induced).comparison_count == sum(masked.values()) + made.used[STEM]
        assert counting.count(replacement.strip(induced)).relu_count == sum(masked.values())


class TestFinetuning:
    def test_weights_move_and_codes_stay(self, network, digits, assignment):
        induced, _ = build(network, assignment, digits, bn_images=200, test=False)
        codes = induced.get_layer(SECOND).codes.numpy()
        kernel = induced.get_layer("stem_conv").kernel.numpy()
        settings = {"epochs": 1, "batch_size": 64, "learning_rate": 0.01, "augment": False}
        result = finetune(induced, digits, settings, teacher=network, progress=False)
        np.testing.assert_array_equal(induced.get_layer(SECOND).codes, codes)
        assert not np.array_equal(induced.get_layer("stem_conv").kernel, kernel)
        assert result["distilled"]
        assert result["accuracy"] > 0.3

    def test_a_network_without_induction_is_refused(self, network, digits):
        with pytest.raises(UserError, match="has no induced site"):
            finetune(network, digits)
