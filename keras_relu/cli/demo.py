"""demo: the main job from end to end on the embedded data set, in minutes on a laptop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from keras_relu.cli.common import Json, emit, table
from keras_relu.cli.quiet import start_tensorflow
from keras_relu.errors import KerasReLUError, UserError

__all__ = ["register"]

ARCH = "resnet20"
BASELINE = {"epochs": 30, "batch_size": 64, "learning_rate": 0.1}
REDUCTION = {"batch_size": 64, "search": {"epochs": 40, "mask_interval": 5}, "finetune": {"epochs": 30}}


def demo(
    output: Annotated[str, typer.Option("--output", "-o", help="Folder for everything the demo writes.")] = "run/demo",
    budget: Annotated[str, typer.Option(help="ReLUs kept: a number or a fraction.")] = "0.1",
    replacement: Annotated[str, typer.Option(help="What stands in for a ReLU that goes.")] = "quadratic",
    json: Json = False,
) -> None:
    """Train a ResNet-20 on handwritten digits, cut its ReLUs to a tenth, export, evaluate the export, write a report."""
    root = Path(output)
    if root.exists() and any(root.iterdir()):
        raise UserError(f"{output!r} exists; remove it or choose another --output.")
    start_tensorflow()
    say = (lambda text: None) if json else print
    say(f"1/4 training {ARCH} on 1,797 handwritten digits (8x8 pixels)")
    images, baseline = _baseline(root, quiet=json)
    say(f"2/4 reducing its ReLUs to {budget} with {replacement}")
    reduced = _reduce(root, images, budget, replacement, quiet=json)
    say("3/4 exporting and evaluating the export")
    exported = _export(root, images, reduced)
    say("4/4 writing the report")
    from keras_relu.report import build_report

    report = build_report([root / "baseline", root / "reduced"], root / "report.html", figures_dir=root / "figures")
    rows = {
        "baseline_accuracy": baseline["accuracy"],
        "baseline_relu_count": reduced["relu_count_before"],
        "accuracy": reduced["accuracy"],
        "relu_count": reduced["relu_count"],
        "exported_accuracy": exported["accuracy"],
        "exported_max_difference": exported["max_difference"],
        "report": str(report),
    }
    emit(rows, as_json=json, lines=[table(("result", ""), rows.items())])


def _baseline(root: Path, *, quiet: bool) -> tuple[Any, dict[str, Any]]:
    from keras_relu import data, models
    from keras_relu.runs import Run
    from keras_relu.training import supervised

    images = data.load("digits")
    config = supervised.TrainConfig.parse(BASELINE)
    run = Run.create(root / "baseline", config={**config.to_dict(), "arch": ARCH, "dataset": "digits"}, stage="train")
    model = models.build(ARCH, classes=images.classes, input_shape=images.image_shape)
    return images, supervised.train(model, images, run, config, facts={"arch": ARCH}, progress=not quiet)


def _reduce(root: Path, images: Any, budget: str, replacement: str, *, quiet: bool) -> dict[str, Any]:
    from keras_relu import replacement as system
    from keras_relu.runs import Run, load_model

    config = system.ReduceConfig.parse({**REDUCTION, "budget": budget, "replacement": replacement})
    parent = root / "baseline"
    run = Run.create(root / "reduced", config={**config.to_dict(), "dataset": "digits"}, stage="reduce", parent=parent)
    model = load_model(parent)
    return system.reduce(model, images, config, run=run, progress=not quiet, facts={"arch": ARCH}).result


def _export(root: Path, images: Any, reduced: dict[str, Any]) -> dict[str, Any]:
    from keras_relu.evaluate import evaluate
    from keras_relu.export import export
    from keras_relu.runs import load_model

    written = export(load_model(root / "reduced"), root / "exported", normalization=images.normalization)
    measured = evaluate(root / "exported", images.test, images.normalization)
    if measured["correct"] != reduced["correct"]:
        raise KerasReLUError(
            f"The exported model has {measured['correct']} test images right, the reduced one {reduced['correct']}; "
            "please report this."
        )
    return {**measured, "max_difference": written["max_difference"]}


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(demo)
