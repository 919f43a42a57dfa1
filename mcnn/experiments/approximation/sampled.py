"""Hidden layers as samples of an integral: error against units, and bias behind one more ReLU."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mcnn.approximation import Bump, sampled_layer
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.sampling import fold_in, points
from mcnn.stats import slope

DIMENSIONS = (2, 8, 32)
METHODS = ("random", "sobol")


@dataclass(frozen=True, kw_only=True)
class RateTrial(Trial):
    """Layers that are samples of one integral, with independent and with Sobol' points."""

    dimension: int = 2
    sizes: tuple[int, ...] = tuple(2**k for k in range(5, 13))
    repetitions: int = 16
    places: int = 512


def places(n: int, d: int, seed: int) -> Tensor:
    """Return points of the unit ball, float64 [n, d]: directions and radii are uniform.

    Points that are uniform in the ball would all lie at its surface in many dimensions.
    """
    u = points(n, d + 1, seed=seed, dtype=torch.float64)
    direction = torch.special.ndtri(u[:, :d].clamp(min=2.0**-54))
    return direction / direction.norm(dim=1, keepdim=True) * u[:, d:]


@torch.no_grad()
def _run_rate(trial: RateTrial, device: torch.device) -> dict[str, Any]:
    f = Bump(trial.dimension)
    x = places(trial.places, trial.dimension, fold_in(trial.seed, 0)).to(device)
    exact = f(x)
    metrics: dict[str, Any] = {}
    for method in METHODS:
        errors = []
        for n in trial.sizes:
            squares = 0.0
            for r in range(trial.repetitions):
                net = sampled_layer(f, n, method, fold_in(trial.seed, r + 1), device, x.dtype)
                squares += float((net(x) - exact).square().mean())
            errors.append((squares / trial.repetitions) ** 0.5)
        metrics[method] = {"error": errors, "slope": slope(trial.sizes, errors)}
    return metrics


def _rate_trials(profile: str, seeds: Sequence[int]) -> list[RateTrial]:
    few: dict[str, Any] = {"sizes": (32, 64, 128, 256, 512), "repetitions": 8, "places": 128}
    options = {} if profile == "full" else few
    return [RateTrial(dimension=d, seed=seed, **options) for d in DIMENSIONS for seed in seeds]


def measure_rate(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return slopes, what Sobol' points gain in slope, and the error that they leave at last."""
    readings: dict[str, list[float]] = {}
    for r in records:
        d, random, sobol = r.config.dimension, *(r.metrics[name] for name in METHODS)
        for name, value in (
            (f"random, d={d}", random["slope"]),
            (f"sobol, d={d}", sobol["slope"]),
            (f"sobol minus random, d={d}", sobol["slope"] - random["slope"]),
            (f"error of sobol over random, d={d}", sobol["error"][-1] / random["error"][-1]),
            (f"error of random, d={d}", random["error"][-1]),
        ):
            readings.setdefault(name, []).append(value)
    return readings


@dataclass(frozen=True, kw_only=True)
class BiasTrial(Trial):
    """Layers as of a rate trial, a threshold, and one more ReLU."""

    dimension: int = 2
    threshold: float = 0.7
    sizes: tuple[int, ...] = (128, 256, 512, 1024, 2048)
    repetitions: int = 500
    places: int = 256


@torch.no_grad()
def _run_bias(trial: BiasTrial, device: torch.device) -> dict[str, Any]:
    f = Bump(trial.dimension)
    biases, offs = [], []
    for n in trial.sizes:
        bias = off = 0.0
        for r in range(trial.repetitions):
            seed = fold_in(trial.seed, r)
            x = places(trial.places, trial.dimension, fold_in(seed, 0)).to(device)
            inside = f(x) - trial.threshold  # [places, 1]
            net = sampled_layer(f, n, "random", fold_in(seed, 1), device, x.dtype)
            sampled = net(x) - trial.threshold
            # What is subtracted has the mean max{0, inside}: only a changed sign counts.
            bias += float((sampled.clamp(min=0) - (inside > 0) * sampled).mean())
            off += float((sampled - inside).mean())
        biases.append(bias / trial.repetitions)
        offs.append(off / trial.repetitions)
    return {"bias": biases, "before": offs, "slope": slope(trial.sizes, biases)}


def _bias_trials(profile: str, seeds: Sequence[int]) -> list[BiasTrial]:
    few: dict[str, Any] = {"sizes": (64, 128, 256), "repetitions": 100, "places": 64}
    return [BiasTrial(seed=seed, **({} if profile == "full" else few)) for seed in seeds]


def measure_bias(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return the slope of the bias, and what is left of it where units are most."""
    return {
        "bias behind a ReLU, slope": [r.metrics["slope"] for r in records],
        "bias behind a ReLU at most units": [r.metrics["bias"][-1] for r in records],
        "mean deviation before it at most units": [r.metrics["before"][-1] for r in records],
    }


EXPERIMENTS = [
    Experiment(
        name="approximation-rate",
        summary="error of sampled hidden layers against units, in 2, 8 and 32 dimensions",
        trial=RateTrial,
        trials=_rate_trials,
        run=_run_rate,
        seeds={"fast": range(2), "full": range(5)},
        measures={"approximation-rate": measure_rate, "approximation-sobol": measure_rate},
        tolerance=1e-6,
    ),
    Experiment(
        name="approximation-bias",
        summary="bias of a ReLU behind sampled hidden layers against units",
        trial=BiasTrial,
        trials=_bias_trials,
        run=_run_bias,
        seeds={"fast": range(2), "full": range(5)},
        measures={"approximation-bias": measure_bias},
        tolerance=1e-6,
    ),
]
