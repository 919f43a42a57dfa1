"""The talk's table: accuracy with P from 2 to 9 partitions, and with dropout at rates 1/P."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mcnn import data
from mcnn.experiments.partition.masks import KINDS, train_arms
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record

KINDS_COMPARED = ("partition", "shared", "dropout")


@dataclass(frozen=True, kw_only=True)
class TableTrial(Trial):
    """All P of one kind of mask: LeNet-5, SGD with momentum .9, batches of 128, constant rate."""

    dataset: str = "cifar10"
    kind: str = "partition"
    parts: tuple[int, ...] = tuple(range(2, 10))
    epochs: int = 4
    lr: float = 0.01
    mixed: bool = True


def _run(trial: TableTrial, device: torch.device) -> dict[str, Any]:
    arms = [(trial.kind, parts) for parts in trial.parts]
    options = {"epochs": trial.epochs, "lr": trial.lr, "every": trial.epochs}
    dataset = data.load(trial.dataset, device=device)
    rows = train_arms(dataset, arms, trial.seed, mixed=trial.mixed, **options)
    return {key: [values[-1] for values in rows[key].values()] for key in ("on", "off", "test")}


def _trials(profile: str, seeds: Sequence[int]) -> list[TableTrial]:
    if profile == "fast":
        fast = {"dataset": "digits", "parts": (2, 9), "epochs": 4, "lr": 0.08, "mixed": False}
        return [TableTrial(seed=s, kind=k, **fast) for s in seeds for k in ("partition", "dropout")]
    # The collapse of keep-one needs no interval.
    kinds = {seed: KINDS if seed == seeds[0] else KINDS_COMPARED for seed in seeds}
    return [
        TableTrial(seed=seed, dataset=dataset, kind=kind, epochs=epochs)
        for dataset, epochs, some in (("cifar10", 4, seeds), ("mnist", 1, seeds[:2]))
        for seed in some
        for kind in kinds[seed]
    ]


def accuracies(records: Sequence[Record], dataset: str, kind: str, key: str) -> list[list[float]]:
    """Return the accuracies, [seeds][P]."""
    chosen = [r for r in records if (r.config.dataset, r.config.kind) == (dataset, kind)]
    chosen.sort(key=lambda r: r.config.seed)
    return [r.metrics[key] for r in chosen]


def _measure(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return the mean over all P, partitions minus dropout, one value a seed."""
    about = {"test": "test", "on": "training, masks on", "off": "training, masks off"}
    against = {"shared": "shared masks", "dropout": "masks for each example"}
    readings = {}
    for dataset, title in (("cifar10", "CIFAR-10"), ("mnist", "MNIST")):
        for key, name in about.items():
            ours = accuracies(records, dataset, "partition", key)
            for kind, masks in against.items():
                theirs = accuracies(records, dataset, kind, key)
                readings[f"{title}, {name}, against {masks}"] = [
                    sum(a) / len(a) - sum(b) / len(b) for a, b in zip(ours, theirs, strict=True)
                ]
    return readings


EXPERIMENTS = [
    Experiment(
        name="partition-table",
        summary="accuracy of LeNet with 2 to 9 partitions and with dropout 1/2 to 1/9",
        trial=TableTrial,
        trials=_trials,
        run=_run,
        seeds={"fast": range(1), "full": range(20)},
        measures={"partition-table": _measure},
        tolerance=0.02,
    ),
]
