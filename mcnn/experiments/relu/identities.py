"""Leaky ReLU and absolute value as sums of ReLUs, on numbers of every magnitude."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from mcnn import relu
from mcnn.experiments.relu.operands import DTYPES, SEEDS, any_number, every_number, special_numbers
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record


@dataclass(frozen=True, kw_only=True)
class IdentityTrial(Trial):
    """A type, and how many of its numbers are tried; of 16 bits all."""

    dtype: str = "float32"
    numbers: int = 1_000_000
    slopes: tuple[float, ...] = (0.01, 0.1, 0.3)


def _run(trial: IdentityTrial, device: torch.device) -> dict[str, Any]:
    dtype = DTYPES[trial.dtype]
    generator = torch.Generator().manual_seed(trial.seed)
    if dtype.itemsize == 2:
        x = every_number(dtype)
    else:
        x = torch.cat([any_number(trial.numbers, dtype, generator), special_numbers(dtype)])
    x = x.to(device)
    metrics: dict[str, Any] = {"numbers": len(x), "leaky": 0.0, "leaky_zeros": 0}
    for slope in trial.slopes:
        got, want = relu.leaky_relu(x, slope), F.leaky_relu(x, slope)
        metrics["leaky"] = max(metrics["leaky"], float(relu.ulps(got, want).max()))
        metrics["leaky_zeros"] += int((got.signbit() != want.signbit()).sum())
    got, want = relu.absolute(x), x.abs()
    metrics["abs"] = float(relu.ulps(got, want).max())
    metrics["abs_zeros"] = int((got.signbit() != want.signbit()).sum())
    return metrics


def _trials(profile: str, seeds: Sequence[int]) -> list[IdentityTrial]:
    numbers = 1_000_000 if profile == "full" else 10_000
    return [IdentityTrial(seed=s, dtype=name, numbers=numbers) for s in seeds for name in DTYPES]


def _measure(name: str, records: Sequence[Record]) -> dict[str, list[float]]:
    zeros = "zeros of the other sign, where the product underflows" if name == "leaky" else "zeros"
    return {
        "difference in ulp": [r.metrics[name] for r in records],
        zeros: [r.metrics[f"{name}_zeros"] for r in records],
    }


EXPERIMENTS = [
    Experiment(
        name="relu-identities",
        summary="leaky ReLU and absolute value against PyTorch's",
        trial=IdentityTrial,
        trials=_trials,
        run=_run,
        seeds=SEEDS,
        measures={
            "relu-leaky": lambda records: _measure("leaky", records),
            "relu-abs": lambda records: _measure("abs", records),
        },
        tolerance=0,
    ),
]
