"""The cache on disk, and the association that needs none, against the pre-activations themselves."""

import json
import shutil

import numpy as np
import pytest
from reference import borrowed as reference

from keras_relu import data, surgery
from keras_relu.errors import UserError
from keras_relu.induction import ClusterConfig, bits, cluster, make_plan, open_cache, write_cache
from keras_relu.induction.association import energy_codes
from keras_relu.induction.cache import image_facts, take_images

STEM, SECOND = "stem_relu", "stage1_block1_relu1"
MAPPING = {STEM: [STEM, SECOND, "stage1_block1_relu2"]}


class TestCache:
    def test_bits_are_those_of_the_preactivation(self, cache, responses):
        assert cache.images == 200
        for name, x in responses.items():
            words = cache.bits(name)
            assert words.shape == (x.shape[1], 4)
            np.testing.assert_array_equal(bits.unpack(words, 200), (x >= 0).T)
            np.testing.assert_array_equal(cache.rows(name, np.array([3, 1])), words[[3, 1]])

    def test_small_chunks_write_the_same(self, network, digits, cache, tmp_path, monkeypatch):
        from keras_relu.induction import cache as module

        monkeypatch.setattr(module, "_CHUNK", 64)
        monkeypatch.setattr(module, "_BATCH", 32)
        again = write_cache(network, digits, tmp_path / "again", images=200)
        assert again.header == cache.header

    def test_writing_again_returns_the_same_cache(self, network, digits, cache):
        before = {file.name: file.stat().st_mtime_ns for file in cache.path.iterdir()}
        again = write_cache(network, digits, cache.path, images=200, sites=[SECOND])
        assert again.header == cache.header
        assert {file.name: file.stat().st_mtime_ns for file in cache.path.iterdir()} == before

    def test_a_cache_of_other_weights_or_images_is_refused(self, network, digits, cache, tmp_path):
        other = surgery.copy_model(network)
        other.get_layer("stem_conv").set_weights([1.01 * w for w in network.get_layer("stem_conv").get_weights()])
        with pytest.raises(UserError, match="other weights"):
            cache.require(other)
        with pytest.raises(UserError, match="with images 200, now it is 100"):
            write_cache(network, digits, cache.path, images=100)
        shifted = data.load("digits", seed=1)
        with pytest.raises(UserError, match="data_seed 0, now it is 1"):
            cache.require(network, image_facts(shifted, "train", 200))
        part = write_cache(network, digits, tmp_path / "part", images=64, sites=[STEM])
        assert part.sites == [STEM]
        with pytest.raises(UserError, match="lacks the site"):
            write_cache(network, digits, tmp_path / "part", images=64)
        with pytest.raises(UserError, match="Unknown site of the cache"):
            part.bits(SECOND)

    @pytest.mark.parametrize("damage", ["short", "flipped", "missing", "header", "keys", "sites", "convention"])
    def test_damage_is_noticed(self, cache, tmp_path, damage):
        copy = tmp_path / "copy"
        shutil.copytree(cache.path, copy)
        file, header = copy / f"{STEM}.bits", copy / "cache.json"
        content = bytearray(file.read_bytes())
        if damage == "short":
            file.write_bytes(content[:-8])
        elif damage == "flipped":
            content[100] ^= 1
            file.write_bytes(content)
        elif damage == "missing":
            file.unlink()
        elif damage == "header":
            header.write_text("{")
        else:
            values = json.loads(header.read_text())
            changes = {
                "keys": {"dataset": None},
                "sites": {"sites": [{"name": 3}]},
                "convention": {"convention": "x > 0"},
            }
            values |= changes[damage]
            if damage == "keys":
                del values["dataset"]
            header.write_text(json.dumps(values))
        with pytest.raises(UserError, match=r"damaged|not valid JSON|no header|convention"):
            open_cache(copy).bits(STEM)

    def test_bad_requests(self, network, digits, tmp_path):
        with pytest.raises(UserError, match="does not exist"):
            open_cache(tmp_path)
        broken = surgery.copy_model(network)
        broken.get_layer("stem_bn").set_weights([np.full(4, np.nan)] * 4)
        with pytest.raises(UserError, match="NaN on some image"):
            write_cache(broken, digits, tmp_path / "x", images=10)
        for images in (0, 100_000):
            with pytest.raises(UserError, match="train split has"):
                take_images(digits, "train", images)
        with pytest.raises(UserError, match="Unknown split"):
            write_cache(network, digits, tmp_path / "x", images=10, split="test")
        with pytest.raises(UserError, match="Unknown ReLU site"):
            write_cache(network, digits, tmp_path / "x", images=10, sites=["stem"])
        assert not (tmp_path / "x").exists()


