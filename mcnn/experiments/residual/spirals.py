"""Two interleaved spirals: small enough for many seeds, and hard enough to need the equation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mcnn.experiments.residual.common import (
    ExchangeTrial,
    measure_exchange,
    measure_solver,
    train_and_exchange,
)
from mcnn.ledger.experiment import Experiment


@dataclass(frozen=True, kw_only=True)
class SpiralsTrial(ExchangeTrial):
    """Points to train with, as many to test with, and their noise."""

    width: int = 16
    hidden: int = 32
    epochs: int = 60
    batch_size: int = 250
    lr: float = 1e-2
    points: int = 2000
    noise: float = 0.02
    turns: float = 1.5


def spirals(
    points: int, turns: float, noise: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return points on two spiral arms, [points, 2], and which arm each is on, [points]."""
    arm = torch.arange(points) % 2
    radius = torch.rand(points, generator=generator).sqrt()
    angle = 2 * math.pi * turns * radius + math.pi * arm
    x = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)
    return x + noise * torch.randn(points, 2, generator=generator), arm


def _run_spirals(trial: SpiralsTrial, device: torch.device) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(trial.seed)
    options = (trial.points, trial.turns, trial.noise, generator)
    train, test = spirals(*options), spirals(*options)
    return train_and_exchange(trial, *((x.to(device), y.to(device)) for x, y in (train, test)))


_CASES = (
    *((weights, training) for weights in ("layers", "shared") for training in ("euler", "rk4")),
    *((weights, "random") for weights in ("layers", "shared")),
    ("shared", "dopri5"),
    ("interpolated", "euler"),
    ("interpolated", "random"),
)


def _trials(profile: str, seeds: Sequence[int]) -> list[SpiralsTrial]:
    cases = [("shared", "euler"), ("shared", "random")] if profile == "fast" else _CASES
    return [SpiralsTrial(seed=s, weights=w, training=t) for s in seeds for w, t in cases]


EXPERIMENTS = [
    Experiment(
        name="residual-spirals",
        summary="two spirals, trained with one solver and tested with all",
        trial=SpiralsTrial,
        trials=_trials,
        run=_run_spirals,
        seeds={"fast": range(2), "full": range(30)},
        measures={
            "residual-solver-spirals": measure_solver,
            "residual-exchange-spirals": measure_exchange,
        },
        tolerance=0.02,
    ),
]
