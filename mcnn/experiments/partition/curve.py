"""Training curves of partitions and of dropout over many epochs, from the same weights."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from mcnn import data
from mcnn.experiments.partition.masks import Arm, train_arms
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record

JUDGED = tuple((kind, parts) for kind in ("partition", "shared") for parts in (2, 3))
OTHERS = (("dropout", 2), ("dropout", 3), ("keep-one", 3))  # keep-one with P = 2 is partition


@dataclass(frozen=True, kw_only=True)
class CurveTrial(Trial):
    """All arms of a seed: LeNet-5, SGD with momentum .9 and batches of 128, a constant rate.

    The training set is its first ``images``.
    """

    dataset: str = "cifar10"
    images: int = 20_000
    arms: tuple[Arm, ...] = JUDGED
    epochs: int = 140
    lr: float = 0.01
    mixed: bool = True
    every: int = 10


def _run(trial: CurveTrial, device: torch.device) -> dict[str, Any]:
    options = {"epochs": trial.epochs, "lr": trial.lr, "every": trial.every}
    dataset = data.load(trial.dataset, device=device)
    dataset = replace(dataset, train=dataset.train.part(slice(trial.images)))
    return train_arms(dataset, trial.arms, trial.seed, mixed=trial.mixed, **options)


_FAST = {"dataset": "digits", "epochs": 6, "lr": 0.08, "mixed": False, "every": 3}


def _trials(profile: str, seeds: Sequence[int]) -> list[CurveTrial]:
    options = {} if profile == "full" else _FAST
    return [CurveTrial(seed=seed, **options) for seed in seeds]


def _other_trials(profile: str, seeds: Sequence[int]) -> list[CurveTrial]:
    options = {} if profile == "full" else _FAST
    return [CurveTrial(seed=seed, arms=OTHERS, **options) for seed in seeds]


def _whole_trials(profile: str, seeds: Sequence[int]) -> list[CurveTrial]:
    options = {"images": 50_000} if profile == "full" else _FAST
    return [CurveTrial(seed=seed, **options) for seed in seeds]


def _measure(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return partition minus dropout with shared masks, one value a seed."""
    about = {"on": "masks on", "off": "masks off", "test": "test"}
    readings: dict[str, list[float]] = {}
    for key, name in about.items():
        for parts in (2, 3):
            for record in records:
                ours, theirs = (
                    record.metrics[key][f"{k} {parts}"] for k in ("partition", "shared")
                )
                difference = sum(ours) / len(ours) - sum(theirs) / len(theirs)
                readings.setdefault(f"P = {parts}, {name}", []).append(difference)
                last = readings.setdefault(f"P = {parts}, {name}, last epoch", [])
                last.append(ours[-1] - theirs[-1])
    return readings


EXPERIMENTS = [
    Experiment(
        name="partition-curve",
        summary="training curves over 140 epochs, partitions against dropout with shared masks",
        trial=CurveTrial,
        trials=_trials,
        run=_run,
        seeds={"fast": range(1), "full": range(3)},
        measures={"partition-curve": _measure},
        tolerance=0.02,
    ),
    Experiment(
        name="partition-curve-others",
        summary="training curves over 140 epochs, the other kinds of masks",
        trial=CurveTrial,
        trials=_other_trials,
        run=_run,
        seeds={"fast": range(1), "full": range(1)},
        tolerance=0.02,
    ),
    Experiment(
        name="partition-curve-whole",
        summary="training curves over 140 epochs, on all of the training images",
        trial=CurveTrial,
        trials=_whole_trials,
        run=_run,
        seeds={"fast": range(1), "full": range(1)},
        tolerance=0.02,
    ),
]
