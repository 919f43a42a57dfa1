"""Accuracy of networks of paths against the number of paths for each pixel: the talk's figure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mcnn import data
from mcnn.baselines.masks import shuffled
from mcnn.experiments.paths.common import SEEDS, edges, fit, network, path_masks, scale_to
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record

GRID = (1, 2, 4, 8, 16, 32, 64, 300)  # paths for each pixel
LEVELS = (0.95, 0.99)  # of the dense accuracy


@dataclass(frozen=True, kw_only=True)
class AccuracyTrial(Trial):
    """A network of paths, trained from scratch.

    ``method`` is a generator of paths, ``"dense"`` for all weights, or ``"random"`` for a mask with
    as many weights in each layer as uniform paths leave, at random places.
    ``fan_in`` says whether He's initial weights are those for ``"dense"`` layers or for the
    ``"realised"`` number of inputs.
    """

    dataset: str = "mnist"
    method: str = "uniform"
    per_pixel: int = 1
    fan_in: str = "dense"
    widths: tuple[int, ...] = (784, 300, 300, 10)
    epochs: int = 3


def _run(trial: AccuracyTrial, device: torch.device) -> dict[str, Any]:
    dataset = data.load(trial.dataset, device=device)
    model = network(trial.widths, trial.seed)
    if trial.method == "dense":
        model.to(device)
        return {"accuracy": fit(model, dataset, None, trial.epochs, trial.seed)}
    paths = trial.per_pixel * trial.widths[0]
    random = trial.method == "random"
    masks = path_masks(model, paths, "uniform" if random else trial.method, trial.seed)
    if random:
        masks = shuffled(masks, trial.seed)
    if trial.fan_in == "realised":
        scale_to(model, masks)
    accuracy = fit(model.to(device), dataset, masks, trial.epochs, trial.seed)
    return {"accuracy": accuracy, "edges": edges(masks)}


def _trials(profile: str, seeds: Sequence[int]) -> list[AccuracyTrial]:
    if profile == "fast":
        fast = {"dataset": "digits", "widths": (64, 64, 64, 10), "epochs": 10}
        return [
            trial
            for seed in seeds
            for trial in (
                AccuracyTrial(seed=seed, method="dense", per_pixel=0, **fast),
                *(
                    AccuracyTrial(seed=seed, method=method, per_pixel=n, **fast)
                    for method in ("uniform", "sobol")
                    for n in (1, 4, 16, 64)
                ),
            )
        ]

    def several(dataset: str, method: str, grid: Sequence[int], n: int = 5, **other: Any) -> list:
        return [
            AccuracyTrial(seed=seed, dataset=dataset, method=method, per_pixel=paths, **other)
            for paths in grid
            for seed in seeds[:n]
        ]

    judged = [
        trial
        for dataset in ("mnist", "fashion-mnist")
        for trial in (*several(dataset, "dense", (0,)), *several(dataset, "uniform", GRID))
    ]
    # What is only reported has fewer seeds, to keep the whole within an hour of one core.
    others = [
        trial
        for method, grid in {
            "sobol": (1, 4, 16, 64),
            "permutation": (1, 4, 16, 64),
            "random": (1, 4, 16, 64),
            "pixel": (1, 4),
            "backward": (1, 4),
            "bidirectional": (1, 4),
            "lattice": (1, 4),
        }.items()
        for trial in several("mnist", method, grid, 3)
    ]
    return [*judged, *others, *several("mnist", "uniform", (1, 4, 16), 3, fan_in="realised")]


def crossing(grid: Sequence[int], relative: Sequence[float], level: float) -> float:
    """Return where a curve first reaches a level, interpolated over the logarithm of the grid.

    Where it starts above the level that is the first point; where it never reaches it, the last.

    Parameters
    ----------
    grid
        Rising.
    relative
        The values there.
    level
        To be reached.

    Examples
    --------
    >>> crossing((1, 4, 16), (0.5, 0.9, 1.0), 0.95)
    8.0
    """
    if relative[0] >= level:
        return float(grid[0])
    for i in range(1, len(grid)):
        if relative[i] >= level:
            part = (level - relative[i - 1]) / (relative[i] - relative[i - 1])
            low, high = math.log2(grid[i - 1]), math.log2(grid[i])
            return round(2 ** (low + part * (high - low)), 9)
    return float(grid[-1])


def _measure(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return, for each data set, where uniform paths reach the levels; beside it, accuracies."""
    accuracies: dict[str, dict[tuple[str, int, int], float]] = {}
    for r in records:
        c = r.config
        method = c.method if c.fan_in == "dense" else f"{c.method}, realised fan-in"
        group = accuracies.setdefault(c.dataset, {})
        group[method, c.per_pixel, c.seed] = r.metrics["accuracy"]
    readings: dict[str, list[float]] = {}
    for level in LEVELS:
        for dataset, group in accuracies.items():
            seeds = sorted({seed for _, _, seed in group})
            grid = sorted({n for method, n, _ in group if method == "uniform"})
            readings[f"{dataset}: {level:.0%} of dense"] = [
                crossing(grid, [group["uniform", n, s] / group["dense", 0, s] for n in grid], level)
                for s in seeds
            ]
    for dataset, group in accuracies.items():
        for (method, n, _), accuracy in sorted(group.items()):
            readings.setdefault(f"{dataset}: {method}, {n} a pixel, accuracy", []).append(accuracy)
    return readings


EXPERIMENTS = [
    Experiment(
        name="paths-accuracy",
        summary="accuracy against paths for each pixel, sparse from scratch",
        trial=AccuracyTrial,
        trials=_trials,
        run=_run,
        seeds=SEEDS,
        measures={"paths-accuracy": _measure},
        tolerance=0.01,
    ),
]
