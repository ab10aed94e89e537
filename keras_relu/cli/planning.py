"""The plan of `reduce`: limits on bytes, seconds and ReLU layers become budgets of single sites."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from keras_relu.errors import UserError

if TYPE_CHECKING:
    import tf_keras as keras

    from keras_relu.data import Dataset

__all__ = ["BudgetBytes", "BudgetSeconds", "CostPreset", "MaxReluLayers", "PlanChoice"]

BudgetBytes = Annotated[str | None, typer.Option(help="Plan for at most so many bytes per inference, such as 12MB.")]
BudgetSeconds = Annotated[
    str | None, typer.Option(help="Plan for at most so many seconds per inference, such as 2.5s.")
]
MaxReluLayers = Annotated[int | None, typer.Option(min=0, help="Plan for at most so many layers that keep ReLUs.")]
CostPreset = Annotated[
    str | None, typer.Option(help="Cost preset of the plan, default spu-semi2k-64; see `cost presets`.")
]

_DEFAULT = "spu-semi2k-64"


@dataclass(frozen=True)
class PlanChoice:
    """What `reduce` was told about costs; `wanted` is false when nothing was."""

    budget_bytes: str | None
    budget_seconds: str | None
    max_relu_layers: int | None
    preset: str | None

    @property
    def wanted(self) -> bool:
        """Whether a plan is to be made.

        Raises:
            UserError: a preset without a limit, which would have no effect; a limit that is no number.
        """
        limits = (self.budget_bytes, self.budget_seconds, self.max_relu_layers)
        if self.preset is not None and limits == (None, None, None):
            raise UserError(
                "--cost-preset has no effect without --budget-bytes, --budget-seconds or --max-relu-layers."
            )
        return limits != (None, None, None)

    def settings(
        self, network: keras.Model, images: Dataset, given: Mapping[str, Any], earlier: Path | None
    ) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """(settings for `reduce`, the plan for its report); those of an unfinished run `earlier` when it has some.

        Args:
            given: the settings so far: `budget` and `replacement` restrict the plan when they are in it.
        """
        known = _earlier(earlier)
        if known is not None:
            return known, None
        plan = self._plan(network, images, given)
        sites = {site["name"]: {"kept": site["kept"], "replacement": site["replacement"]} for site in plan["sites"]}
        return {"budget": plan["relu_count"], "sites": sites}, plan

    def _plan(self, network: keras.Model, images: Dataset, given: Mapping[str, Any]) -> dict[str, Any]:
        from keras_relu import surgery
        from keras_relu.cost import plan
        from keras_relu.cost.link import parse_bytes, parse_seconds
        from keras_relu.cost.presets import get_preset
        from keras_relu.cost.work import work_of
        from keras_relu.folding import fold_affine
        from keras_relu.replacement import ranking
        from keras_relu.replacement.saliency import measure_saliency

        preset = get_preset(self.preset or _DEFAULT)
        saliency = measure_saliency(network, images)
        total = sum(values.size for values in saliency.values())
        limits = plan.Limits(
            bytes=None if self.budget_bytes is None else parse_bytes(self.budget_bytes),
            seconds=None if self.budget_seconds is None else parse_seconds(self.budget_seconds),
            relu_layers=self.max_relu_layers,
            relus=None if given.get("budget") is None else ranking.parse_budget(given["budget"], total),
        )
        bare = surgery.replace_sites(fold_affine(network), lambda site: _linear(site.name))
        options: dict[str, Any] = {} if given.get("replacement") is None else {"replacements": [given["replacement"]]}
        made = plan.make_plan(
            saliency, work_of(fold_affine(bare))[0], limits, preset=preset, link=preset.link, **options
        )
        return made.to_dict()


def _linear(name: str) -> keras.layers.Layer:
    import tf_keras as keras

    return keras.layers.Activation("linear", name=name)


def _earlier(path: Path | None) -> dict[str, Any] | None:
    """Budget and sites of a run that is gone on with: measuring again could round differently."""
    file = None if path is None else path / "config.yaml"
    if file is None or not file.is_file():
        return None
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))["config"]
        return {"budget": config["budget"], "sites": config["sites"]}
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{str(file)!r} is no configuration of a planned reduction.") from error
