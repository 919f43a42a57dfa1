"""Which counts systematic samples can have, and what they leave of the accuracy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mcnn import density
from mcnn.density.counts import cumulative_mass
from mcnn.experiments.density.common import (
    FAST_DATASET,
    FAST_WIDTHS,
    SEEDS,
    NetTrial,
    accuracy,
    linears,
    trained,
)
from mcnn.ledger.experiment import Experiment
from mcnn.ledger.records import Record


@dataclass(frozen=True, kw_only=True)
class TernaryTrial(NetTrial):
    """How many offsets each number of samples is tried with."""

    offsets: int = 64
    samplings: int = 10


def _run_ternary(trial: TernaryTrial, device: torch.device) -> dict[str, Any]:
    model, dataset = trained(trial, device)
    layers = linears(model)
    broken = {"counts": 0, "neurons": 0}
    for module in layers.values():
        broken_here = _check_bounds(module.weight.detach(), trial)
        broken = {key: broken[key] + broken_here[key] for key in broken}
    limits = {name: _ternary_samples(m.weight.detach()) for name, m in layers.items()}
    first, limit = next(iter(limits.items()))
    accuracies = []
    for seed in range(trial.samplings):
        options = {"samples": limit, "layers": first, "method": "systematic", "seed": seed}
        sampled, report = density.quantize(model, **options)
        if not report.layers[0].ternary:
            broken["neurons"] += 1
        accuracies.append(accuracy(sampled, dataset))
    return {
        "broken": broken,
        "dense": accuracy(model, dataset),
        "ternary_samples": limit,
        "ternary_accuracy": accuracies,
        "ternary_hit": report.distinct / report.weights,
    }


def _ternary_samples(weight: Tensor) -> int:
    """Return the most samples for which every row is ternary: K max|w| <= |w|_1."""
    w = weight.double().abs()
    return int((w.sum(1) / w.amax(1)).min())


def _check_bounds(weight: Tensor, trial: TernaryTrial) -> dict[str, int]:
    """Count what breaks the rule, for numbers of samples on both sides of each row's limit.

    Everything is an integer here, so nothing is lost to rounding: p is m / total.
    """
    edges = cumulative_mass(weight)
    total = edges[:, -1:]  # [rows, 1]
    mass = torch.diff(edges, dim=1, prepend=torch.zeros_like(total))  # [rows, n]
    limit = int(_ternary_samples(weight))
    broken = {"counts": 0, "neurons": 0}
    for samples in (1, limit // 2, limit, limit + 1, 2 * limit, 3 * limit + 1):
        low = mass * samples // total
        high = -(-mass * samples // total)
        may_be_ternary = (high <= 1).all(1)  # [rows]: K max p <= 1
        is_ternary = torch.ones_like(may_be_ternary)
        for offset in range(trial.offsets):
            counts = density.sample_counts(weight, samples, "systematic", seed=offset).abs()
            broken["counts"] += int(((counts < low) | (counts > high)).sum())
            is_ternary &= (counts <= 1).all(1)
        # Some offset must show a count of 2 where the rule forbids ternary; a rare one may not
        # come up, so only neurons with a weight that has to be 2 or that is 2 half the time count.
        surely_not = (mass * samples * 2 >= total * 3).any(1)  # [rows]: K max p >= 3/2
        broken["neurons"] += int((may_be_ternary & ~is_ternary).sum())
        broken["neurons"] += int((surely_not & is_ternary).sum())
    return broken


def _ternary_trials(profile: str, seeds: Sequence[int]) -> list[TernaryTrial]:
    if profile == "full":
        return [TernaryTrial(seed=seed) for seed in seeds]
    fast = {
        "dataset": FAST_DATASET,
        "widths": FAST_WIDTHS,
        "epochs": 20,
        "offsets": 32,
        "samplings": 3,
    }
    return [TernaryTrial(seed=seed, **fast) for seed in seeds]


def _measure_ternary(records: Sequence[Record]) -> dict[str, list[float]]:
    return {
        "counts off their bounds": [r.metrics["broken"]["counts"] for r in records],
        "neurons off the ternary rule": [r.metrics["broken"]["neurons"] for r in records],
        "relative accuracy of a ternary first layer": [
            sum(r.metrics["ternary_accuracy"])
            / len(r.metrics["ternary_accuracy"])
            / r.metrics["dense"]
            for r in records
        ],
    }


EXPERIMENTS = [
    Experiment(
        name="density-ternary",
        summary="counts of systematic samples, ternary and integer weights",
        trial=TernaryTrial,
        trials=_ternary_trials,
        run=_run_ternary,
        seeds=SEEDS,
        measures={"density-ternary": _measure_ternary},
        tolerance=0.01,
    ),
]
