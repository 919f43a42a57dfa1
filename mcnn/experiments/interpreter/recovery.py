"""How often a random ReLU layer determines its input, counted and by formula."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mcnn import interpreter
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.sampling import fold_in

SIZES = {
    2: (2, 3, 4, 5, 6, 8, 12, 15),
    8: (8, 12, 16, 20, 24, 32),
    24: (36, 48, 60),
}


@dataclass(frozen=True, kw_only=True)
class RecoveryTrial(Trial):
    """Inputs and units of layers, and how many are drawn of each."""

    draws: int = 5000


def run(trial: RecoveryTrial, device: torch.device) -> dict[str, Any]:
    """Return for each number of inputs how often they were determined, and the probability."""
    metrics: dict[str, Any] = {}
    for n, units in SIZES.items():
        seed = fold_in(trial.seed, n)
        counted = [
            interpreter.count_recovered(n, m, trial.draws, fold_in(seed, m)) / trial.draws
            for m in units
        ]
        exact = [interpreter.recovery_probability(n, m) for m in units]
        metrics[str(n)] = {"units": list(units), "counted": counted, "exact": exact}
    return metrics


def trials(profile: str, seeds: Sequence[int]) -> list[RecoveryTrial]:
    """List a trial for each seed."""
    draws = 5000 if profile == "full" else 500
    return [RecoveryTrial(seed=seed, draws=draws) for seed in seeds]


def measure(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return frequencies minus probabilities, and their squares in squared standard errors."""

    def differences(r: Record, n: int) -> list[float]:
        at = r.metrics[str(n)]
        return [c - e for c, e in zip(at["counted"], at["exact"], strict=True)]

    def squares(r: Record) -> float:
        """One, in the mean, where the law is right; rare and sure events are left out."""
        found = []
        for n in SIZES:
            for off, e in zip(differences(r, n), r.metrics[str(n)]["exact"], strict=True):
                expected = r.config.draws * e * (1 - e)
                if expected >= 5:
                    found.append((r.config.draws * off) ** 2 / expected)
        return sum(found) / len(found)

    means = {
        f"frequency minus probability, {n} inputs": [
            sum(differences(r, n)) / len(SIZES[n]) for r in records
        ]
        for n in SIZES
    }
    return means | {"squared difference over variance": [squares(r) for r in records]}


EXPERIMENTS = [
    Experiment(
        name="interpreter-lossless",
        summary="how often a random ReLU layer determines its input, against a binomial law",
        trial=RecoveryTrial,
        trials=trials,
        run=run,
        seeds={"fast": range(1), "full": range(10, 25)},
        measures={"interpreter-lossless": measure},
        tolerance=0.05,
    ),
]
