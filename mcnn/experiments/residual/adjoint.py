"""Memory of the gradient against depth: of the steps taken, and of the adjoint equation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.profiling import SavedBytes
from mcnn.residual import ResidualODE
from mcnn.stats import slope


@dataclass(frozen=True, kw_only=True)
class AdjointTrial(Trial):
    """A random block, a batch, and depths to go through."""

    solver: str = "euler"
    width: int = 32
    hidden: int = 64
    batch: int = 128
    steps: tuple[int, ...] = (8, 16, 32, 64, 128, 256)


def gradient(net: ResidualODE, a: Tensor) -> tuple[Tensor, int]:
    """Return the gradient of |net(a)|^2 for all weights, and the most bytes kept for it."""
    net.zero_grad()
    with SavedBytes(net.parameters()) as saved:
        net(a).square().sum().backward()
    return torch.cat([p.grad.flatten() for p in net.parameters()]), saved.peak


def _run_adjoint(trial: AdjointTrial, device: torch.device) -> dict[str, Any]:
    options = {"weights": "shared", "solver": trial.solver, "seed": trial.seed}
    net = ResidualODE(trial.width, trial.hidden, horizon=4.0, **options).to(device)
    generator = torch.Generator().manual_seed(trial.seed)
    a = torch.randn(trial.batch, trial.width, generator=generator).to(device)
    metrics: dict[str, list[float]] = {"bytes, steps": [], "bytes, adjoint": [], "difference": []}
    for net.steps in trial.steps:
        net.adjoint = False
        exact, kept = gradient(net, a)
        metrics["bytes, steps"].append(kept)
        net.adjoint = True
        other, kept = gradient(net, a)
        metrics["bytes, adjoint"].append(kept)
        metrics["difference"].append(((other - exact).norm() / exact.norm()).item())
    return metrics


def _trials(profile: str, seeds: Sequence[int]) -> list[AdjointTrial]:
    options = {"steps": (8, 16, 32, 64)} if profile == "fast" else {}
    return [AdjointTrial(seed=s, solver=solver, **options) for s in seeds for solver in SOLVERS]


SOLVERS = ("euler", "rk4")


def slopes(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return the power of the number of steps with which memory grows."""
    readings: dict[str, list[float]] = {}
    for record in records:
        for kind in ("steps", "adjoint"):
            values = readings.setdefault(f"{record.config.solver}, gradient of the {kind}", [])
            values.append(slope(record.config.steps, record.metrics[f"bytes, {kind}"]))
    return readings


EXPERIMENTS = [
    Experiment(
        name="residual-adjoint",
        summary="memory of the gradient against the number of steps",
        trial=AdjointTrial,
        trials=_trials,
        run=_run_adjoint,
        seeds={"fast": range(1), "full": range(5)},
        tolerance=1e-3,
    ),
]
