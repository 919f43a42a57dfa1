"""Training where every example has a mask of its own: partitions against dropout, like with like.

The curves and the runs of :mod:`mcnn.experiments.partition.curve` and
:mod:`mcnn.experiments.partition.runs` compare partitions, whose masks a batch shares.
Here the masks are those of :class:`mcnn.partition.hashed.HashedPartition`, in which every element
of a batch has a part of its own, and those of ``nn.Dropout``.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mcnn import data
from mcnn.data import Data
from mcnn.experiments.partition.masks import Arm, Masks
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.partition.hashed import drop_part
from mcnn.sampling import fold_in
from mcnn.training import grouped, nets

KINDS = ("partition", "dropout")


class ExampleMasks(Masks):
    """Factors of hidden units, for each example others: masks of :func:`grouped.fit`.

    Parameters
    ----------
    networks
        For each of R networks its arm, of :data:`KINDS`, and the seed of its masks.
    widths
        Of the layers with masks.
    device
        Where the factors go.

    Examples
    --------
    >>> masks = ExampleMasks([(("partition", 2), 0), (("dropout", 2), 0)], [3], "cpu")
    >>> both = masks(5)[0] + masks(5)[0]  # [2, 5, 3], over the two steps of a cycle
    >>> both[0].unique().tolist()
    [2.0]
    """

    def __init__(
        self, networks: Sequence[tuple[Arm, int]], widths: Sequence[int], device: torch.device | str
    ) -> None:
        coins = [(("dropout", parts), seed) for (_, parts), seed in networks]
        super().__init__(coins, widths, device)
        for layer, n in enumerate(widths):
            for i, ((kind, parts), seed) in enumerate(networks):
                if kind == "partition":
                    own = fold_in(fold_in(seed, parts), layer)
                    self.layers[layer][i] = partial(_hashed, parts, n, own)


def _hashed(parts: int, n: int, seed: int, step: int, batch: int) -> Tensor:
    """Return the factors of a step of HashedPartition, [b, n]."""
    return drop_part(torch.ones(batch, n), parts, step, seed)


@dataclass(frozen=True, kw_only=True)
class CurveTrial(Trial):
    """All arms of a seed: LeNet-5, SGD with momentum .9 and batches of 128, a constant rate.

    The training set is its first ``images``.
    """

    dataset: str = "cifar10"
    images: int = 20_000
    parts: tuple[int, ...] = (2, 3)
    epochs: int = 10
    lr: float = 0.01
    mixed: bool = True
    every: int = 2


@dataclass(frozen=True, kw_only=True)
class RunsTrial(Trial):
    """A group of runs of each arm: a perceptron, SGD with momentum .9 and a cosine schedule.

    Every run has its own weights, order of images and masks; run i begins alike in every arm.
    """

    dataset: str = "mnist"
    images: int = 10_000
    widths: tuple[int, ...] = (784, 64, 64, 10)
    parts: tuple[int, ...] = (3, 9)
    runs: int = 30
    epochs: int = 2
    batch_size: int = 100
    lr: float = 0.05


def _arms(parts: Sequence[int]) -> list[Arm]:
    return [(kind, p) for p in parts for kind in KINDS]


def _first(trial: CurveTrial | RunsTrial, device: torch.device) -> Data:
    """Return the data with the first images of the training set only."""
    dataset = data.load(trial.dataset, device=device)
    return replace(dataset, train=dataset.train.part(slice(trial.images)))


def _run_curve(trial: CurveTrial, device: torch.device) -> dict[str, Any]:
    dataset, arms = _first(trial, device), _arms(trial.parts)
    start = nets.build("lenet5", seed=trial.seed, shape=dataset.shape)
    models = grouped.Grouped([start] * len(arms), trial.mixed).to(device)
    masks = ExampleMasks([(arm, trial.seed) for arm in arms], models.widths, device)
    metrics: dict[str, Any] = {"on": {}, "test": {}}
    names = [f"{kind} {parts}" for kind, parts in arms]

    def on_epoch(row: dict[str, Any]) -> None:
        found = {"on": row["train_accuracy"]}
        if row["epoch"] % trial.every == 0:
            found["test"] = grouped.accuracy(models, dataset.test)
        for key, accuracies in found.items():
            for name, accuracy in zip(names, accuracies, strict=True):
                metrics[key].setdefault(name, []).append(accuracy)

    options = {"epochs": trial.epochs, "lr": trial.lr, "seeds": trial.seed}
    grouped.fit(models, dataset, masks, on_epoch=on_epoch, **options)
    return metrics


def _run_runs(trial: RunsTrial, device: torch.device) -> dict[str, Any]:
    dataset = _first(trial, device)
    seeds = [trial.seed * trial.runs + i for i in range(trial.runs)]
    networks = [nets.build("mlp", seed=s, widths=trial.widths) for s in seeds]
    options = {"epochs": trial.epochs, "batch_size": trial.batch_size, "lr": trial.lr}
    metrics = {}
    for arm in _arms(trial.parts):
        models = grouped.Grouped(networks).to(device)
        masks = ExampleMasks([(arm, s) for s in seeds], models.widths, device)
        grouped.fit(models, dataset, masks, seeds=seeds, schedule="cosine", **options)
        metrics[f"{arm[0]} {arm[1]}"] = grouped.accuracy(models, dataset.test, batch_size=500)
    return metrics


def _curve_trials(profile: str, seeds: Sequence[int]) -> list[CurveTrial]:
    fast = {"dataset": "digits", "epochs": 6, "lr": 0.08, "mixed": False}
    options = {} if profile == "full" else fast
    return [CurveTrial(seed=seed, **options) for seed in seeds]


def _runs_trials(profile: str, seeds: Sequence[int]) -> list[RunsTrial]:
    fast = {"dataset": "digits", "widths": (64, 32, 32, 10), "runs": 20, "epochs": 8}
    options = {} if profile == "full" else fast | {"parts": (3,), "batch_size": 50}
    return [RunsTrial(seed=seed, **options) for seed in seeds]


def _both(record: Record, parts: int, key: str | None = None) -> tuple[list[float], list[float]]:
    """Return the accuracies of partitions and of dropout."""
    found = record.metrics[key] if key else record.metrics
    return found[f"partition {parts}"], found[f"dropout {parts}"]


def _measure_curve(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return the mean over epochs, partitions minus dropout, one value a seed."""
    readings: dict[str, list[float]] = {}
    for record in records:
        for parts in record.config.parts:
            for key, about in (("on", "training, masks on"), ("test", "test")):
                ours, theirs = _both(record, parts, key)
                name = f"P = {parts}, {about}"
                gain = statistics.mean(ours) - statistics.mean(theirs)
                readings.setdefault(name, []).append(gain)
                readings.setdefault(f"{name}, last epoch", []).append(ours[-1] - theirs[-1])
    return readings


