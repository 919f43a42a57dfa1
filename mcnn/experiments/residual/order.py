"""Error of each solver against its number of steps, on random right-hand sides."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.residual import ResidualODE
from mcnn.stats import slope

SOLVERS = ("euler", "midpoint", "rk4")


@dataclass(frozen=True, kw_only=True)
class OrderTrial(Trial):
    """A random right-hand side, many starts, and the step counts to try.

    ``"tanh"`` is smooth and has a closed solution; ``"relu"`` is compared with RK4 at
    ``reference`` steps.
    Step counts are powers of two: they are multiples of 8 layers, and never of 7.
    """

    activation: str = "tanh"
    weights: str = "shared"
    layers: int = 8
    width: int = 8
    hidden: int = 32
    horizon: float = 4.0
    starts: int = 256
    steps: tuple[int, ...] = (16, 32, 64, 128, 256)
    reference: int = 4096


def _smooth(trial: OrderTrial, a: Tensor) -> tuple[ResidualODE, Tensor]:
    """Return a' = Q diag(c) tanh(Q^T a) with Q orthogonal, and its solution.

    In the basis Q each component follows y' = c tanh y, so that sinh y grows like exp(c t).
    """
    n, generator = trial.width, torch.Generator().manual_seed(trial.seed)
    q = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=generator)).Q.to(a)
    c = (2 * torch.rand(n, dtype=torch.float64, generator=generator) - 1).to(a)
    net = ResidualODE(
        n, n, weights="shared", horizon=trial.horizon, bias=False, activation=torch.tanh, seed=0
    )
    net = net.to(a)
    with torch.no_grad():
        net.field.inner.weight.knots[0].copy_(q.T)
        net.field.outer.knots[0].copy_(q * c)
    return net, torch.asinh(torch.exp(c * trial.horizon) * torch.sinh(a @ q)) @ q.T


def _kinked(trial: OrderTrial, a: Tensor) -> tuple[ResidualODE, Tensor]:
    """Return a random network with ReLU, and its state after very many steps."""
    net = ResidualODE(
        trial.width,
        trial.hidden,
        weights=trial.weights,
        layers=trial.layers,
        horizon=trial.horizon,
        seed=trial.seed,
    ).to(a)
    # Whole steps in every layer, and between any two knots.
    net.solver, net.steps = "rk4", -(-trial.reference // net.schedule.span) * net.schedule.span
    return net, net(a)


@torch.no_grad()
def _run_order(trial: OrderTrial, device: torch.device) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(~trial.seed & 0xFFFF)  # not that of the weights
    a = torch.randn(trial.starts, trial.width, dtype=torch.float64, generator=generator).to(device)
    net, exact = (_smooth if trial.activation == "tanh" else _kinked)(trial, a)
    errors: dict[str, list[float]] = {}
    for net.solver in SOLVERS:
        errors[net.solver] = []
        for net.steps in trial.steps:
            errors[net.solver].append((net(a) - exact).square().mean().sqrt().item())
    return {"rms": exact.square().mean().sqrt().item(), "errors": errors}


CASES = (
    {"activation": "tanh"},
    {"activation": "relu"},
    {"activation": "relu", "weights": "interpolated", "layers": 9},
    {"activation": "relu", "weights": "layers", "layers": 8},
    {"activation": "relu", "weights": "layers", "layers": 7},
)


def case(trial: OrderTrial) -> str:
    """Describe the right-hand side of a trial."""
    if trial.activation == "tanh":
        return "tanh, known solution"
    if trial.weights != "layers":
        return f"ReLU, {trial.weights} weights"
    return f"ReLU, {trial.layers} layers, steps {'inside' if trial.layers == 8 else 'across'} them"


def _order_trials(profile: str, seeds: Sequence[int]) -> list[OrderTrial]:
    fast = {"starts": 64, "steps": (16, 32, 64, 128), "reference": 1024}
    options = fast if profile == "fast" else {}
    return [OrderTrial(seed=seed, **c, **options) for seed in seeds for c in CASES]


def measure(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return the order of every solver on every right-hand side."""
    readings: dict[str, list[float]] = {}
    for record in records:
        for solver, errors in record.metrics["errors"].items():
            name = f"{case(record.config)}: {solver}"
            readings.setdefault(name, []).append(-slope(record.config.steps, errors))
    return readings


EXPERIMENTS = [
    Experiment(
        name="residual-order",
        summary="order of convergence on smooth and on ReLU right-hand sides",
        trial=OrderTrial,
        trials=_order_trials,
        run=_run_order,
        seeds={"fast": range(2), "full": range(10)},
        measures={"residual-euler": measure},
        tolerance=1e-9,
    ),
]
