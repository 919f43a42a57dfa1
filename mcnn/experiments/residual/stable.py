"""The structures side by side: the same task, the same number of parameters."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mcnn.experiments.residual.common import (
    STEPS,
    ExchangeTrial,
    accuracy,
    classifier,
    fit,
    gap,
)
from mcnn.experiments.residual.mnist import flat
from mcnn.ledger.experiment import Experiment
from mcnn.ledger.records import Record
from mcnn.residual import ResidualODE

# With these, and without biases, every structure has 2 * width * 64 weights in a layer.
HIDDEN = {"free": 64, "parabolic": 128, "hamiltonian": 256, "second-order": 128}
_SOLVER = {"hamiltonian": "verlet", "second-order": "verlet"}


@dataclass(frozen=True, kw_only=True)
class StableTrial(ExchangeTrial):
    """A structure; with horizon 8 a step of one of the 8 layers is 1, as in a residual network."""

    dataset: str = "mnist"
    structure: str = "free"
    epochs: int = 1
    noise: float = 0.5
    probes: int = 16


def _run_stable(trial: StableTrial, device: torch.device) -> dict[str, Any]:
    train, (x, y) = flat(trial.dataset, device)
    options = {"structure": trial.structure, "hidden": HIDDEN[trial.structure], "bias": False}
    options["solver"] = _SOLVER.get(trial.structure, "euler")
    model = classifier(trial, x.shape[1], 10, **options).to(device)
    fit(model, *train, trial)
    generator = torch.Generator().manual_seed(trial.seed)
    noise = trial.noise * torch.randn(x.shape, generator=generator).to(device)
    block = copy.deepcopy(model[1]).double()
    with torch.no_grad():
        state = block.start(model[0](x[: trial.probes]).double())  # [probes, width or 2 width]
    return {
        "parameters": sum(p.numel() for p in model[1].parameters()),
        "accuracy": accuracy(model, x, y),
        "accuracy_noisy": accuracy(model, x + noise, y),
        "accuracy_resolved": resolved(model, x, y),
        "gap": gap(model, x),
        "flow": {name: flow(block, name, state) for name in {options["solver"], "euler", "rk4"}},
        "descent": descent(block, state) if trial.structure == "parabolic" else {},
    }


def resolved(model: nn.Sequential, x: Tensor, y: Tensor) -> float:
    """Return the accuracy with steps so small that the equation itself is tested."""
    model = copy.deepcopy(model)
    model[1].solver, model[1].steps = "rk4", 16 * STEPS
    return accuracy(model, x, y)


def flow(block: ResidualODE, solver: str, state: Tensor) -> dict[str, float]:
    """Measure the map of states [probes, n] that a solver makes, the worst over all probes."""
    block = copy.deepcopy(block)
    block.solver = solver
    jacobians = torch.stack(
        [torch.autograd.functional.jacobian(block.flow, a) for a in state]
    )  # [probes, n, n]
    stretch = torch.linalg.svdvals(jacobians)  # [probes, n]
    with torch.no_grad():
        back = block.flow(block.flow(state), reverse=True)
        distance = (back - state).norm(dim=-1) / state.norm(dim=-1)  # [probes]
    return {
        "largest_stretch": stretch.max().item(),
        "smallest_stretch": stretch.min().item(),
        "volume": torch.linalg.slogdet(jacobians).logabsdet.abs().max().item(),
        "way_back": distance.max().item(),
    }


@torch.no_grad()
def descent(block: ResidualODE, state: Tensor) -> dict[str, float]:
    """Count the steps of Euler's method in which a state grows, for several step sizes.

    Within the bound means the fewest steps, a whole number in each layer, that keep the bound.
    """
    block, bound = copy.deepcopy(block), block.euler_bound()
    per_layer = math.ceil(block.horizon / bound / STEPS)
    metrics = {"bound": bound, "trained_step": block.horizon / STEPS}
    for name, steps in (("trained", STEPS), ("within", per_layer * STEPS)):
        block.steps = steps
        norms = block.trajectory(state).norm(dim=-1)  # [steps + 1, probes]
        grows = norms[1:] > norms[:-1] * (1 + 1e-12)  # more than rounding
        metrics |= {f"{name}_steps": steps, f"{name}_grows": grows.double().mean().item()}
    return metrics


def _trials(profile: str, seeds: Sequence[int]) -> list[StableTrial]:
    options = {}
    if profile == "fast":
        options = {"dataset": "digits", "epochs": 10, "batch_size": 64}
    return [
        StableTrial(seed=seed, structure=structure, horizon=horizon, **options)
        for seed in seeds
        for horizon in ((1.0, 8.0) if profile == "full" else (8.0,))
        for structure in HIDDEN
    ]


def measure(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return what theory says is zero for each structure: one value for each training."""
    readings: dict[str, list[float]] = {}
    for record in records:
        trial, metrics = record.config, record.metrics
        if trial.structure == "parabolic":
            grows = metrics["descent"]["within_grows"]
            readings.setdefault("parabolic, Euler within its bound: steps that grow", []).append(
                grows
            )
        if trial.structure in _SOLVER:
            for what, name in (("volume", "log of volume"), ("way_back", "way back")):
                values = readings.setdefault(f"{trial.structure}, Verlet: {name}", [])
                values.append(metrics["flow"]["verlet"][what])
    return readings


EXPERIMENTS = [
    Experiment(
        name="residual-stable",
        summary="parabolic, Hamiltonian and second-order layers on the same task",
        trial=StableTrial,
        trials=_trials,
        run=_run_stable,
        seeds={"fast": range(1), "full": range(5)},
        measures={"residual-stable": measure},
        tolerance=0.02,
    ),
]
