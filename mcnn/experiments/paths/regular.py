"""Paths or densities drawn anew in every step, against dropout and drop-connect.

The network has far more weights than there are images, and learns these by heart.
How much is left out, and the learning rate, are chosen for each method on images held out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from mcnn import data, training
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.paths.regular import Redrawn, along_paths, from_densities
from mcnn.randomness.masks import DropConnect
from mcnn.sampling import fold_in
from mcnn.training import nets

METHODS = ("none", "dropout", "drop-connect", "paths", "densities")
# What is left out of the first layer, and for densities the samples of a neuron over its inputs.
STRENGTHS = {
    "none": (0.0,),
    "dropout": (0.1, 0.3, 0.5, 0.7),
    "drop-connect": (0.1, 0.3, 0.5, 0.7),
    "paths": (0.1, 0.3, 0.5, 0.7),
    "densities": (2.0, 1.0, 0.5, 0.25),
}
RATES = (0.05, 0.15)
DIVERGED = {("drop-connect", 0.7, 0.15)}  # of seed 100: the loss became NaN, so it is no choice
# Best by paths-regular-rate, on images held out: strength and learning rate.
CHOSEN: dict[str, tuple[float, float]] = {
    "none": (0.0, 0.15),
    "dropout": (0.5, 0.15),
    "drop-connect": (0.3, 0.15),
    "paths": (0.5, 0.15),
    "densities": (2.0, 0.15),
}


@dataclass(frozen=True, kw_only=True)
class RegularTrial(Trial):
    """One network that overfits, and how it is kept from that.

    ``images`` are drawn by the seed from what is not held out; with ``choose`` the network is
    judged on ``validation`` images, without on the test set.
    """

    dataset: str = "mnist"
    method: str = "none"
    strength: float = 0.0
    lr: float = 0.05
    images: int = 1000
    widths: tuple[int, ...] = (784, 256, 256, 10)
    epochs: int = 30
    batch_size: int = 100
    choose: bool = False
    validation: int = 5000


def _run(trial: RegularTrial, device: torch.device) -> dict[str, Any]:
    dataset = data.load(trial.dataset, device=device, validation=trial.validation)
    generator = torch.Generator().manual_seed(trial.seed)
    few = torch.randperm(len(dataset.train), generator=generator)[: trial.images].to(device)
    dataset = replace(dataset, train=dataset.train.part(few))
    model = regularised(trial).to(device)
    options = {"epochs": trial.epochs, "batch_size": trial.batch_size, "lr": trial.lr}
    training.fit(model, dataset, seed=trial.seed, **options)
    judge = dataset.validation if trial.choose else dataset.test
    return {
        "accuracy": training.evaluate(model, judge).accuracy,
        "train_accuracy": training.evaluate(model, dataset.train).accuracy,
    }


def regularised(trial: RegularTrial) -> nn.Module:
    """Return the network of a trial before it is trained; all methods begin with equal weights."""
    model = nets.build("mlp", trial.seed, widths=trial.widths)
    p, seed = trial.strength, fold_in(trial.seed, 1)
    if trial.method == "dropout":  # behind hidden layers, masks of each example
        return nn.Sequential(*(x for m in model for x in _with_dropout(m, p)))
    if trial.method == "drop-connect":  # in all layers but the last, masks of a batch
        return nn.Sequential(*(_with_drop_connect(m, p, i, seed) for i, m in enumerate(model)))
    if trial.method == "paths":
        paths = paths_that_leave_out(p, trial.widths[0] * trial.widths[1])
        return Redrawn(model, partial(along_paths, paths=paths), seed)
    if trial.method == "densities":
        return Redrawn(model, partial(from_densities, fraction=p), seed)
    return model


def _with_dropout(module: nn.Module, p: float) -> list[nn.Module]:
    return [module, nn.Dropout(p)] if isinstance(module, nn.ReLU) else [module]


def _with_drop_connect(module: nn.Module, p: float, number: int, seed: int) -> nn.Module:
    hidden = isinstance(module, nn.Linear) and module.out_features != 10
    if not hidden:
        return module
    layer = DropConnect(module.in_features, module.out_features, p=p, seed=fold_in(seed, number))
    layer.load_state_dict(module.state_dict())
    return layer


def paths_that_leave_out(share: float, edges: int) -> int:
    """Return how many uniform walks leave out a share of the edges between two layers.

    Examples
    --------
    >>> paths_that_leave_out(0.25, 2)
    2
    """
    return max(1, round(math.log(share) / math.log(1 - 1 / edges)))


FAST = {
    "dataset": "digits",
    "widths": (64, 64, 64, 10),
    "images": 100,
    "epochs": 30,
    "batch_size": 20,
    "validation": 200,
}


def _choosing(profile: str, seeds: Sequence[int]) -> list[RegularTrial]:
    fast = FAST if profile == "fast" else {}
    return [
        RegularTrial(seed=seed, method=method, strength=p, lr=lr, choose=True, **fast)
        for seed in seeds
        for method in METHODS
        for p in (STRENGTHS[method][:2] if fast else STRENGTHS[method])
        for lr in (RATES[:1] if fast else RATES)
        if (method, p, lr) not in DIVERGED
    ]


def _trials(profile: str, seeds: Sequence[int]) -> list[RegularTrial]:
    fast, settings = {}, CHOSEN
    if profile == "fast":  # what was chosen for another network is too much for a small one
        fast, settings = FAST, {m: (STRENGTHS[m][:2][-1], RATES[0]) for m in METHODS}
    return [
        RegularTrial(seed=seed, method=method, strength=p, lr=lr, **fast)
        for seed in seeds
        for method, (p, lr) in settings.items()
    ]


def best(records: Sequence[Record]) -> dict[str, tuple[float, float]]:
    """Return strength and rate with the best mean accuracy over the seeds, for each method."""
    found: dict[str, dict[tuple[float, float], list[float]]] = {}
    for r in records:
        tried = found.setdefault(r.config.method, {})
        tried.setdefault((r.config.strength, r.config.lr), []).append(r.metrics["accuracy"])
    return {
        method: max(tried, key=lambda key: sum(tried[key]) / len(tried[key]))
        for method, tried in found.items()
    }


def _measure(records: Sequence[Record]) -> dict[str, list[float]]:
    accuracy = {(r.config.method, r.config.seed): r.metrics["accuracy"] for r in records}
    seeds = sorted({seed for _, seed in accuracy})
    methods = [m for m in METHODS if (m, seeds[0]) in accuracy]
    readings = {
        f"{a} minus {b}": [accuracy[a, s] - accuracy[b, s] for s in seeds]
        for i, b in enumerate(methods)
        for a in methods[i + 1 :]
    }
    return readings | {f"{m}: accuracy": [accuracy[m, s] for s in seeds] for m in methods}


EXPERIMENTS = [
    Experiment(
        name="paths-regular-rate",
        summary="strengths and learning rates for paths-regular, chosen on images held out",
        trial=RegularTrial,
        trials=_choosing,
        run=_run,
        seeds={"fast": range(100, 101), "full": range(100, 102)},
        tolerance=0.01,
    ),
    Experiment(
        name="paths-regular",
        summary="paths or densities drawn anew in every step, dropout, drop-connect",
        trial=RegularTrial,
        trials=_trials,
        run=_run,
        seeds={"fast": range(2), "full": range(30)},
        measures={"paths-regular": _measure},
        tolerance=0.01,
    ),
]