def _measure_runs(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return differences of means, and logarithms of ratios of standard deviations, by group."""
    readings: dict[str, list[float]] = {}
    for record in records:
        for parts in record.config.parts:
            ours, theirs = _both(record, parts)
            gain = statistics.mean(ours) - statistics.mean(theirs)
            ratio = math.log(statistics.stdev(theirs) / statistics.stdev(ours))
            readings.setdefault(f"P = {parts}, mean difference", []).append(gain)
            readings.setdefault(f"P = {parts}, log ratio of sd", []).append(ratio)
    return readings


EXPERIMENTS = [
    Experiment(
        name="partition-curve-each",
        summary="training curves of partitions and dropout, a mask for each example",
        trial=CurveTrial,
        trials=_curve_trials,
        run=_run_curve,
        seeds={"fast": range(1), "full": range(60, 68)},
        measures={"partition-curve-each": _measure_curve},
        tolerance=0.02,
    ),
    Experiment(
        name="partition-runs-each",
        summary="150 runs an arm of a small network, a mask for each example",
        trial=RunsTrial,
        trials=_runs_trials,
        run=_run_runs,
        seeds={"fast": range(1), "full": range(60, 65)},
        measures={"partition-runs-each": _measure_runs},
        tolerance=0.02,
    ),
]
