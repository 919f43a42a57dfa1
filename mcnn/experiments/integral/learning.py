"""One integral equation, solved by a series, by random walks and by reinforcement learning.

Each solution comes with its own error bar, and all are compared with the closed form at a place
far from the lamp.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mcnn.integral.learning import TARGETS, guided_walks, learn
from mcnn.integral.transport import Rod, gather, neumann, walks
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record

_LEARNED = (0, 10, 100, 1000, 10000)  # steps of learning after which walks are guided


@dataclass(frozen=True, kw_only=True)
class TransportTrial(Trial):
    """An equation, where it is solved, and how much is spent on each way to solve it."""

    albedo: float = 0.9
    free_path: float = 0.1
    start: float = 0.125
    cells: int = 64
    steps: int = 10_000
    learners: int = 16
    walks: int = 1 << 16
    guided: int = 1 << 12
    explore: float = 0.02


def run(trial: TransportTrial, device: torch.device) -> dict:
    """Return estimates with their error bars, the learned tables, and variances of walks."""
    rod = Rod(trial.albedo, trial.free_path)
    generator = torch.Generator(device).manual_seed(trial.seed)
    x = torch.tensor([trial.start], dtype=torch.float64)
    exact = float(rod.exact(x))

    coarse, fine, finest = (
        float(gather(rod, neumann(rod, m), x)) for m in (trial.cells, 512, 1024)
    )
    # An error of order two is a third of what halving the cells changed: this bar is generous.
    metrics = {"exact": exact, "neumann": {"value": finest, "bar": abs(finest - fine)}}

    plain = walks(rod, trial.start, trial.walks, generator)
    metrics["absorbed walks"] = _estimate(walks(rod, trial.start, trial.walks, generator, True))
    metrics["walks"] = _estimate(plain)

    # A table cannot know more than its cells: how much they lose is known from the series.
    grid = abs(coarse - finest)
    table = torch.zeros(trial.cells, dtype=torch.float64)
    for target in TARGETS:
        tables = learn(
            rod,
            trial.steps,
            generator,
            trial.cells,
            trial.learners,
            target=target,
            explore=trial.explore,
        ).cpu()
        estimate = _estimate(gather(rod, tables, x)[:, 0])
        metrics[target] = estimate | {"bar": math.hypot(estimate["bar"], grid), "grid": grid}
        metrics[target]["table"] = tables.mean(0).tolist()
        if target == "expected":
            table = tables[0]  # of one learner: walks are guided by what a single one knows

    metrics["guided walks"] = _estimate(_guided(rod, trial, table, generator))
    ratios = []
    for steps in _LEARNED:
        learned = torch.zeros_like(table)
        if steps:
            learned = learn(rod, steps, generator, trial.cells, learners=1, explore=trial.explore)[
                0
            ]
        variance = _guided(rod, trial, learned, generator).var()
        ratios.append(float(plain.var() / variance))
    metrics["variance ratio"] = {"steps": list(_LEARNED), "ratio": ratios}
    return metrics


def _guided(rod: Rod, trial: TransportTrial, table: Tensor, generator: torch.Generator) -> Tensor:
    table = table.to(generator.device)
    return guided_walks(rod, trial.start, table, trial.guided, generator, trial.explore)


def _estimate(values: Tensor) -> dict[str, float]:
    """Return the mean of independent values, and its standard error as the bar."""
    spread = float(values.std())
    return {"value": float(values.mean()), "bar": spread / math.sqrt(len(values)), "sd": spread}


def trials(profile: str, seeds: Sequence[int]) -> list[TransportTrial]:
    """List repetitions with different random numbers."""
    if profile == "fast":
        small = {"cells": 32, "steps": 1500, "learners": 8, "walks": 1 << 13, "guided": 1 << 10}
        return [TransportTrial(**small, seed=seed) for seed in seeds]
    return [TransportTrial(seed=seed) for seed in seeds]


def measure(records: Sequence[Record]) -> Mapping[str, Sequence[float]]:
    """Return deviations in error bars, the bars themselves, and the gain of guided walks."""
    ways = {
        "walks": "random walks",
        "expected": "expected SARSA",
        "sarsa": "sampled SARSA",
        "neumann": "Neumann series",
        "guided walks": "guided walks",
        "max": "Q-learning with a maximum",
    }
    readings: dict[str, list[float]] = {}
    for r in records:
        m = r.metrics
        for key, way in ways.items():
            deviation = abs(m[key]["value"] - m["exact"])
            readings.setdefault(f"{way}: deviation in bars", []).append(deviation / m[key]["bar"])
        for key, way in ways.items():
            bar = m[key]["bar"] / m["exact"]
            readings.setdefault(f"{way}: relative bar", []).append(bar)
        ratio = m["walks"]["sd"] ** 2 / m["guided walks"]["sd"] ** 2
        readings.setdefault("variance of walks over that of guided walks", []).append(ratio)
    return readings


EXPERIMENT = Experiment(
    name="integral-rl",
    summary="light in a rod by Neumann series, random walks and reinforcement learning",
    trial=TransportTrial,
    trials=trials,
    run=run,
    seeds={"fast": range(2), "full": range(10, 20)},
    measures={"integral-rl": measure},
    tolerance=1e-6,
)
