"""Regression on noisy samples of an integrand against regression on the integral itself.

The excess error is the mean squared distance between what is learned from noisy targets and what
is learned from clean ones, everything else the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mcnn.integral.noise import (
    fit_networks,
    least_squares,
    predicted_excess,
    sample_targets,
    sample_variance,
)
from mcnn.integral.ridge import Ridge, random_ridge
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.sampling import points
from mcnn.stats import slope

_DIMENSION = 2


@dataclass(frozen=True, kw_only=True)
class NoiseTrial(Trial):
    """One random integrand, and who learns from it.

    ``samples`` are the numbers of samples a target, ``noise`` the factors by which the deviation
    of a target with one sample is scaled.
    """

    learner: str = "least-squares"
    targets: int = 256
    samples: tuple[int, ...] = (1, 4, 16, 64, 256)
    noise: tuple[float, ...] = (0.0625, 0.125, 0.25, 0.5, 1.0)
    repetitions: int = 64
    frequencies: int = 4
    steps: int = 400


def run(trial: NoiseTrial, device: torch.device) -> dict:
    """Return excess errors against samples and noise, and their slopes."""
    ridge = random_ridge(_DIMENSION, True, trial.seed)
    y = points(trial.targets, _DIMENSION, "random", trial.seed + 1000, device, torch.float64)
    generator = torch.Generator(device).manual_seed(trial.seed)
    learn = {"least-squares": _least_squares, "network": _network}[trial.learner]
    return learn(trial, ridge, y, generator)


def _least_squares(trial: NoiseTrial, ridge: Ridge, y: Tensor, generator: torch.Generator) -> dict:
    exact = ridge.exact(y)
    clean = least_squares(y, exact, trial.frequencies).unsqueeze(1)  # [n, 1]
    variance = sample_variance(ridge, y)

    def fits(samples: int, noise: float) -> Tensor:
        draws = [sample_targets(ridge, y, samples, generator) for _ in range(trial.repetitions)]
        targets = torch.stack(draws, 1)  # [n, repetitions]
        return least_squares(
            y, exact.unsqueeze(1) + noise * (targets - exact.unsqueeze(1)), trial.frequencies
        )

    by_samples, by_noise, predicted = [], [], []
    for samples in trial.samples:
        fit = fits(samples, 1.0)
        by_samples.append(float((fit - clean).square().mean()))
        predicted.append(predicted_excess(y, variance / samples, trial.frequencies))
        if samples == 1:
            bias = float((fit.mean(1, keepdim=True) - clean).square().mean())
    for noise in trial.noise:
        by_noise.append(float((fits(1, noise) - clean).square().mean()))
    return _summary(trial, by_samples, by_noise) | {
        "predicted": predicted,
        # The mean of R unbiased fits is R times closer to the clean one; a bias would stay.
        "bias": bias * trial.repetitions / by_samples[0],
        "sample variance": float(variance.mean()),
    }


def _network(trial: NoiseTrial, ridge: Ridge, y: Tensor, generator: torch.Generator) -> dict:
    exact = ridge.exact(y)
    fresh = points(1024, _DIMENSION, "sobol", trial.seed, y.device, y.dtype)
    truth = ridge.exact(fresh)

    columns = [exact]
    for samples, noise in [(m, 1.0) for m in trial.samples] + [(1, s) for s in trial.noise]:
        for _ in range(trial.repetitions):
            noisy = sample_targets(ridge, y, samples, generator)
            columns.append(exact + noise * (noisy - exact))
    start = torch.Generator().manual_seed(trial.seed)
    outputs = fit_networks(y, torch.stack(columns, 1), fresh, start, steps=trial.steps)
    clean, noisy = outputs[:, :1], outputs[:, 1:]
    excess = (noisy - clean).square().mean(0).view(-1, trial.repetitions).mean(1).tolist()
    by_samples, by_noise = excess[: len(trial.samples)], excess[len(trial.samples) :]
    return _summary(trial, by_samples, by_noise) | {
        "clean error": float((clean.squeeze(1) - truth).square().mean()),
    }


def _summary(trial: NoiseTrial, by_samples: list[float], by_noise: list[float]) -> dict:
    variances = [noise**2 for noise in trial.noise]
    return {
        "by samples": by_samples,
        "by noise": by_noise,
        "slope, samples": slope(trial.samples, by_samples),
        "slope, variance": slope(variances, by_noise),
    }


def trials(profile: str, seeds: Sequence[int]) -> list[NoiseTrial]:
    """List random integrands, each learned by least squares and by a network."""
    small = {"samples": (1, 4, 16), "noise": (0.25, 0.5, 1.0), "repetitions": 16, "steps": 200}
    size = small if profile == "fast" else {}
    fits = [NoiseTrial(seed=seed, **size) for seed in seeds]
    networks = [
        NoiseTrial(seed=seed, learner="network", **(size | {"repetitions": 4})) for seed in seeds
    ]
    return fits + networks


def measure(records: Sequence[Record]) -> Mapping[str, Sequence[float]]:
    """Return the slopes, and for least squares the bias and the agreement with theory."""
    readings: dict[str, list[float]] = {}
    for r in records:
        m, who = r.metrics, r.config.learner.replace("-", " ")
        readings.setdefault(f"{who}: slope against samples", []).append(m["slope, samples"])
        readings.setdefault(f"{who}: slope against variance", []).append(m["slope, variance"])
        if "bias" in m:
            readings.setdefault("least squares: bias test", []).append(m["bias"])
            pairs = zip(m["by samples"], m["predicted"], strict=True)
            ratios = [measured / predicted for measured, predicted in pairs]
            mean = sum(ratios) / len(ratios)
            readings.setdefault("least squares: measured over predicted", []).append(mean)
    return readings


EXPERIMENT = Experiment(
    name="integral-noise",
    summary="excess error of learning from noisy samples of an integrand",
    trial=NoiseTrial,
    trials=trials,
    run=run,
    seeds={"fast": range(2), "full": range(10, 20)},
    measures={"integral-noise": measure},
    tolerance=1e-6,
)