class TestClustering:
    @pytest.mark.parametrize(("polarity", "constants"), [(False, False), (True, False), (False, True), (True, True)])
    def test_energy_equals_the_oracle(self, network, digits, responses, polarity, constants):
        prototypes = np.array([3, 77, 130, 255, 8])
        options = {"polarity": polarity, "constants": constants}
        names = [STEM, SECOND, "stage2_block1_relu1"]
        part = take_images(digits, "train", 200)
        # So little memory that every site takes a pass of its own.
        codes, lost = energy_codes(
            network, STEM, prototypes, names, part, digits.normalization, memory_bytes=1, **options
        )
        chosen = (responses[STEM][:, prototypes] >= 0).astype(int)
        for name in names:
            x = responses[name].astype(np.float64)
            own = (x >= 0).astype(int)
            wrong = reference.gate(chosen, codes[name]) != own
            best = reference.best_codes(own, x**2, chosen, **options)
            least = (x**2 * (reference.gate(chosen, best) != own)).sum(0)
            # Sums in float32 may take another of two codes that are equal to the last digits.
            np.testing.assert_allclose((x**2 * wrong).sum(0), least, rtol=1e-4, atol=1e-3)
            assert np.mean(codes[name] == best) > 0.9
            assert lost[name] == pytest.approx((x**2 * wrong).sum() / (x**2).sum(), rel=1e-3, abs=1e-6)

    def test_prototypes_map_to_themselves_and_others_stay(self, network, digits, cache):
        plan = make_plan(network, MAPPING, 20)
        for association in ("hamming", "energy"):
            config = ClusterConfig(association=association)
            (group,) = cluster(plan, cache, config, model=network, dataset=digits).groups
            assert group.codes[STEM][group.prototypes].tolist() == list(range(20))
            assert set(group.codes) == set(MAPPING[STEM])
            assert group.usage.sum() == sum((codes < 40).sum() for codes in group.codes.values())

    def test_the_improved_recipe_loses_less_energy(self, network, digits, cache):
        plan = make_plan(network, MAPPING, 20)
        lost = {}
        for name, options in {"plain": {"polarity": False, "constants": False}, "full": {}}.items():
            sites = cluster(plan, cache, {"energy_images": 200, **options}, model=network, dataset=digits).facts[
                "sites"
            ]
            lost[name] = [entry["lost_energy"] for entry in sites.values()]
        assert all(full <= plain for full, plain in zip(lost["full"], lost["plain"], strict=True))
        assert sum(lost["full"]) < sum(lost["plain"])

    def test_hamming_needs_the_cache_alone_and_is_deterministic(self, network, cache):
        plan = make_plan(network, MAPPING, 20)
        config = {"association": "hamming", "polarity": False, "constants": False, "ties": "lowest"}
        one, two = (cluster(plan, cache, config) for _ in range(2))
        for name, codes in one.groups[0].codes.items():
            np.testing.assert_array_equal(codes, two.groups[0].codes[name])
            assert codes.max() < 20
        assert one.facts == two.facts
        assert "energy_images" in one.facts
        assert one.facts["energy_images"] is None

    def test_prototypes_are_kept_and_reused(self, network, digits, cache, tmp_path):
        plan = make_plan(network, MAPPING, 20)
        config = {"association": "hamming", "selection": "random"}
        with pytest.raises(UserError, match="does not exist"):
            cluster(plan, cache, config, prototypes_dir=tmp_path, reuse_prototypes=True)
        with pytest.raises(UserError, match="needs prototypes_dir"):
            cluster(plan, cache, config, reuse_prototypes=True)
        first = cluster(plan, cache, config, prototypes_dir=tmp_path)
        (file,) = tmp_path.iterdir()
        assert file.name.startswith("stem_relu_K20_random_seed0_M200_")
        np.save(file, first.groups[0].prototypes[::-1].copy())
        again = cluster(plan, cache, config, prototypes_dir=tmp_path, reuse_prototypes=True)
        assert again.groups[0].prototypes.tolist() == first.groups[0].prototypes[::-1].tolist()
        for wrong in (np.array([1, 1]), np.array([256]), np.array([0.5]), np.zeros(0, np.int64)):
            np.save(file, wrong)
            with pytest.raises(UserError, match="different whole numbers from 0 to 255"):
                cluster(plan, cache, config, prototypes_dir=tmp_path, reuse_prototypes=True)
        file.write_bytes(b"no array")
        with pytest.raises(UserError, match="cannot be read"):
            cluster(plan, cache, config, prototypes_dir=tmp_path, reuse_prototypes=True)

    def test_energy_without_a_model_is_refused(self, network, cache):
        with pytest.raises(UserError, match="needs the model and the data set"):
            cluster(make_plan(network, MAPPING, 20), cache)

    def test_wrong_settings(self):
        for values, message in (
            ({"selection": "fpss"}, "Did you mean 'fps'"),
            ({"associaton": "energy"}, "Did you mean 'association'"),
            ({"images": 0}, "greater than or equal to 1"),
            ({"association": "hamming", "energy_images": 5}, "has no effect"),
        ):
            with pytest.raises(UserError, match=message):
                ClusterConfig.parse(values)
