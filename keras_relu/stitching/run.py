"""One stitching from end to end: cut, initialise, train, match directly, read both ways, check that nothing else moved."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from keras_relu.data import Dataset
from keras_relu.errors import KerasReLUError
from keras_relu.evaluate import Evaluator
from keras_relu.runs import Run
from keras_relu.similarity import AffineMap, Moments
from keras_relu.stitching import maps
from keras_relu.stitching.config import DirectConfig, StitchConfig
from keras_relu.stitching.fit_split import fit_batches, fit_moments
from keras_relu.stitching.history import History, save_arrays
from keras_relu.stitching.pair import Joint, Pair, make_pair, weights_hash
from keras_relu.stitching.readings import Candidate, Readings, read
from keras_relu.stitching.recalibrate import recalibrated
from keras_relu.stitching.step import DirectStep, StitchStep
from keras_relu.training.fit import fit

__all__ = ["Stitching", "stitch"]

# Closed forms invert a matrix of this many features at most; beyond it a flattened map is trained only.
_MOST_FEATURES = 4096


@dataclasses.dataclass(frozen=True)
class Stitching:
    """What `stitch` returns.

    Attributes:
        model: the stitched network of plain layers.
        result: as in result.json.
        matrices: W and b of every state by name, `after_w` [out, in] and so on; see `stitch`.
        history: saved states, {"iterations", "w", "b"}.
    """

    model: keras.Model
    result: dict[str, Any]
    matrices: dict[str, np.ndarray]
    history: dict[str, np.ndarray]


def stitch(
    front_model: keras.Model,
    end_model: keras.Model,
    front_layer: str,
    end_layer: str,
    dataset: Dataset,
    config: StitchConfig | Mapping[str, Any] | None = None,
    *,
    run: Run | None = None,
    resume: bool = False,
    strategy: tf.distribute.Strategy | None = None,
    checkpoint_every: int = 0,
    progress: bool = True,
    facts: Mapping[str, Any] | None = None,
) -> Stitching:
    """Train the map from `front_layer` of one network to `end_layer` of another, and measure it.

    Args:
        front_model, end_model: functional networks on the same images with logits for the same classes; not changed.
        front_layer, end_layer: where to cut, see `splitting.split`.
        dataset: trained on `train`, watched on `validation`, measured on `test` once.
        config: a `StitchConfig` or its plain values.
        run: gets metrics, checkpoints, model.keras, matrices.npz, history.npz and result.json; None writes nothing.
        facts: further keys of the result.

    Matrices: before, after, diff (after - before), mask, least_squares (fitted on `config.fit_split`), gap (least_squares -
    after), direct, first and second (low-rank factors), each as `<name>_w` [out, in] and `<name>_b` where there is one.

    Raises:
        UserError: layers that cannot be cut or joined, settings that do not fit.
        KerasReLUError: a frozen weight has changed.
        TrainingDivergedError, Interrupted: see `training.fit`.
    """
    config = config if isinstance(config, StitchConfig) else StitchConfig.parse(config or {})
    with (strategy or tf.distribute.get_strategy()).scope():
        pair = make_pair(front_model, end_model, front_layer, end_layer)
        work = _Work(pair, dataset, config)
    hashes = {name: weights_hash(half) for name, half in pair.halves().items()}
    common: dict[str, Any] = {
        "run": run,
        "resume": resume,
        "strategy": strategy,
        "checkpoint_every": checkpoint_every,
        "progress": progress,
    }
    trained = work.train(common)
    direct = work.train_directly(common) if config.direct else {}
    readings = work.read()
    for name, half in pair.halves().items():
        if weights_hash(half) != hashes[name]:
            raise KerasReLUError(f"A frozen weight of {name!r} changed during stitching; please report this.")
    return _finish(work, readings, hashes, run, {"training": trained, "direct_training": direct, **(facts or {})})


class _Work:
    """The state of one call of `stitch`."""

    def __init__(self, pair: Pair, dataset: Dataset, config: StitchConfig) -> None:
        self.pair, self.dataset, self.config = pair, dataset, config
        self.joint = self._joint()
        self.moments = self._moments()
        self.before = self._initialise(self.joint)
        self.history = History(None, 1)
        self.direct: AffineMap | None = None

    def _joint(self) -> Joint:
        config = self.config
        return Joint(
            self.pair,
            flatten=config.flatten,
            resize=config.resize,
            rank=config.rank,
            masked=config.mask != "identity",
            seed=config.seed,
        )

    def _moments(self) -> Moments | None:
        config, wide = self.config, max(self.joint.channels) > _MOST_FEATURES
        if wide and not maps.needs_moments(config.init, config.mask):
            return None
        return fit_moments(self.joint, self.dataset, config.fit_split, images=config.fit_images, seed=config.seed)

    def _initialise(self, joint: Joint) -> AffineMap:
        config = self.config
        start = maps.init_map(
            config.init,
            joint.channels,
            moments=self.moments,
            ridge=config.ridge,
            rank=config.rank,
            seed=config.seed,
        )
        mask = maps.mask_matrix(config.mask, joint.channels, moments=self.moments, seed=config.seed)
        joint.stitch.assign(start.weight, start.bias, mask)
        return joint.current()

    def train(self, common: dict[str, Any]) -> dict[str, Any]:
        """The task-loss phase; the map ends in `joint`."""
        config, train = self.config, self.dataset.train
        if config.epochs == 0:
            return {}
        steps = config.epochs * train.steps_per_epoch(config.batch_size)
        run = common["run"]
        self.history = History(
            run.path / "history" if run and run.chief else None, config.history_every * config.epochs
        )
        with (common["strategy"] or tf.distribute.get_strategy()).scope():
            step = StitchStep(self.joint, config, steps=steps, normalization=self.dataset.normalization)
        done = fit(
            step,
            self.dataset,
            epochs=config.epochs,
            batch_size=config.batch_size,
            phase="stitch",
            seed=config.seed,
            augment=config.augment,
            validate=self.validate if self.dataset.validation.size else None,
            on_step=self._remember,
            **common,
        )
        self.history.add(steps, self.joint.current())
        return {key: done[key] for key in ("epochs", "steps", "seconds")}

    def _remember(self, step: int) -> None:
        if self.history.due(step):
            self.history.add(step, self.joint.current())

    @cached_property
    def _evaluator(self) -> Evaluator:
        inputs = keras.Input(self.pair.front.input_shape[1:])
        outputs = self.pair.back(self.joint.apply(self.pair.front(inputs)))
        return Evaluator(keras.Model(inputs, outputs), self.dataset.normalization)

    def validate(self) -> dict[str, float]:
        """Accuracy and loss of the stitch as it is on the validation images; {} without any."""
        if not self.dataset.validation.size:
            return {}
        measured = self._evaluator(self.dataset.validation)
        return {key: measured[key] for key in ("accuracy", "loss")}

    def train_directly(self, common: dict[str, Any]) -> dict[str, Any]:
        """The phase that matches activations, in a map of its own."""
        settings = self.config.direct or DirectConfig()
        with (common["strategy"] or tf.distribute.get_strategy()).scope():
            joint = self._joint()
            self._initialise(joint)
            if settings.start == "ps_inv" and self.moments is not None:
                start = maps.init_map("ps_inv", joint.channels, moments=self.moments, ridge=self.config.ridge)
                joint.stitch.assign(start.weight, start.bias)
            step = DirectStep(joint, settings, normalization=self.dataset.normalization)
        done = fit(
            step,
            self.dataset,
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            phase="direct",
            seed=self.config.seed + 1,
            augment=self.config.fit_split == "augmented",
            **common,
        )
        self.direct = joint.current()
        return {key: done[key] for key in ("epochs", "steps", "seconds", "loss")}

    def states(self) -> dict[str, AffineMap]:
        """The maps that are read: before and after training, in closed form, and trained directly."""
        states = {"before": self.before, "stitched": self.joint.current()}
        if self.moments is not None:
            names = ("least_squares", "orthogonal")
            states |= maps.direct_maps(self.moments, ridge=self.config.ridge, names=names)
        return states | ({"direct": self.direct} if self.direct else {})

    def read(self) -> Readings:
        """All candidates on the test images."""
        candidates = {name: Candidate(state) for name, state in self.states().items()}
        if self.config.recalibrate_images:
            for name in ("stitched", "least_squares"):
                if name in candidates:
                    affine = candidates[name].affine
                    candidates[f"{name}_recalibrated"] = Candidate(affine, self._recalibrated(affine))
        return read(
            self.joint,
            candidates,
            self.dataset.test,
            self.dataset.normalization,
            cka_images=self.config.cka_images,
        )

    def _recalibrated(self, affine: AffineMap) -> keras.Model:
        count = self.config.recalibrate_images
        batches = fit_batches(self.dataset, "train", images=count, batch_size=min(500, count))
        return recalibrated(self.joint, affine, batches, self.dataset.normalization)

    def matrices(self) -> dict[str, np.ndarray]:
        """Named arrays for matrices.npz."""
        states = self.states()
        after = states["stitched"]
        named = {"before": self.before, "after": after}
        named["diff"] = AffineMap(after.weight - self.before.weight, after.bias - self.before.bias)
        if "least_squares" in states:
            fitted = named["least_squares"] = states["least_squares"]
            named["gap"] = AffineMap(fitted.weight - after.weight, fitted.bias - after.bias)
        named |= {"direct": states["direct"]} if "direct" in states else {}
        arrays = {f"{name}_w": state.weight for name, state in named.items()}
        arrays |= {f"{name}_b": state.bias for name, state in named.items()}
        layer = self.joint.stitch
        if layer.mask is not None:
            arrays["mask_w"] = layer.mask.numpy().T
        if layer.rank is not None:
            arrays |= {"first_w": layer.first.numpy(), "second_w": layer.second.numpy()}
        return arrays


def _finish(
    work: _Work, readings: Readings, hashes: dict[str, str], run: Run | None, facts: Mapping[str, Any]
) -> Stitching:
    config, pair = work.config, work.pair
    matrices = work.matrices()
    stitched = readings.maps["stitched"]
    validation = work.validate()
    pairs = [("end", "stitched"), ("end", "least_squares"), ("stitched", "least_squares"), ("end", "front")]
    result = {
        **{key: stitched[key] for key in ("accuracy", "correct", "total", "loss")},
        "val_accuracy": validation.get("accuracy"),
        "val_loss": validation.get("loss"),
        "dataset": work.dataset.name,
        "normalization": work.dataset.normalization.name,
        "front_layer": pair.front_layer,
        "end_layer": pair.end_layer,
        "shapes": {"front": list(pair.front_shape), "end": list(pair.end_shape)},
        "fit": _fit_facts(work),
        "readings": {**readings.networks, **readings.maps},
        "layer": readings.layer,
        "hits": {f"{a}_{b}": readings.hits(a, b) for a, b in pairs if {a, b} <= set(readings.predictions)},
        "norms": {name: float(np.linalg.norm(array)) for name, array in matrices.items() if name.endswith("_w")},
        "frozen_sha256": hashes,
        "matrices_file": "matrices.npz",
        "history_file": "history.npz" if work.history.states else None,
        "epochs": {"stitch": config.epochs, **({"direct": config.direct.epochs} if config.direct else {})},
        "parameters": config.to_dict(),
        "seed": config.seed,
        **facts,
    }
    model, history = work.joint.model(), work.history.arrays() if work.history.states else {}
    if run is not None:
        result = _write(run, model, result, matrices, history)
        work.history.close()
    return Stitching(model, result, matrices, history)


def _fit_facts(work: _Work) -> dict[str, Any]:
    config, moments = work.config, work.moments
    pixels = 1 if work.joint.flatten else math.prod(work.pair.end_shape[:-1])
    samples = None if moments is None else moments.count
    images = None if samples is None else samples // pixels
    return {"split": config.fit_split, "images": images, "samples": samples, "ridge": config.ridge}


def _write(
    run: Run,
    model: keras.Model,
    result: dict[str, Any],
    matrices: dict[str, np.ndarray],
    history: dict[str, np.ndarray],
) -> dict[str, Any]:
    run.save_model(model)
    if run.chief:
        if not run.rows():
            # A run without training has one row too, which every reader of runs expects.
            run.log({"phase": "stitch", "epoch": 0, "step": 0, "val_accuracy": result["val_accuracy"]})
        save_arrays(run.path / "matrices.npz", matrices)
        if history:
            save_arrays(run.path / "history.npz", history)
    return run.finish(result)
