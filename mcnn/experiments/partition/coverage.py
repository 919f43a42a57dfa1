"""Exact counts: which units a cycle drops, what its mean is, and the random numbers it takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mcnn.experiments.partition.variance import Dropout
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.partition.layer import DROPS, DropoutPartition
from mcnn.sampling import uniforms


@dataclass(frozen=True, kw_only=True)
class CoverageTrial(Trial):
    """Numbers of parts, largest width, cycles of each, and steps of the count of dropped units."""

    parts: tuple[int, ...] = (*range(2, 10), 16, 64, 256)
    widest: int = 1000
    widths: int = 10
    cycles: int = 2
    steps: int = 36


def _run(trial: CoverageTrial, device: torch.device) -> dict[str, Any]:
    broken = {"dropped": 0, "kept": 0, "mean": 0}
    units = 0
    ratios: dict[str, list[float]] = {drop: [] for drop in DROPS}
    for parts in trial.parts:
        draws = uniforms(1000 * trial.seed + parts, torch.arange(trial.widths))
        for number, xi in enumerate(draws.tolist()):
            n = 1 + int(xi * trial.widest)
            seed = trial.seed * trial.widths + number
            dropout = Dropout(1 / parts, True, seed)
            for _ in range(parts * trial.cycles):
                dropout(torch.ones(1, n))
            for drop in DROPS:
                layer = DropoutPartition(parts, drop, seed=seed)
                for _ in range(trial.cycles):
                    more = _broken(layer, n, device)
                    broken = {key: broken[key] + more[key] for key in broken}
                units += n * trial.cycles
                ratios[drop].append(parts * layer.numbers_drawn / dropout.numbers_drawn)
    return broken | {"units": units, "numbers": ratios, "dropped_times": _dropped_times(trial)}


def _broken(layer: DropoutPartition, n: int, device: torch.device) -> dict[str, int]:
    """Count units, or outputs of a fixed linear layer, that break the rules in a cycle."""
    parts = layer.parts
    times = 1 if layer.drop == "one" else parts - 1
    x, weight = (
        torch.randn(  # [n], [8, n]
            9, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64
        )
        .to(device)
        .split([1, 8])
    )
    steps = torch.cat([layer(x) for _ in range(parts)])  # [P, n]
    zeros = (steps == 0).sum(0)
    error = (steps @ weight.T).mean(0) - (x @ weight.T).squeeze(0)  # [8]
    scale = (x.abs() @ weight.abs().T).squeeze(0)
    return {
        "dropped": int((zeros != times).sum()),
        "kept": int((parts - zeros != parts - times).sum()),
        "mean": int((error.abs() > 1e-13 * parts * scale).sum()),
    }


def _dropped_times(trial: CoverageTrial, units: int = 10_000) -> dict[str, list[int]]:
    """Count the units by how often they were dropped in some steps, for P = 3."""
    layers = {
        "partition": DropoutPartition(3, seed=trial.seed),
        "dropout": Dropout(1 / 3, True, trial.seed),
    }
    times = {}
    for name, layer in layers.items():
        x = torch.ones(1, units)
        dropped: Tensor = sum((layer(x) == 0).long() for _ in range(trial.steps)).squeeze(0)
        times[name] = dropped.bincount(minlength=trial.steps + 1).tolist()
    return times


def _trials(profile: str, seeds: Sequence[int]) -> list[CoverageTrial]:
    if profile == "full":
        return [CoverageTrial(seed=seed) for seed in seeds]
    return [CoverageTrial(seed=s, parts=(2, 3, 9), widest=100, widths=3) for s in seeds]


def _measure(records: Sequence[Record]) -> dict[str, list[float]]:
    keys = {
        "dropped": "units not dropped once (drop one) or P − 1 times (keep one) a cycle",
        "kept": "units not kept P − 1 times or once a cycle",
        "mean": "outputs of a linear layer whose mean over a cycle is not the dense one",
    }
    return {name: [float(r.metrics[key]) for r in records] for key, name in keys.items()}


def _random(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return the ratio that is farthest from 1, one a seed."""
    return {
        f"drop {drop}" if drop == "one" else drop.replace("-", " "): [
            max(r.metrics["numbers"][drop], key=lambda ratio: abs(ratio - 1)) for r in records
        ]
        for drop in DROPS
    }


EXPERIMENTS = [
    Experiment(
        name="partition-coverage",
        summary="which units a cycle drops, and the random numbers it takes",
        trial=CoverageTrial,
        trials=_trials,
        run=_run,
        seeds={"fast": range(1), "full": range(5)},
        measures={"partition-coverage": _measure, "partition-random": _random},
        tolerance=0,
    ),
]
