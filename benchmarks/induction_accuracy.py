"""What induction costs in accuracy: the original's recipe against ours at equal comparisons, on a trained ResNet-20.

Three mappings leave about 50, 25 and 10 % of the comparisons; each is clustered from one cache with both recipes (original:
farthest points, Hamming distance; ours: farthest points, energy, polarity, constants, re-estimated batch normalisation,
distillation) and fine-tuned with the settings of its preset. Accuracies are those of the test images.

    python benchmarks/induction_accuracy.py MODEL --data-dir DIR --output DIR [--prototypes 250 1000] [--epochs 1]
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from keras_relu import counting, data, induction, runs
from keras_relu.evaluate import Evaluator
from keras_relu.files import read_json, write_json
from keras_relu.induction.config import FINETUNE, PRESETS
from keras_relu.training.recalibrate import reestimate_batch_norm

BLOCKS = [f"stage{s}_block{b}_relu{i}" for s in (1, 2, 3) for b in (1, 2, 3) for i in (1, 2)]
STAGE1, STAGE2, STAGE3 = BLOCKS[:6], BLOCKS[6:12], BLOCKS[12:]
STEM = "stem_relu"
MAPPINGS = {
    "half": {STEM: [STEM, *STAGE1[:5]]},
    "quarter": {STEM: [STEM, *STAGE1], STAGE2[0]: STAGE2[:3]},
    "tenth": {STEM: [STEM, *STAGE1], STAGE2[0]: STAGE2, STAGE3[0]: STAGE3[:2]},
}
CLUSTER_KEYS = ("association", "polarity", "constants", "ties")
COLUMNS = ("comparisons", "fraction", "as assigned", "after BN", "fine-tuned")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--output", required=True, help="a cell that has a result there is not run again")
    parser.add_argument("--prototypes", type=int, nargs="+", default=[250, 1000])
    parser.add_argument("--mappings", nargs="+", default=list(MAPPINGS), choices=list(MAPPINGS))
    parser.add_argument("--recipes", nargs="+", default=list(PRESETS), choices=list(PRESETS))
    parser.add_argument("--images", type=int, default=10_000, help="of the cache and of the statistics")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--train-images", type=int, help="at most so many training images; default: all")
    return parser.parse_args()


def cell(model, datasets, cache, arguments, recipe, mapping, prototypes):
    """One row: cluster, induce, measure, re-estimate, measure, fine-tune, measure."""
    dataset, trained_on = datasets
    settings = PRESETS[recipe]
    config = {key: settings[key] for key in CLUSTER_KEYS if key in settings}
    started = time.perf_counter()
    plan = induction.make_plan(model, MAPPINGS[mapping], prototypes)
    assignment = induction.cluster(plan, cache, config, model=model, dataset=dataset)
    clustered = time.perf_counter() - started
    induced = induction.induce(model, assignment)
    measure = Evaluator(induced, dataset.normalization)
    assigned = estimated = measure(dataset.test)["accuracy"]
    if settings.get("bn_images", arguments.images):
        reestimate_batch_norm(induced, dataset.train, dataset.normalization, images=arguments.images)
        estimated = measure(dataset.test)["accuracy"]
    training = {**settings.get("finetune", FINETUNE), "epochs": arguments.epochs}
    teacher = model if settings.get("distill", True) else None
    tuned = {}
    if arguments.epochs:
        tuned = induction.finetune(induced, trained_on, training, teacher=teacher, progress=False)
    return {
        "mapping": mapping,
        "recipe": recipe,
        "prototypes": prototypes,
        "comparisons": plan.comparison_count(),
        "compared": counting.count(induced).comparison_count,
        "fraction": plan.comparison_count() / plan.describe()["comparisons_before"],
        "as assigned": assigned,
        "after BN": estimated,
        "fine-tuned": tuned.get("accuracy"),
        "cluster_s": round(clustered, 1),
        "total_s": round(time.perf_counter() - started, 1),
        "epochs": arguments.epochs,
        "train_images": trained_on.train.size,
    }


def table(rows):
    lines = ["| mapping, K | recipe | " + " | ".join(COLUMNS) + " |", "|" + "---|" * (len(COLUMNS) + 2)]
    for row in rows:
        numbers = [f"{row['comparisons']:,}", f"{100 * row['fraction']:.1f} %"]
        numbers += ["-" if row[key] is None else f"{100 * row[key]:.2f}" for key in COLUMNS[2:]]
        lines.append(f"| {row['mapping']}, {row['prototypes']} | {row['recipe']} | " + " | ".join(numbers) + " |")
    return "\n".join(lines)


def main():
    arguments = parse()
    folder = Path(arguments.output)
    # A small validation split: nothing is chosen here.
    common = {"data_dir": arguments.data_dir, "validation_fraction": 0.02}
    whole = data.load("cifar10", **common)
    model = runs.load_model(arguments.model)
    cache = induction.write_cache(model, whole, folder / "cache", images=arguments.images)
    part = data.load("cifar10", limit=arguments.train_images, **common)
    rows = []
    for mapping in arguments.mappings:
        for prototypes in arguments.prototypes:
            for recipe in arguments.recipes:
                file = folder / f"{mapping}-{prototypes}-{recipe}.json"
                if not file.exists():
                    write_json(file, cell(model, (whole, part), cache, arguments, recipe, mapping, prototypes))
                rows.append(read_json(file))
                print(json.dumps(rows[-1]), flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
