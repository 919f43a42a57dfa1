"""Mean and variance of sampled pre-activations against theory."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mcnn import density
from mcnn.experiments.density.common import (
    FAST_DATASET,
    FAST_WIDTHS,
    SEEDS,
    NetTrial,
    first_layer,
)
from mcnn.ledger.experiment import Experiment
from mcnn.ledger.records import Record


@dataclass(frozen=True, kw_only=True)
class UnbiasedTrial(NetTrial):
    """How often the neurons of the first layer are sampled."""

    samples: int = 94
    repeats: int = 1000


def _run_unbiased(trial: UnbiasedTrial, device: torch.device) -> dict[str, Any]:
    weight, images = first_layer(trial, device)
    rows = len(weight)
    generator = torch.Generator().manual_seed(trial.seed)
    chosen = torch.randperm(len(images), generator=generator)[:rows].to(device)
    inputs = images[chosen]  # [rows, n]: another image for each neuron
    exact = (weight * inputs).double().sum(1)  # [rows]
    scale = exact.square().mean().sqrt()
    # A neuron whose image leaves nothing to chance has no variance to compare.
    metrics: dict[str, Any] = {"bias": {}, "variance": {}, "z_of_means": {}}
    for method in density.METHODS:
        drawn = _repeat(weight, inputs, trial, method)  # [repeats, rows]
        error = drawn.mean(0) - exact
        spread = drawn.std(0) / trial.repeats**0.5
        metrics["bias"][method] = float(error.mean() / scale)
        metrics["z_of_means"][method] = float((error / spread).square().mean())
        if method in density.VARIANCES:
            theory = density.variance(weight, inputs, trial.samples, method)
            metrics["variance"][method] = float((drawn.var(0) / theory).mean())
    return metrics


def _repeat(weight: Tensor, inputs: Tensor, trial: UnbiasedTrial, method: str) -> Tensor:
    """Sample every neuron again and again; return the pre-activations [repeats, rows]."""
    drawn = []
    for start in range(0, trial.repeats, 50):
        number = min(50, trial.repeats - start)
        many = weight.repeat(number, 1)  # [number * rows, n]
        seed = trial.seed * trial.repeats + start
        counts = density.sample_counts(many, trial.samples, method, seed=seed)
        sampled = density.dequantize(counts, many).view(number, *weight.shape)
        drawn.append((sampled.double() * inputs).sum(2))
    return torch.cat(drawn)


def _unbiased_trials(profile: str, seeds: Sequence[int]) -> list[UnbiasedTrial]:
    if profile == "full":
        return [UnbiasedTrial(seed=seed) for seed in seeds]
    fast = {"dataset": FAST_DATASET, "widths": FAST_WIDTHS, "samples": 8, "repeats": 500}
    return [UnbiasedTrial(seed=seed, **fast) for seed in seeds]


def _measure_unbiased(records: Sequence[Record]) -> dict[str, list[float]]:
    return {
        f"{quantity}, {method}": [r.metrics[quantity][method] for r in records]
        for quantity in ("bias", "variance")
        for method in records[0].metrics[quantity]
    }


EXPERIMENTS = [
    Experiment(
        name="density-unbiased",
        summary="mean and variance of sampled pre-activations against theory",
        trial=UnbiasedTrial,
        trials=_unbiased_trials,
        run=_run_unbiased,
        seeds=SEEDS,
        measures={"density-unbiased": _measure_unbiased},
        tolerance=1e-4,
    ),
]
