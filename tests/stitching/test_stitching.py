"""Whole stitchings on small networks: exactness, training, frozen halves, results, refusals."""

import json
from pathlib import Path

import numpy as np
import pytest
import tf_keras as keras
from reference.small_networks import small_net

from keras_relu import splitting, stitching
from keras_relu.errors import KerasReLUError, UserError
from keras_relu.evaluate import evaluate
from keras_relu.runs import Run, load_model
from keras_relu.stitching import step
from keras_relu.stitching.fit_split import fit_batches
from keras_relu.stitching.saved import load_matrices, load_state

STILL = {"epochs": 0, "fit_images": 300}


def run_stitch(networks, digits, config, layers=("bn1", "bn1"), **options):
    return stitching.stitch(*networks, *layers, digits, config, progress=False, **options)


def count_right(model, digits):
    return evaluate(model, digits.test, digits.normalization)["correct"]


def test_the_networks_are_worth_stitching(networks, digits):
    assert all(count_right(model, digits) > 250 for model in networks)


@pytest.mark.parametrize("init", ["ps_inv", "eye"])
def test_a_network_stitched_to_itself_is_itself(networks, digits, init):
    model = networks[0]
    right, alive = count_right(model, digits), {}
    for cut in splitting.cuts(model):
        if cut.valid:
            made = run_stitch((model, model), digits, {**STILL, "init": init}, (cut.name, cut.name))
            weight, bias = made.matrices["after_w"], made.matrices["after_b"]
            live = alive[cut.name] = np.diag(weight) != 0
            assert live.any()
            if (cut.name, init) == ("fc", "ps_inv"):
                # Ten logits of eight features: W is determined on what they span only, and projects onto that.
                spanned = model.get_layer("fc").get_weights()[0][alive["pool"]].T
                np.testing.assert_allclose(weight @ spanned, spanned, atol=1e-4)
                assert np.trace(weight) == pytest.approx(spanned.shape[1], abs=1e-4)
            else:
                np.testing.assert_allclose(weight[live], np.eye(len(weight))[live], atol=1e-6)
            if cut.name.startswith(("bn", "conv")):
                assert live.all()
                np.testing.assert_allclose(bias, 0, atol=1e-5)
            assert made.result["correct"] == right
            assert made.result["readings"]["stitched"]["same_class"] == 1.0
            assert count_right(made.model, digits) == right


@pytest.fixture(scope="module")
def finished(networks, digits, tmp_path_factory):
    config = {
        "init": "random",
        "target": "soft_2",
        "epochs": 10,
        "batch_size": 64,
        "learning_rate": 0.05,
        "recalibrate_images": 200,
        "direct": {"loss": "mse", "epochs": 1, "learning_rate": 0.01, "start": "init"},
    }
    folder = tmp_path_factory.mktemp("stitch") / "run"
    run = Run.create(folder, config=config, stage="stitch")
    return folder, run_stitch(networks, digits, config, run=run, facts={"front": "a", "end": "b"})


def test_training_the_map_helps_and_both_readings_are_given(finished):
    _, made = finished
    readings = made.result["readings"]
    assert readings["stitched"]["accuracy"] > readings["before"]["accuracy"] + 0.1
    assert readings["direct"]["l2"] < readings["before"]["l2"]
    names = {"front", "end", "before", "stitched", "least_squares", "orthogonal", "direct"}
    assert set(readings) == names | {"stitched_recalibrated", "least_squares_recalibrated"}
    for name, reading in readings.items():
        for key in ("correct", "accuracy", "loss", "crossentropy", "same_class", "relative_accuracy", "logit_cka"):
            assert np.isfinite(reading[key]), (name, key)
    assert all(0 <= readings[name]["cka"] <= 1 for name in names - {"front", "end"})
    assert readings["least_squares"]["l2"] <= min(r["l2"] for r in readings.values() if "l2" in r) * 1.05
    assert readings["end"]["same_class"] == readings["end"]["logit_cka"] == 1.0
    assert all(sum(counts.values()) == made.result["total"] for counts in made.result["hits"].values())


def test_the_frozen_halves_are_bit_identical(networks, digits, finished):
    _, made = finished
    fresh = stitching.make_pair(*networks, "bn1", "bn1")
    for name, half in fresh.halves().items():
        assert stitching.weights_hash(half) == made.result["frozen_sha256"][name]
    used = stitching.make_pair(*networks, "bn1", "bn1")
    back = made.model.get_layer("back")
    assert all(np.array_equal(a, b) for a, b in zip(back.get_weights(), used.back.get_weights(), strict=True))


