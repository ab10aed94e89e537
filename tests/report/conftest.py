"""Synthetic run directories in the exact layout of real ones; every number in them is invented."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

BASELINE = 0.9171
STEPS = 40
SMALL_SITES = {"stem_relu": (8, 8, 4), "stage1_block1_relu1": (8, 8, 4), "stage2_block1_relu1": (4, 4, 8)}
RESNET20_SITES = {
    "stem_relu": (32, 32, 16),
    **{
        f"stage{stage}_block{block}_relu{number}": (64 >> stage, 64 >> stage, 8 << stage)
        for stage in (1, 2, 3)
        for block in (1, 2, 3)
        for number in (1, 2)
    },
}
# Loss of accuracy in points at a tenth of the ReLUs.
PENALTY = {"identity": 5.2, "line": 3.9, "quadratic": 1.9}


def synthetic_masks(sites: dict[str, tuple], budget: int, seed: int) -> dict[str, np.ndarray]:
    """0/1 arrays with `budget` ones in all: more in late sites, in some channels and towards the image centre."""
    generator = np.random.default_rng(seed)
    scores = {}
    for depth, (name, (height, width, channels)) in enumerate(sites.items()):
        rows, columns = np.linspace(-1, 1, height)[:, None, None], np.linspace(-1, 1, width)[None, :, None]
        centre = np.exp(-1.5 * (rows**2 + columns**2))
        channel = generator.gamma(1.2, 1.0, channels)
        noise = generator.gumbel(size=(height, width, channels))
        scores[name] = 1.2 * centre + 0.9 * channel + 0.06 * depth + 0.8 * noise
    flat = np.concatenate([score.ravel() for score in scores.values()])
    kept = np.zeros(flat.size, np.uint8)
    kept[np.argsort(-flat)[:budget]] = 1
    ends = np.cumsum([score.size for score in scores.values()])[:-1]
    return {name: part.reshape(sites[name]) for name, part in zip(sites, np.split(kept, ends), strict=True)}


def synthetic_metrics(budget: int, total: int, final: float, epochs: tuple[int, int], seed: int) -> pd.DataFrame:
    """Rows every ten steps with the loss, and one row an epoch with the validation accuracy."""
    generator = np.random.default_rng(seed)
    rows, every = [], STEPS // 4
    for phase, count, first, last in (
        ("search", epochs[0], 0.9, final - 0.012),
        ("finetune", epochs[1], final - 0.008, final),
    ):
        for step in range(every, count * STEPS + 1, every):
            done = step / (count * STEPS)
            kept = budget + round((total - budget) * max(0.0, 1 - done * 1.2) ** 3) if phase == "search" else budget
            level = first + (last - first) * done - 0.01 * np.sin(np.pi * done)
            row = {
                "phase": phase,
                "epoch": (step - 1) // STEPS,
                "step": step,
                "kept": kept,
                "seconds": 3.1 * step / STEPS,
            }
            row |= {"loss": 2.2 * (1 - level) + generator.normal(0, 0.012) + 0.1, "learning_rate": 0.01 * (1 - done)}
            if step % STEPS == 0:
                row |= {"val_accuracy": level + generator.normal(0, 0.0015), "accuracy": level + 0.02, "val_loss": 0.4}
            rows.append(row)
    return pd.DataFrame(rows)


def write_run(
    path: Path, *, result: dict | None, metrics: pd.DataFrame | str | None, config: dict | None, masks=None
) -> Path:
    """Write the files given; `metrics` as text is written as it is."""
    path.mkdir(parents=True)
    if config is not None:
        (path / "config.yaml").write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in config.items()))
    if isinstance(metrics, str):
        (path / "metrics.csv").write_text(metrics)
    elif metrics is not None:
        metrics.to_csv(path / "metrics.csv", index=False)
    if masks is not None:
        np.savez_compressed(path / "masks.npz", **masks)
    if result is not None:
        (path / "result.json").write_text(json.dumps(result))
    return path


def reduce_run(
    path: Path, *, budget=94, replacement="quadratic", sites=None, epochs=(2, 2), finished=True, seed=0, **changes
) -> Path:
    """A reduce run; `changes` are put over its result (None deletes a key)."""
    sites = sites or SMALL_SITES
    total = sum(int(np.prod(shape)) for shape in sites.values())
    masks = synthetic_masks(sites, budget, seed)
    points = PENALTY.get(replacement, 3.0) * (0.1 * total / budget) ** 0.75
    accuracy = round(BASELINE - points / 100, 4)
    common = {"stage": "reduce", "arch": "resnet20", "dataset": "cifar10", "normalization": "cifar10",
              "replacement": replacement, "gate": "hysteresis", "budget": budget, "seed": seed}  # fmt: skip
    result = {
        **common, "relu_count": budget, "relu_count_before": total, "baseline_accuracy": BASELINE, "accuracy": accuracy,
        "val_accuracy": round(accuracy + 0.0031, 4), "loss": 0.41, "correct": round(accuracy * 10000), "total": 10000,
        "epochs": {"search": epochs[0], "finetune": epochs[1]}, "masks_file": "masks.npz", "wall_time_s": 1322.5,
        "sites": [{"name": name, "shape": list(mask.shape), "total": mask.size, "kept": int(mask.sum())}
                  for name, mask in masks.items()],
        "versions": {"python": "3.11.7", "tensorflow": "2.21.0"}, "git_revision": "0" * 40, "config_hash": "synthetic",
    }  # fmt: skip
    result = {key: value for key, value in {**result, **changes}.items() if value is not None}
    metrics = synthetic_metrics(budget, total, accuracy, epochs, seed)
    if not finished:
        return write_run(path, result=None, metrics=metrics.head(len(metrics) // 3), config=common)
    return write_run(path, result=result, metrics=metrics, config={**common, "epochs": list(epochs)}, masks=masks)


def train_run(path: Path, **changes) -> Path:
    """A baseline training run without the keys of a reduction."""
    result = {"stage": "train", "arch": "resnet20", "dataset": "cifar10", "normalization": "cifar10",
              "accuracy": BASELINE, "val_accuracy": 0.9202, "loss": 0.31, "correct": 9171, "total": 10000,
              "epochs": 8, "seed": 0, "wall_time_s": 4000.0, **changes}  # fmt: skip
    metrics = synthetic_metrics(5, 10, BASELINE, (4, 4), 3).assign(phase="train").drop(columns="kept")
    metrics["step"] = (np.arange(len(metrics)) + 1) * (STEPS // 4)
    metrics["epoch"] = (metrics["step"] - 1) // STEPS
    return write_run(path, result=result, metrics=metrics, config={"stage": "train", "arch": "resnet20"})


def sweep(path: Path, *, budgets=(320, 128, 64), replacements=("identity", "line", "quadratic"), **options) -> Path:
    """One finished reduce run per cell, and the sweep's own files."""
    cells = [(replacement, budget) for replacement in replacements for budget in budgets]
    for seed, (replacement, budget) in enumerate(cells):
        cell = path / f"{replacement}-{budget}"
        reduce_run(cell, budget=budget, replacement=replacement, **{"seed": seed, **options})
    pd.DataFrame(cells, columns=["replacement", "budget"]).to_csv(path / "sweep.csv", index=False)
    (path / "sweep.json").write_text("{}")
    return path


def realistic_sweep(path: Path) -> Path:
    """Twelve runs of ResNet-20's size with plausible numbers, one more still running: what screenshots are made of."""
    options = {"sites": RESNET20_SITES, "epochs": (6, 6)}
    sweep(path, budgets=(94208, 47104, 18841, 9420), **options)
    reduce_run(path / "scaled_quadratic-18841", budget=18841, replacement="scaled_quadratic", finished=False, **options)
    return path


@pytest.fixture(scope="session", name="reduce_run")
def _reduce_run():
    return reduce_run


@pytest.fixture(scope="session", name="train_run")
def _train_run():
    return train_run


@pytest.fixture(scope="session", name="write_run")
def _write_run():
    return write_run


@pytest.fixture(scope="session", name="sweep")
def _sweep():
    return sweep


@pytest.fixture(scope="session", name="realistic_sweep")
def _realistic_sweep():
    return realistic_sweep
