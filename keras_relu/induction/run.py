"""The eight steps of the original in one resumable run.

```
plan.json                     1  the checked mapping and the comparisons that will be left
flattened.json                2  the original's names for the sites, where it has them
stage1/cache/                 3  sign bits
verified.json                 4  the flattened network computes what the structured one does
stage1/<inducer>_K...npz      6  assignment; its prototypes and choosing matrices in folders beside it
stage1/initial.keras, .json   5, 7  the induced network, batch normalisation re-estimated, and its numbers
stage1/finetune/              8  a run of its own
model.keras, result.json         the result of the last stage
```

With `sequential` each inducer is a stage: the responses of the network fine-tuned before are cached, one more group is induced,
and so on. A step whose file is there is not done again, so that a run which was killed goes on where it was, to the same files.

Source: specification `induction` of the design, sections 5.2 and 5.4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tensorflow as tf
import tf_keras as keras

from keras_relu import surgery
from keras_relu.config import merged
from keras_relu.errors import KerasReLUError, UserError
from keras_relu.files import atomic_path, read_json, write_json
from keras_relu.fingerprint import model_hash
from keras_relu.induction.assignment import Assignment, file_name, read_assignment, write_assignment
from keras_relu.induction.build import build, count_facts, flat_copy, prepare
from keras_relu.induction.cache import write_cache
from keras_relu.induction.cluster import cluster
from keras_relu.induction.config import FINETUNE, InduceConfig
from keras_relu.induction.finetune import finetune
from keras_relu.induction.flatten import aliases, flatten
from keras_relu.induction.mapping import Plan, make_plan
from keras_relu.induction.matrices import to_matrices, write_matrices
from keras_relu.runs import Run, load_model
from keras_relu.training.checks import require_logits
from keras_relu.training.supervised import TrainConfig

if TYPE_CHECKING:
    from keras_relu.data import Dataset

__all__ = ["RUN_KEYS", "run_induction", "stage_facts"]

# Largest difference of logits that a change of names alone may make.
_TOLERANCE = 1e-5
_MATRICES = "layer_name_to_choosing_matrix"


def run_induction(
    model: keras.Model,
    dataset: Dataset,
    config: InduceConfig | Mapping[str, Any],
    run: Run,
    *,
    on_step: Callable[[str], None] | None = None,
    facts: Mapping[str, Any] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Run all steps that are not done yet.

    Args:
        model: the trained network; logits as output.
        run: where everything goes, see the module.
        on_step: called with a line of text when a step begins.
        facts: further keys of the result, the architecture for example.
        options: strategy, checkpoint_every, log_every, progress of the fine-tuning.

    Returns:
        The result, as in result.json.

    Raises:
        UserError: wrong settings, all found before anything heavy starts.
        KerasReLUError: the flattened network does not compute what the structured one does.
        TrainingDivergedError, Interrupted: see `training.fit`.
    """
    config = config if isinstance(config, InduceConfig) else InduceConfig.parse(config)
    require_logits(surgery.require_functional(model), dataset)
    if isinstance(options.get("strategy"), tf.distribute.MultiWorkerMirroredStrategy):
        raise UserError("The eight steps run in one process; fine-tune the built network with many workers instead.")
    return _Pipeline(model, dataset, config, run, on_step or (lambda text: None), options).run_all(facts or {})


