"""The error of a sampled pre-activation against the number of samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mcnn import density, stats
from mcnn.experiments.density.common import (
    FAST_DATASET,
    FAST_WIDTHS,
    SEEDS,
    NetTrial,
    first_layer,
)
from mcnn.ledger.experiment import Experiment


@dataclass(frozen=True, kw_only=True)
class RmsTrial(NetTrial):
    """Numbers of samples, and how often and on how many images the error is taken."""

    samples: tuple[int, ...] = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000)
    repeats: int = 4
    images: int = 500


# The number of samples relative to the number of inputs: few, and many.
RANGES = {"few samples": (0.0, 0.3), "many samples": (5.0, 100.0)}


def _run_rms(trial: RmsTrial, device: torch.device) -> dict[str, Any]:
    weight, images = first_layer(trial, device)
    images = images[: trial.images].T.contiguous()  # [n, images]
    metrics: dict[str, Any] = {"rms": {}, "slope": {}}
    for method in density.METHODS:
        for order in ("stored", "sorted"):
            name = method if order == "stored" else f"{method}, sorted"
            error = [_rms(weight, images, s, method, order, trial) for s in trial.samples]
            metrics["rms"][name] = error
            metrics["slope"][name] = {
                label: _slope_between(trial.samples, error, low, high, weight.shape[1])
                for label, (low, high) in RANGES.items()
            }
    return metrics


def _rms(
    weight: Tensor, images: Tensor, samples: int, method: str, order: str, trial: RmsTrial
) -> float:
    squares = []
    for repeat in range(trial.repeats):
        seed = trial.seed * trial.repeats + repeat
        counts = density.sample_counts(weight, samples, method, order=order, seed=seed)
        error = (density.dequantize(counts, weight) - weight) @ images  # [rows, images]
        squares.append(float(error.square().mean()))
    return (sum(squares) / len(squares)) ** 0.5


def _slope_between(
    samples: Sequence[int], error: Sequence[float], low: float, high: float, inputs: int
) -> float:
    chosen = [(s, e) for s, e in zip(samples, error, strict=True) if low <= s / inputs <= high]
    return stats.slope(*zip(*chosen, strict=True))


def _rms_trials(profile: str, seeds: Sequence[int]) -> list[RmsTrial]:
    if profile == "full":
        return [RmsTrial(seed=seed) for seed in seeds]
    fast = {"samples": (2, 5, 10, 19, 50, 100, 320, 1000, 2000), "repeats": 2, "images": 100}
    return [RmsTrial(seed=seed, dataset=FAST_DATASET, widths=FAST_WIDTHS, **fast) for seed in seeds]


EXPERIMENTS = [
    Experiment(
        name="density-rms",
        summary="error of the pre-activation against the number of samples",
        trial=RmsTrial,
        trials=_rms_trials,
        run=_run_rms,
        seeds=SEEDS,
        tolerance=1e-3,
    ),
]
