"""Networks that mix well: an exact distribution, and how far the mean is from the mean field."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mcnn.kinetics import Network
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.sampling import fold_in
from mcnn.stats import slope

TIMES = (0.5, 1.0, 8.0)


@dataclass(frozen=True, kw_only=True)
class PoissonTrial(Trial):
    """Births at a constant rate, deaths in proportion, from nothing."""

    runs: int = 1 << 17
    birth: float = 12.0


def _poisson(trial: PoissonTrial, device: torch.device) -> dict[str, Any]:
    network = Network({"0 -> A": trial.birth, "A -> 0": 1.0})
    counts = network.ssa({}, TIMES, trial.runs, trial.seed).squeeze(-1)  # [runs, times]
    mean = network.mean_field({}, TIMES).squeeze(-1)
    return {
        "p": [p_value(x.numpy(), m) for x, m in zip(counts.T, mean.tolist(), strict=True)],
        "mean over theory": (counts.double().mean(0) / mean).tolist(),
        "variance over mean": (counts.double().var(0) / counts.double().mean(0)).tolist(),
    }


def p_value(counts: np.ndarray, mean: float) -> float:
    """Return the probability of Pearson's statistic, if the counts are Poisson with that mean."""
    from scipy.stats import chi2, poisson

    seen = np.bincount(counts)
    expected = poisson.pmf(np.arange(len(seen)), mean) * len(counts)
    low, high = np.argmax(expected >= 5), len(seen) - np.argmax(expected[::-1] >= 5) - 1
    bins = [seen[: low + 1].sum(), *seen[low + 1 : high], seen[high:].sum()]
    share = [poisson.cdf(low, mean), *poisson.pmf(np.arange(low + 1, high), mean)]
    share.append(poisson.sf(high - 1, mean))
    theory = np.array(share) * len(counts)
    statistic = float(((np.array(bins) - theory) ** 2 / theory).sum())
    return float(chi2.sf(statistic, len(bins) - 1))


def _measure_poisson(recorded: Sequence[Record]) -> dict[str, list[float]]:
    return {
        f"{name}, t = {time:g}": [r.metrics[name][k] for r in recorded]
        for name in ("p", "mean over theory", "variance over mean")
        for k, time in enumerate(TIMES)
    }


@dataclass(frozen=True, kw_only=True)
class GapTrial(Trial):
    """Births at a constant rate, deaths in pairs, in volumes of several sizes."""

    volumes: tuple[int, ...] = (4, 8, 16, 32)
    runs: int = 1 << 19
    time: float = 5.0


def _gap(trial: GapTrial, device: torch.device) -> dict[str, Any]:
    gaps, exact = [], []
    for volume in trial.volumes:
        network = Network({"0 -> A": 1.0, "A + A -> 0": 0.5}, volume)
        counts = network.ssa({}, [trial.time], trial.runs, fold_in(trial.seed, volume))
        field = float(network.mean_field({}, [trial.time])) / volume
        gaps.append(float(counts.double().mean()) / volume - field)
        exact.append(_exact_mean(network, trial.time, most=4 * volume + 20) / volume - field)
    rates = {"gap": gaps, "exact": exact}
    if min(gaps) > 0:
        rates["slope"] = slope(trial.volumes, gaps)
    return rates | {"exact slope": slope(trial.volumes, exact)}


def _exact_mean(network: Network, time: float, most: int) -> float:
    from scipy.sparse.linalg import expm_multiply

    start = np.zeros(most + 1)
    start[0] = 1
    chance = expm_multiply(network.generator({"A": most}).T * time, start)
    return float(chance @ np.arange(most + 1))


def _measure_gap(recorded: Sequence[Record]) -> dict[str, list[float]]:
    return {
        "slope, runs": [r.metrics["slope"] for r in recorded],
        "slope, master equation": [r.metrics["exact slope"] for r in recorded],
    }


def _poisson_trials(profile: str, seeds: Sequence[int]) -> list[PoissonTrial]:
    options = {} if profile == "full" else {"runs": 4000}
    return [PoissonTrial(seed=seed, **options) for seed in seeds]


def _gap_trials(profile: str, seeds: Sequence[int]) -> list[GapTrial]:
    options = {} if profile == "full" else {"runs": 1 << 15, "volumes": (2, 4, 8)}
    return [GapTrial(seed=seed, **options) for seed in seeds]


EXPERIMENTS = [
    Experiment(
        name="kinetics-poisson",
        summary="births and deaths, simulated exactly, against the Poisson distribution",
        trial=PoissonTrial,
        trials=_poisson_trials,
        run=_poisson,
        seeds={"fast": range(2), "full": range(5)},
        measures={"kinetics-poisson": _measure_poisson},
        tolerance=1e-9,
    ),
    Experiment(
        name="kinetics-gap",
        summary="mean concentration minus that of the mean field, against the volume",
        trial=GapTrial,
        trials=_gap_trials,
        run=_gap,
        seeds={"fast": range(1), "full": range(5)},
        measures={"kinetics-gap": _measure_gap},
        tolerance=1e-6,
    ),
]
