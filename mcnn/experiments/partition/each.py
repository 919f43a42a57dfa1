"""How much the gradient scatters where every example has a mask of its own: like with like.

:mod:`mcnn.experiments.partition.variance` compares partitions and dropout whose masks a batch
shares.
Here both have a mask for each example: :class:`mcnn.partition.HashedPartition`, in which
every element of a batch has a part of its own, and what ``nn.Dropout`` does.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from mcnn import data, training
from mcnn.experiments.partition.variance import Dropout, mean_gradients, trace
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.partition.hashed import HashedPartition
from mcnn.sampling import fold_in
from mcnn.training import nets

KINDS = ("partition", "dropout")


@dataclass(frozen=True, kw_only=True)
class EachTrial(Trial):
    """LeNet-5 trained a little without masks, and the means over P masks that are drawn.

    It is trained on the first ``images``.
    """

    dataset: str = "cifar10"
    images: int = 20_000
    epochs: int = 1
    batch_size: int = 128
    parts: tuple[int, ...] = (2, 3, 5, 9)
    means: int = 32


def _layers(kind: str, parts: int, seed: int) -> list[nn.Module]:
    """Return the two layers that drop units, each with a seed of its own."""
    seeds = [fold_in(seed, i) for i in range(2)]
    if kind == "dropout":
        return [Dropout(1 / parts, shared=False, seed=s) for s in seeds]
    return [HashedPartition(parts, seed=s) for s in seeds]


def _run(trial: EachTrial, device: torch.device) -> dict[str, Any]:
    dataset = data.load(trial.dataset, device=device)
    images, labels = (t[: trial.images] for t in (dataset.train.images, dataset.train.labels))
    dataset = replace(dataset, train=replace(dataset.train, images=images, labels=labels))
    model = nets.build("lenet5", seed=trial.seed, shape=dataset.shape).to(device)
    options = {"lr": 0.01, "schedule": "constant", "scale": "standard"}
    training.fit(model, dataset, epochs=trial.epochs, seed=trial.seed, **options)
    generator = torch.Generator().manual_seed(trial.seed)
    x, y = next(dataset.train.batches(trial.batch_size, generator, scale="standard"))
    metrics: dict[str, Any] = {"cycle": {}, "mean": {}}
    for kind in KINDS:
        pairs = []
        for parts in trial.parts:
            layers = _layers(kind, parts, fold_in(trial.seed, parts))
            pairs.append(trace(mean_gradients(model, x, y, layers, parts), trial.means))
        metrics["cycle"][kind] = [spread for spread, _ in pairs]
        metrics["mean"][kind] = [length for _, length in pairs]
    return metrics


def _trials(profile: str, seeds: Sequence[int]) -> list[EachTrial]:
    if profile == "full":
        return [EachTrial(seed=seed) for seed in seeds]
    fast = {"dataset": "digits", "epochs": 10, "parts": (2, 3, 9), "means": 16}
    return [EachTrial(seed=seed, **fast) for seed in seeds]


def _measure(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return logarithms of traces, dropout over partitions, one a seed."""
    readings: dict[str, list[float]] = {}
    for record in records:
        ours, theirs = (record.metrics["cycle"][kind] for kind in KINDS)
        for parts, a, b in zip(record.config.parts, ours, theirs, strict=True):
            name = f"P = {parts}, masks for each example"
            readings.setdefault(name, []).append(math.log(b / a))
    return readings


EXPERIMENTS = [
    Experiment(
        name="partition-variance-each",
        summary="covariance of the gradient over P consecutive masks, a mask for each example",
        trial=EachTrial,
        trials=_trials,
        run=_run,
        seeds={"fast": range(1), "full": range(40, 60)},
        measures={"partition-variance-each": _measure},
        tolerance=1e-4,
    ),
]
