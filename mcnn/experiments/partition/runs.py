"""Hundreds of runs of one small network: does the accuracy scatter less with partitions?"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from mcnn import data
from mcnn.data import Data
from mcnn.experiments.partition.masks import Arm, Masks
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.training import grouped, nets

ARMS = tuple((kind, parts) for parts in (3, 9) for kind in ("partition", "shared", "dropout"))


@dataclass(frozen=True, kw_only=True)
class RunsTrial(Trial):
    """A group of runs of each arm: a perceptron, SGD with momentum .9 and a cosine schedule.

    Every run has its own weights, order of images and masks; run i begins alike in every arm.
    """

    dataset: str = "mnist"
    images: int = 10_000
    widths: tuple[int, ...] = (784, 64, 64, 10)
    arms: tuple[Arm, ...] = ARMS
    runs: int = 30
    epochs: int = 2
    batch_size: int = 100
    lr: float = 0.05


def _run(trial: RunsTrial, device: torch.device) -> dict[str, Any]:
    dataset = data.load(trial.dataset, device=device)
    dataset = replace(dataset, train=dataset.train.part(slice(trial.images)))
    return {f"{k} {p}": _accuracies(trial, (k, p), dataset, device) for k, p in trial.arms}


def _accuracies(trial: RunsTrial, arm: Arm, dataset: Data, device: torch.device) -> list[float]:
    """Train all runs of an arm together and return their test accuracies."""
    seeds = [trial.seed * trial.runs + i for i in range(trial.runs)]
    networks = [nets.build("mlp", seed=s, widths=trial.widths) for s in seeds]
    models = grouped.Grouped(networks).to(device)
    masks = Masks([(arm, s) for s in seeds], models.widths, device)
    options = {"epochs": trial.epochs, "batch_size": trial.batch_size, "lr": trial.lr}
    grouped.fit(models, dataset, masks, seeds=seeds, schedule="cosine", **options)
    return grouped.accuracy(models, dataset.test, batch_size=500)


def _trials(profile: str, seeds: Sequence[int]) -> list[RunsTrial]:
    if profile == "full":
        return [RunsTrial(seed=seed) for seed in seeds]
    fast = {"dataset": "digits", "widths": (64, 32, 32, 10), "runs": 50, "epochs": 8}
    return [RunsTrial(seed=s, arms=ARMS[:3], batch_size=50, **fast) for s in seeds]


def _measure(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return logarithms of ratios of standard deviations, and differences of means, by group."""
    readings: dict[str, list[float]] = {}
    about = {"shared": "shared masks", "dropout": "masks for each example"}
    for parts in sorted({parts for record in records for _, parts in record.config.arms}):
        for kind, name in about.items():
            arms = (f"partition {parts}", f"{kind} {parts}")
            for record in records:
                if not all(arm in record.metrics for arm in arms):
                    continue  # a second run has some of the arms
                ours, theirs = (record.metrics[arm] for arm in arms)
                ratio = math.log(statistics.stdev(theirs) / statistics.stdev(ours))
                gain = statistics.mean(ours) - statistics.mean(theirs)
                readings.setdefault(f"P = {parts}, {name}: log ratio of sd", []).append(ratio)
                readings.setdefault(f"P = {parts}, {name}: mean difference", []).append(gain)
    return readings


EXPERIMENTS = [
    Experiment(
        name="partition-runs",
        summary="300 runs an arm of a small network, and how much they scatter",
        trial=RunsTrial,
        trials=_trials,
        run=_run,
        seeds={"fast": range(1), "full": range(10)},
        measures={"partition-spread": _measure},
        tolerance=0.02,
    ),
]
