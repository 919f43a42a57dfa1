"""Error of the Gaussian kernel against the number of frequencies, for frequencies of every source.

The error is the root mean square over pairs of points and over randomisations.
The inputs are normal in two and eight dimensions, and images of the digits in scikit-learn in 64.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mcnn import data
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.randomness.features import FourierFeatures, gaussian_kernel
from mcnn.randomness.source import SOURCES, substream
from mcnn.stats import slope

DIMENSIONS = (2, 8, 64)
_SIZES = {"full": tuple(4**k for k in range(3, 8)), "fast": tuple(4**k for k in range(3, 6))}


@dataclass(frozen=True, kw_only=True)
class FeaturesTrial(Trial):
    """One set of points; every source, at every number of frequencies."""

    dimension: int = 2
    frequencies: tuple[int, ...] = _SIZES["full"]
    points: int = 64
    randomisations: int = 8


def run(trial: FeaturesTrial, device: torch.device) -> dict[str, Any]:
    """Return errors and their slope for every source."""
    x = inputs(trial.dimension, trial.points, trial.seed).to(device)
    length = float(torch.pdist(x).median())  # so that the kernel is neither zero nor one
    exact = gaussian_kernel(x, x, length)
    pairs = torch.triu_indices(len(x), len(x), 1, device=device).unbind()
    metrics = {}
    for source in sources(trial.dimension):
        errors = []
        for n in trial.frequencies:
            squares = []
            for r in range(trial.randomisations):
                layer = FourierFeatures(
                    trial.dimension,
                    n,
                    length,
                    source,
                    substream(trial.seed, r),
                    device,
                    torch.float64,
                )
                f = layer(x)  # [points, 2n]
                squares.append((f @ f.T - exact)[pairs].square().mean())
            errors.append(float(torch.stack(squares).mean().sqrt()))
        metrics[source] = {"error": errors, "slope": slope(trial.frequencies, errors)}
    return metrics


def sources(dimension: int) -> tuple[str, ...]:
    """Return the sources that a dimension has: cells of a grid only fill the plane."""
    return (*SOURCES, "jittered") if dimension == 2 else SOURCES


def inputs(dimension: int, n: int, seed: int) -> Tensor:
    """Return n points, float64 [n, d]: normal ones, or images where there are as many pixels."""
    generator = torch.Generator().manual_seed(seed)
    if dimension == 64:
        digits = data.load("digits").train
        chosen = torch.randperm(len(digits), generator=generator)[:n]
        return digits.inputs(chosen).flatten(1).double()
    return torch.randn(n, dimension, generator=generator, dtype=torch.float64)


def trials(profile: str, seeds: Sequence[int]) -> list[FeaturesTrial]:
    """List a trial for each dimension and seed."""
    options = {} if profile == "full" else {"randomisations": 4, "points": 32}
    return [
        FeaturesTrial(dimension=d, frequencies=_SIZES[profile], seed=seed, **options)
        for d in DIMENSIONS
        for seed in seeds
    ]


def measure(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return slopes, and errors at 1024 frequencies relative to pseudo-random ones."""
    readings: dict[str, list[float]] = {}
    for r in records:
        d, sizes = r.config.dimension, r.config.frequencies
        for source in sources(d):
            name = f"{source}, d={d}"
            readings.setdefault(f"slope, {name}", []).append(r.metrics[source]["slope"])
            at = sizes.index(1024)
            ratio = r.metrics[source]["error"][at] / r.metrics["random"]["error"][at]
            readings.setdefault(f"error over random, {name}", []).append(ratio)
    return readings


EXPERIMENTS = [
    Experiment(
        name="randomness-features",
        summary="error of the Gaussian kernel against the number of Fourier features",
        trial=FeaturesTrial,
        trials=trials,
        run=run,
        seeds={"fast": range(2), "full": range(10)},
        measures={"randomness-features": measure},
        tolerance=1e-6,
    ),
]