class _Pipeline:
    """State of one call: the plan, and the network as the stages so far have made it."""

    def __init__(
        self,
        model: keras.Model,
        dataset: Dataset,
        config: InduceConfig,
        run: Run,
        on_step: Callable[[str], None],
        options: dict[str, Any],
    ) -> None:
        self.model, self.dataset, self.config, self.run = model, dataset, config, run
        self.say, self.options = on_step, options
        self.plan = make_plan(flat_copy(model), config.mapping, config.prototypes)
        self.training = [self._train_config(stage) for stage in range(len(self._stages()))]
        if config.images > getattr(dataset, config.split).size:
            raise UserError(
                f"The {config.split} split has {getattr(dataset, config.split).size} images, images is {config.images}."
            )

    def _stages(self) -> list[Plan]:
        if not self.config.sequential:
            return [self.plan]
        # The identity sites are there from the first stage on.
        return [replace(self.plan, groups=(group,)) for group in self.plan.groups]

    def _train_config(self, stage: int) -> TrainConfig:
        given = (
            merged(FINETUNE, self.config.finetune) if "optimizer" not in self.config.finetune else self.config.finetune
        )
        if self.plan.epochs is not None:
            epochs = self.plan.epochs[stage] if self.config.sequential else self.plan.epochs[-1]
            given = {**given, "epochs": epochs}
        config = TrainConfig.parse({"seed": self.config.seed, **given})
        # Both check what the configuration alone cannot: the options of the optimizer and of the schedule.
        config.make_optimizer()
        config.make_schedule(1)
        return config

    def run_all(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        self._write_once("plan.json", "1 plan", self.plan.describe)
        self._write_once("flattened.json", "2 flatten", lambda: _names(self.model, self.plan))
        network, joined = prepare(self.model, self.plan.identity), None
        stages = self._stages()
        for number, plan in enumerate(stages, 1):
            stage = _Stage(self, network, plan, self.run.path / f"stage{number}", number)
            stage.cache()
            if number == 1:
                self._write_once("verified.json", "4 verify", self._verify)
            joined = stage.cluster() if joined is None else joined.joined(stage.cluster())
            stage.build(joined)
            result = stage.finetune(self.training[number - 1])
            network = load_model(stage.folder / "finetune")
        assert joined is not None
        write_assignment(self.run.path / "assignment.npz", joined)
        self.run.save_model(network)
        return self.run.finish({**{k: v for k, v in result.items() if k not in RUN_KEYS}, **facts})

    def _write_once(self, name: str, step: str, make: Callable[[], Mapping[str, Any]]) -> None:
        if not (self.run.path / name).exists():
            self.say(step)
            write_json(self.run.path / name, make())

    def _verify(self) -> dict[str, Any]:
        """Compare the logits of the flattened network with those of the structured one over the validation images."""
        other = flatten(self.model) if _names(self.model, self.plan)["names"] else flat_copy(self.model)
        part = self.dataset.validation if self.dataset.validation.size else self.dataset.train
        largest = 0.0
        for images, _ in part.batches(250):
            x = self.dataset.normalization.apply(images)
            difference = self.model(x, training=False) - other(x, training=False)
            largest = max(largest, float(tf.reduce_max(tf.abs(difference))))
        if not largest <= _TOLERANCE:
            raise KerasReLUError(
                f"The flattened network's logits differ from the structured one's by {largest:.3g} on {part.name} images; "
                f"allowed is {_TOLERANCE:g}."
            )
        return {"images": part.size, "split": part.name, "largest_logit_difference": largest}


# What `Run.finish` writes itself.
RUN_KEYS = ("stage", "parent", "seed", "versions", "git_revision", "config_hash", "wall_time_s")


class _Stage:
    """One round of cache, cluster, build, fine-tune on a network."""

    def __init__(self, pipeline: _Pipeline, network: keras.Model, plan: Plan, folder: Path, number: int) -> None:
        self.pipeline, self.network, self.plan, self.folder, self.number = pipeline, network, plan, folder, number
        self.config, self.dataset = pipeline.config, pipeline.dataset
        name = file_name(
            plan,
            selection=self.config.selection,
            association=self.config.recipe,
            seed=self.config.seed,
            images=self.config.images,
            model_hash=model_hash(network),
        )
        self.assignment_file = folder / name

    def _say(self, step: str) -> None:
        self.pipeline.say(f"{step}, stage {self.number}")

    def cache(self) -> None:
        """Step 3, unless the assignment that it is for is there already."""
        if self.assignment_file.exists():
            return
        self._say("3 cache")
        sites = list(dict.fromkeys(name for group in self.plan.groups for name in group.sites))
        options: dict[str, Any] = {"images": self.config.images, "split": self.config.split, "sites": sites}
        self.cached = write_cache(self.network, self.dataset, self.folder / "cache", **options)

    def cluster(self) -> Assignment:
        """Step 6: the assignment, and its choosing matrices."""
        if not self.assignment_file.exists():
            self._say("6 cluster")
            made = cluster(
                self.plan,
                self.cached,
                self.config.cluster,
                model=self.network,
                dataset=self.dataset,
                prototypes_dir=self.folder / "prototypes",
            )
            write_matrices(self.folder / _MATRICES / self.assignment_file.name, to_matrices(made))
            write_assignment(self.assignment_file, made)
        return read_assignment(self.assignment_file)

    def build(self, joined: Assignment) -> None:
        """Steps 5 and 7: the induced network as the fine-tuning starts with it, and its numbers against the first one."""
        if (self.folder / "initial.json").exists():
            return
        self._say("5 and 7 build")
        options: dict[str, Any] = {"bn_images": self.config.bn_images, "cap": self.config.cap}
        induced, result = build(self.network, read_assignment(self.assignment_file), self.dataset, **options)
        result |= count_facts(self.pipeline.model, induced, joined)
        if self.number > 1:
            first = read_json(self.folder.parent / "stage1" / "initial.json")
            result |= {key: value for key, value in first.items() if key.startswith("baseline_")}
        with atomic_path(self.folder / "initial.keras") as temporary:
            induced.save(temporary)
        write_json(self.folder / "initial.json", result)

    def finetune(self, training: TrainConfig) -> dict[str, Any]:
        """Step 8; its result, with the numbers of the whole induction so far."""
        folder = self.folder / "finetune"
        if (folder / "result.json").exists():
            return Run.open(folder).result
        self._say("8 fine-tune and test")
        run = Run.create(folder, config=training.to_dict(), stage="induce", resume=True)
        induced = load_model(self.folder / "initial.keras")
        facts = stage_facts(read_json(self.folder / "initial.json"))
        teacher = surgery.copy_model(self.pipeline.model) if self.config.distill else None
        return finetune(
            induced, self.dataset, training, teacher=teacher, run=run, facts=facts, resume=True, **self.pipeline.options
        )


def stage_facts(built: Mapping[str, Any]) -> dict[str, Any]:
    """The result of `build.build` as facts of the fine-tuned network, of which only the accuracies are measured anew."""
    renamed = {"accuracy": "accuracy_before_finetune", "val_accuracy": "val_accuracy_before_finetune"}
    return {renamed.get(key, key): value for key, value in built.items()}


def _names(model: keras.Model, plan: Plan) -> dict[str, Any]:
    table = aliases(site.name for site in plan.sites)
    return {"names": {other: name for other, name in table.items() if not other.startswith(("layer", "act"))}}