def test_what_is_written_can_be_read_back(digits, finished):
    folder, made = finished
    kinds = {path.suffix for path in folder.rglob("*") if path.is_file() and "tfevents" not in path.name}
    kinds.discard(Path(".lock").suffix)
    assert kinds <= {".json", ".npz", ".yaml", ".csv", ".keras"}
    result = json.loads((folder / "result.json").read_text())
    assert result["stage"] == "stitch"
    assert result["correct"] == made.result["correct"] == count_right(load_model(folder), digits)
    arrays = load_matrices(folder)
    np.testing.assert_allclose(arrays["diff_w"], arrays["after_w"] - arrays["before_w"])
    np.testing.assert_allclose(arrays["gap_w"], arrays["least_squares_w"] - arrays["after_w"])
    for state, name in (("before", "before"), ("least_squares", "least_squares"), ("direct", "direct")):
        assert count_right(load_state(folder, state), digits) == result["readings"][name]["correct"]
    with pytest.raises(UserError, match="Unknown state"):
        load_state(folder, "middle")


def test_damaged_matrices_are_refused(tmp_path):
    whole = tmp_path / "matrices.npz"
    np.savez(whole, after_w=np.eye(3), after_b=np.zeros(3))
    content = whole.read_bytes()
    np.save(tmp_path / "one.npy", np.eye(2))
    bare = (tmp_path / "one.npy").read_bytes()
    for broken in (b"", b"no archive", content[: len(content) // 2], content[:-9], bare):
        whole.write_bytes(broken)
        with pytest.raises(UserError, match=r"matrices\.npz.*cannot be read"):
            load_matrices(tmp_path)
    whole.unlink()
    with pytest.raises(UserError, match="does not exist"):
        load_matrices(tmp_path)


def test_the_history_begins_at_the_start_and_ends_at_the_end(finished):
    _, made = finished
    steps = made.history["iterations"]
    assert steps[0] == 0
    assert steps[-1] == made.result["training"]["steps"]
    np.testing.assert_allclose(made.history["w"][0], made.matrices["before_w"], atol=1e-6)
    np.testing.assert_allclose(made.history["w"][-1], made.matrices["after_w"], atol=1e-6)


def test_a_killed_run_goes_on_to_the_same_end(networks, digits, tmp_path, monkeypatch):
    config = {"epochs": 2, "batch_size": 128, "learning_rate": 0.01, "fit_images": 200, "cka_images": 50}
    whole = run_stitch(networks, digits, config, run=Run.create(tmp_path / "a", config=config, stage="stitch"))

    class Killed(Exception):
        pass

    def die(self, epoch, logs):
        raise Killed

    run = Run.create(tmp_path / "b", config=config, stage="stitch")
    from keras_relu.training import progress

    with monkeypatch.context() as patch:
        patch.setattr(progress.Progress, "step", lambda self, done: die(self, done, None) if done == 13 else None)
        with pytest.raises(Killed):
            run_stitch(networks, digits, config, run=run, checkpoint_every=5)
    run = Run.create(tmp_path / "b", config=config, stage="stitch", resume=True)
    again = run_stitch(networks, digits, config, run=run, resume=True, checkpoint_every=5)
    np.testing.assert_array_equal(again.matrices["after_w"], whole.matrices["after_w"])
    assert again.history["iterations"].tolist() == whole.history["iterations"].tolist()


def test_masked_entries_stay_away_and_the_others_learn(networks, digits):
    config = {"mask": "optimal-match", "epochs": 1, "learning_rate": 0.05, "fit_images": 300, "cka_images": 50}
    made = run_stitch(networks, digits, config)
    mask = made.matrices["mask_w"]
    assert (mask.sum(0) == 1).all()
    assert not made.matrices["after_w"][mask == 0].any()
    assert np.abs(made.matrices["diff_w"][mask == 1]).min() > 0


def test_the_cka_weight_raises_the_similarity(networks, digits):
    common = {"init": "random", "epochs": 2, "learning_rate": 0.02, "fit_images": 200}
    plain, pushed = (run_stitch(networks, digits, {**common, "cka_weight": w}) for w in (0.0, 20.0))
    cka = [made.result["readings"]["stitched"]["cka"] for made in (plain, pushed)]
    assert cka[1] > cka[0]


def test_l1_shrinks_the_matrix(networks, digits):
    common = {"init": "eye", "epochs": 2, "learning_rate": 0.02, "fit_images": 200, "cka_images": 50}
    plain, pushed = (run_stitch(networks, digits, {**common, "l1": w}) for w in (0.0, 50.0))
    assert np.abs(pushed.matrices["after_w"]).sum() < np.abs(plain.matrices["after_w"]).sum()


def test_low_rank_maps_stay_low(networks, digits):
    for init in ("random", "ps_inv"):
        config = {"rank": 2, "init": init, "epochs": 1, "fit_images": 200, "cka_images": 50}
        made = run_stitch(networks, digits, config)
        assert np.linalg.matrix_rank(made.matrices["after_w"], tol=1e-4) == 2
        assert made.matrices["first_w"].shape == (6, 2)


def test_vectors_are_joined_by_a_dense_layer(networks, digits):
    for layers in (("pool", "pool"), ("fc", "fc")):
        made = run_stitch(networks, digits, {**STILL, "init": "ps_inv"}, layers)
        assert isinstance(made.model.get_layer("stitch"), keras.layers.Dense)
        assert made.result["accuracy"] > 0.5


def test_maps_of_unequal_size_need_a_word(networks, digits):
    with pytest.raises(UserError, match="--resize bilinear"):
        run_stitch(networks, digits, STILL, ("relu1", "relu2"))
    made = run_stitch(networks, digits, {**STILL, "init": "ps_inv", "resize": "bilinear"}, ("relu1", "relu2"))
    assert made.matrices["after_w"].shape == (8, 6)
    assert count_right(made.model, digits) == made.result["correct"]
    with pytest.raises(UserError, match="nothing to resize"):
        run_stitch(networks, digits, {**STILL, "resize": "bilinear"})
    with pytest.raises(UserError, match="--flatten"):
        run_stitch(networks, digits, STILL, ("relu2", "pool"))


def test_whole_maps_can_be_joined(networks, digits):
    config = {**STILL, "flatten": True, "init": "ps_inv", "fit_images": 1000}
    made = run_stitch(networks, digits, config, ("relu2", "relu2"))
    assert made.matrices["after_w"].shape == (128, 128)
    assert count_right(made.model, digits) == made.result["correct"]
    made = run_stitch(networks, digits, config, ("relu2", "pool"))
    assert made.matrices["after_w"].shape == (8, 128)
    assert made.result["accuracy"] > 0.5


def test_the_split_of_the_fit_is_reported(networks, digits):
    found = {}
    for split in ("train", "augmented", "validation", "test"):
        config = {"epochs": 0, "fit_split": split, "fit_images": 100, "init": "ps_inv", "cka_images": 20}
        made = run_stitch(networks, digits, config)
        assert made.result["fit"] == {"split": split, "images": 100, "samples": 6400, "ridge": 0.0}
        found[split] = made.matrices["after_w"]
    assert len({array.tobytes() for array in found.values()}) == 4
    with pytest.raises(UserError, match="fit_images is 9999"):
        run_stitch(networks, digits, {"epochs": 0, "fit_images": 9999})


def test_augmented_images_come_once_each(digits):
    labels = np.concatenate([labels.numpy() for _, labels in fit_batches(digits, "augmented", batch_size=100)])
    assert len(labels) == digits.train.size // 100 * 100


def test_networks_that_do_not_belong_together_are_refused(networks):
    other = small_net(3, classes=4)
    with pytest.raises(UserError, match=r"numbers of outputs: \[10\] and \[4\]"):
        stitching.make_pair(networks[0], other, "bn1", "bn1")
    with pytest.raises(UserError, match="different images of shape"):
        stitching.make_pair(networks[0], small_net(3, shape=(9, 9, 1)), "bn1", "bn1")


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"init": "pinv"}, "init"),
        ({"mask": "half"}, "mask"),
        ({"temperature": 0}, "temperature"),
        ({"temperature": 2}, "no effect on target hard"),
        ({"rank": 2, "mask": "semi-match"}, "exclude each other"),
        ({"rank": 2, "l1": 0.1}, "exclude each other"),
        ({"flatten": True, "resize": "bilinear"}, "needs no resize"),
        ({"cka_weight": -1}, "cka_weight"),
        ({"direct": {"loss": "l3"}}, "loss"),
        ({"epoch": 3}, "Did you mean 'epochs'"),
        ({"recalibrate_images": -5}, "recalibrate_images"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_runs(config, match):
    with pytest.raises(UserError, match=match):
        stitching.StitchConfig.parse(config)


def test_recalibration_needs_normalisation_and_images(networks, digits):
    pair = stitching.make_pair(*networks, "pool", "pool")
    joint = stitching.Joint(pair)
    with pytest.raises(UserError, match="no batch normalisation"):
        stitching.recalibrated(joint, joint.current(), [], digits.normalization)
    joint = stitching.Joint(stitching.make_pair(*networks, "bn1", "bn1"))
    with pytest.raises(UserError, match="no images"):
        stitching.recalibrated(joint, joint.current(), [], digits.normalization)


def test_recalibrated_statistics_are_those_of_the_stitched_batches(networks, digits):
    joint = stitching.Joint(stitching.make_pair(*networks, "bn1", "bn1"))
    batches = list(fit_batches(digits, "train", images=300, batch_size=100))
    back = stitching.recalibrated(joint, joint.current(), batches, digits.normalization)
    kernel, bias = joint.stitch.kernel, joint.stitch.bias
    inside = keras.Model(joint.pair.back.input, joint.pair.back.get_layer("conv2").output)
    values = [
        inside(joint.apply_weights(joint.pair.front(digits.normalization.apply(x)), kernel, bias)).numpy()
        for x, _ in batches
    ]
    layer = back.get_layer("bn2")
    np.testing.assert_allclose(layer.moving_mean, np.mean([v.mean((0, 1, 2)) for v in values], 0), atol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, np.mean([v.var((0, 1, 2)) for v in values], 0), rtol=1e-3)
    plain = joint.pair.back.get_layer("bn2")
    assert not np.allclose(plain.moving_mean, layer.moving_mean)


def test_readings_are_what_their_definitions_say(networks, digits):
    joint = stitching.Joint(stitching.make_pair(*networks, "bn1", "bn1"), seed=4)
    found = stitching.read(
        joint, {"map": stitching.Candidate(joint.current())}, digits.test, digits.normalization, batch_size=100
    )
    x = digits.normalization.apply(digits.test.images)
    z, z2 = (np.asarray(net(x), np.float64) for net in (joint.model(), networks[1]))
    logs = z - np.log(np.exp(z).sum(1, keepdims=True))
    soft = np.exp(z2) / np.exp(z2).sum(1, keepdims=True)
    labels = digits.test.labels
    reading = found.maps["map"]
    assert reading["loss"] == pytest.approx(-logs[np.arange(len(z)), labels].mean(), rel=1e-4)
    assert reading["crossentropy"] == pytest.approx(-(soft * logs).mean(), rel=1e-4)
    assert reading["same_class"] == pytest.approx(np.mean(z.argmax(1) == z2.argmax(1)))
    assert reading["correct"] == np.sum(z.argmax(1) == labels)
    right, right2 = z.argmax(1) == labels, z2.argmax(1) == labels
    assert found.hits("end", "map") == {
        "rr": np.sum(right2 & right),
        "rw": np.sum(right2 & ~right),
        "wr": np.sum(~right2 & right),
        "ww": np.sum(~right2 & ~right),
    }
    from keras_relu import similarity

    t, a2 = (np.asarray(v, np.float64) for v in (joint.apply(joint.pair.front(x)), joint.pair.end_start(x)))
    assert reading["l2"] == pytest.approx(np.mean((t - a2) ** 2), rel=1e-4)
    assert reading["cka"] == pytest.approx(similarity.cka(t, a2), abs=1e-5)
    assert reading["cka_after_relu"] == pytest.approx(similarity.cka(np.maximum(t, 0), np.maximum(a2, 0)), abs=1e-5)
    assert reading["logit_cka"] == pytest.approx(similarity.cka(z, z2), abs=1e-5)
    a1 = np.asarray(joint.pair.front(x), np.float64)
    assert found.layer["l2"] == pytest.approx(np.mean((a1 - a2) ** 2), rel=1e-4)


def test_a_map_that_would_not_be_trained_is_no_result(networks, digits, monkeypatch):
    monkeypatch.setattr(step.optimizers, "compute_gradients", lambda *given: ([None, None], 0.0))
    with pytest.raises(KerasReLUError, match="would stay as it is"):
        run_stitch(networks, digits, {"epochs": 1, "fit_images": 100})
