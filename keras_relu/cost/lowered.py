"""A lowered model as a run directory: which sites pay under a preset, and the check of the file that was written."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tf_keras as keras

from keras_relu import counting, lowering
from keras_relu.activations import FixedActivation
from keras_relu.cost.link import Link
from keras_relu.cost.presets import Preset
from keras_relu.cost.work import work_of
from keras_relu.errors import KerasReLUError
from keras_relu.runs import Run

__all__ = ["lower_run", "pays_under"]

# Largest difference to the logits before, relative to their scale: float32 sums in another order.
TOLERANCE = 1e-5
_IMAGES = 8
_HALVINGS = 12
_LARGEST_LOGIT = 1e3
_INHERITED = ("arch", "dataset", "normalization", "replacement", "accuracy", "correct", "total", "relu_count_before")


def pays_under(preset: Preset, link: Link) -> Callable[[FixedActivation], str | None]:
    """Whether a site should stay as it is under `preset`: the reason, or None where lowering pays.

    Lowering saves the bytes and the computation of the comparisons (and of the replacement) at elements that need none,
    and costs the moving of every element; it never changes the rounds.
    """

    def reason(layer: FixedActivation) -> str | None:
        elements, facts = math.prod(layer.output_shape[1:]), layer.runtime_facts()
        lowered = layer.to_lowered()
        lowered.build(layer.input_shape)
        after = lowered.runtime_facts()
        saved = {key: facts[key] - after[key] for key in ("comparison_count", "constant_products", "products")}
        seconds = _saved_seconds(saved, preset, link)
        moving = elements * (preset.get("gather_seconds") or 0.0)
        if seconds > moving:
            return None
        return f"saves {1e3 * seconds:.3g} ms under {preset.name}, moving its elements takes {1e3 * moving:.3g} ms"

    return reason


def _saved_seconds(saved: Mapping[str, int], preset: Preset, link: Link) -> float:
    def price(*names: str) -> float:
        return sum(preset.get(name) or 0.0 for name in names)

    sent = saved["comparison_count"] * price("comparison_bytes", "selection_bytes")
    sent += saved["constant_products"] * price("truncation_bytes")
    sent += saved["products"] * price("product_bytes", "truncation_bytes")
    return sent * 8 / link.bits_per_second + saved["comparison_count"] * price("comparison_seconds")


def lower_run(
    model: keras.Model,
    output: str | os.PathLike,
    *,
    parent: str,
    facts: Mapping[str, Any],
    choice: tuple[Preset, Link] | None = None,
) -> dict[str, Any]:
    """Lower `model`, write it as the run `output`, read it back and check it; returns its result.json.

    Args:
        facts: of the model that is lowered, see result.json; what stays true of the same function is taken over.
        choice: leave sites alone where lowering does not pay under this preset and link.

    Raises:
        UserError: `output` is taken; the model cannot be edited.
        KerasReLUError: the written model does not compute what `model` computes; please report that.
    """
    config = {"preset": choice[0].name if choice else None, "link": str(choice[1]) if choice else None, "seed": 0}
    run = Run.create(output, config=config, stage="lower", parent=parent)
    # Also when the check fails: what computes something else must not lie there as a run that can be measured.
    with run.withdrawn_if_refused(KerasReLUError):
        made = lowering.lower_masks(model, keep=pays_under(*choice) if choice else None)
        run.save_model(made.model)
        written = run.load_model()
        difference, scale = _difference(model, written)
        if not difference <= TOLERANCE * max(scale, 1.0):
            raise KerasReLUError(
                f"The lowered model's logits differ by {difference:.3g} (scale {scale:.3g}); please report this."
            )
    counts = counting.count(written)
    before, after = (sum(work.comparisons for work in work_of(each)[0]) for each in (model, written))
    return run.finish(
        {
            **{key: facts[key] for key in _INHERITED if facts.get(key) is not None},
            "relu_count": counts.relu_count,
            "comparisons_before": before,
            "comparisons_after": after,
            "max_difference": difference,
            "logit_scale": scale,
            "sites_lowered": [site.to_dict() for site in made.sites],
        }
    )


def _difference(model: keras.Model, written: keras.Model) -> tuple[float, float]:
    """Largest difference of the outputs on images of noise, and their scale.

    Quadratics far outside the range they were fitted to grow from layer to layer without bound, so the noise is halved
    until the logits are of a size at which float32 compares anything.
    """
    noise = np.random.default_rng(0).normal(size=(_IMAGES, *model.input_shape[1:])).astype(np.float32)
    for halvings in range(_HALVINGS):
        images = noise / 2**halvings
        expected = np.asarray(model(images, training=False))
        scale = float(np.abs(expected).max())
        if scale <= _LARGEST_LOGIT:
            break
    received = np.asarray(written(images, training=False))
    return float(np.abs(expected - received).max()), scale
