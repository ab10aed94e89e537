"""experiment.yaml: what one directory of the tree trains, as differences from a shared recipe.

```yaml
extends: fusionet_vanilla_146     # a recipe of this package, or a path to a YAML file; it may extend another
stage: vanilla                    # vanilla, pruned, pqat or pred
dataset: cifar10
network: fusionet_cifar10         # only vanilla builds a network; the other stages take their parent's
parent: ../vanilla                # only the other stages: the experiment they start from, which also gives the data set
batch_size: 48                    # every other key is a setting of the stage (`TrainConfig` for vanilla)
```

No TensorFlow is imported here, so that `experiment list` answers at once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from keras_relu.config import Config, load_yaml, merged
from keras_relu.errors import UserError, unknown_key

__all__ = ["CONFIG_FILE", "Experiment", "ExperimentConfig", "list_recipes", "load_experiment"]

CONFIG_FILE = "experiment.yaml"

_DATA_KEYS = ("dataset", "normalization", "validation_fraction", "limit", "seed")


class ExperimentConfig(Config):
    """What belongs to the experiment itself; how its stage trains is in the stage's own configuration."""

    stage: Literal["vanilla", "pruned", "pqat", "pred"]
    dataset: str
    network: str | None = Field(None, description="name in the registry; of the stage vanilla")
    network_options: dict[str, Any] = Field({}, description="options of the network's family, width for example")
    parent: str | None = Field(
        None, description="directory of the experiment this one starts from, relative to its own"
    )
    normalization: str | None = None
    validation_fraction: float = Field(0.1, ge=0, lt=1)
    limit: int | None = Field(None, ge=1, description="use at most so many training images")
    seed: int = Field(0, ge=0, description="of the data split, the data order, augmentation and initial weights")
    batch_per_replica: int | None = Field(None, ge=1, description="instead of batch_size, the global batch")
    published_accuracy: float | None = Field(
        None, ge=0, le=1, description="the original's, on the first 9,984 test images"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        first = self.stage == "vanilla"
        if first and self.network is None:
            raise ValueError("the stage vanilla needs a network")
        if not first and self.parent is None:
            raise ValueError(f"the stage {self.stage} needs a parent")
        if first and self.parent is not None:
            raise ValueError("the stage vanilla starts from no parent")
        if not first and (self.network is not None or self.network_options):
            raise ValueError(f"network has no effect on the stage {self.stage}, which takes its parent's")
        return self


@dataclass(frozen=True)
class Experiment:
    """One directory of the tree.

    Attributes:
        directory: where its experiment.yaml lies.
        config: what belongs to the experiment.
        settings: the plain values that its stage's configuration gets.
        recipe: the recipe it extends, or None.
    """

    directory: Path
    config: ExperimentConfig
    settings: dict[str, Any]
    recipe: str | None

    @property
    def run_path(self) -> Path:
        """Where its run lies unless another place is asked for."""
        return self.directory / "run"

    @property
    def parent(self) -> Path | None:
        """Directory of the experiment it starts from, or None."""
        return None if self.config.parent is None else _tidy(self.directory / self.config.parent)


def load_experiment(directory: str | Path, overrides: Mapping[str, Any] | None = None) -> Experiment:
    """The experiment of a directory.

    Args:
        overrides: keys that win over the file's, nested mappings key by key.

    Raises:
        UserError: no such directory, no experiment.yaml in it, or one that is wrong.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError(f"The experiment directory {str(directory)!r} does not exist.")
    file = directory / CONFIG_FILE
    if not file.is_file():
        raise UserError(f"{str(directory)!r} is no experiment: it has no {CONFIG_FILE}.")
    try:
        return _made(directory, load_yaml(file), dict(overrides or {}))
    except UserError as error:
        raise UserError(f"{str(file)!r}: {error}") from error


def _made(directory: Path, values: dict[str, Any], overrides: dict[str, Any]) -> Experiment:
    recipe = overrides.pop("extends", None) or values.get("extends")
    values = _extended({**values, "extends": recipe}, directory, ())
    values = _overridden(_inherited(values, directory), overrides)
    own = ExperimentConfig.model_fields
    config = ExperimentConfig.parse({key: value for key, value in values.items() if key in own})
    settings = {key: value for key, value in values.items() if key not in own}
    if config.batch_per_replica is not None and "batch_size" in settings:
        raise UserError("batch_size and batch_per_replica exclude each other; give one of them.")
    return Experiment(directory, config, settings, None if recipe is None else str(recipe))


def _inherited(values: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """`values`, and what they leave open of the data from the experiment they start from: the same images, normalised and
    split in the same way, or the validation images of one stage would be training images of the next."""
    parent = values.get("parent")
    if not isinstance(parent, str) or all(key in values for key in _DATA_KEYS):
        return dict(values)
    source = load_experiment(_tidy(directory / parent)).config.to_dict()
    return {**{key: source[key] for key in _DATA_KEYS}, **values}


def _overridden(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """`extra` on top of `base`; where it changes a choice, what belonged to the old one goes."""
    base = dict(base)
    if extra.get("schedule", base.get("schedule")) != base.get("schedule"):
        base.pop("schedule_options", None)
    for one, other in (("batch_size", "batch_per_replica"), ("batch_per_replica", "batch_size")):
        if one in extra and other not in extra:
            base.pop(other, None)
    return merged(base, extra)


def _extended(values: Mapping[str, Any], directory: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """`values` on top of everything they extend."""
    values = dict(values)
    name = values.pop("extends", None)
    if name is None:
        return values
    file = _recipe_file(name, directory)
    if file in seen:
        raise UserError(f"The recipe {str(name)!r} extends itself.")
    return _overridden(_extended(load_yaml(file), file.parent, (*seen, file)), values)


def _recipe_file(name: Any, directory: Path) -> Path:
    if not isinstance(name, str):
        raise UserError(f"extends must be a recipe's name or the path of a YAML file, received {name!r}.")
    if name.endswith((".yaml", ".yml")):
        return (directory / name).resolve()
    recipes = _recipes()
    if name not in recipes:
        raise unknown_key("recipe", name, recipes)
    return recipes[name]


def _recipes() -> dict[str, Path]:
    folder = Path(str(resources.files("keras_relu.experiments"))) / "recipes"
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def list_recipes() -> list[str]:
    """The names of the recipes that come with the package."""
    return list(_recipes())


def _tidy(path: Path) -> Path:
    """`path` without `..`, relative if it was, so that messages and records do not depend on the machine."""
    return Path(os.path.normpath(path))
