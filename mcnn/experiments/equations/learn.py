"""A kernel learned from sources and solutions, through the solver.

The truth is light in a rod with a ReLU, so that sources may have either sign; its solutions come
from a fine grid of cells, over which the true kernel is integrated exactly.
A series of cosines is learned on few nodes, and used on others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mcnn.equations import Hammerstein, NeuralIntegralEquation, fixed_point
from mcnn.integral.kernels import Fourier, cosines
from mcnn.integral.transport import Rod
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.sampling import fold_in

NODES = {
    "gauss": ("gauss", False),
    "jittered, new": ("jittered", True),
    "jittered, same": ("jittered", False),
}
USED = (32, 64, 128, 256, 512)  # nodes that a learned kernel is used at
_CELLS = 512
_WAVES = 8  # of a source


@dataclass(frozen=True, kw_only=True)
class LearnTrial(Trial):
    """One training: ``through`` is ``"solver"``, or ``"equation"``, which needs none."""

    nodes: str = "gauss"
    n: int = 64
    noise: float = 0.0
    through: str = "solver"
    pairs: int = 64
    frequencies: int = 12
    steps: int = 300
    lr: float = 0.02


class Pairs:
    """Random sources with their solutions, at any places.

    Parameters
    ----------
    count
        How many.
    seed
        Draws the coefficients of the sources.
    """

    def __init__(self, count: int, seed: int, rod: Rod) -> None:
        generator = torch.Generator().manual_seed(seed)
        fall = torch.ones(_WAVES)
        self.rod = rod
        self.coefficients = torch.randn(count, _WAVES, generator=generator).double() * fall
        centres = (torch.arange(_CELLS, dtype=torch.float64) + 0.5).unsqueeze(1) / _CELLS
        k, f = rod.cells(centres[:, 0], _CELLS).T, self.source(centres)
        self.solved, _ = fixed_point(lambda a: f + a.relu() @ k, f, tol=1e-10, steps=400)

    def source(self, x: Tensor) -> Tensor:
        """Return f at [n, 1], as [count, n]."""
        return self.coefficients @ cosines(x, _WAVES).T

    def solution(self, x: Tensor) -> Tensor:
        """Return a at [n, 1], as [count, n]: the equation, applied once more."""
        return self.source(x) + self.solved.relu() @ self.rod.cells(x[:, 0], _CELLS).T

    def at(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return sources and solutions at [n, 1]."""
        return self.source(x), self.solution(x)


def network(trial: LearnTrial) -> NeuralIntegralEquation:
    """Return the equation whose kernel is to be learned, a contraction at first."""
    generator = torch.Generator().manual_seed(trial.seed)
    kernel = Fourier(1, 1, trial.frequencies, generator).double()
    with torch.no_grad():
        kernel.weight.mul_(0.01)
    kind, _ = NODES[trial.nodes]
    return NeuralIntegralEquation(
        Hammerstein(kernel, bound=0.9), points=kind, n=trial.n, seed=trial.seed, tol=1e-5
    )


def relative(found: Tensor, exact: Tensor) -> Tensor:
    """Return the mean over functions of the relative L² error."""
    return ((found - exact).norm(dim=1) / exact.norm(dim=1)).mean()


def train(model: NeuralIntegralEquation, pairs: Pairs, trial: LearnTrial) -> list[float]:
    """Learn in place; return the loss of every step."""
    kind, redrawn = NODES[trial.nodes]
    generator = torch.Generator().manual_seed(fold_in(trial.seed, 1))
    optimizer = torch.optim.Adam(model.parameters(), trial.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, trial.steps)
    losses, data = [], None
    for step in range(trial.steps):
        if redrawn:
            model.draw(trial.n, kind, fold_in(trial.seed, 2 + step))
        if redrawn or data is None:
            source, solution = pairs.at(model.x)
            seen = solution + trial.noise * solution.std() * torch.randn(
                solution.shape, dtype=solution.dtype, generator=generator
            )
            data = source, seen
        source, seen = data
        if trial.through == "solver":
            found = model(source)
        else:  # what was seen, put into the right-hand side
            found = source + model.operator.sample(model.x, model.weights, model.x)(seen)
        loss = F.mse_loss(found, seen) / seen.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def run(trial: LearnTrial, device: torch.device) -> dict:
    """Return the error of solutions for held-out sources, at several numbers of nodes."""
    rod = Rod(albedo=0.8, free_path=0.2)
    with torch.enable_grad():
        model = network(trial)
        losses = train(model, Pairs(trial.pairs, fold_in(trial.seed, 0), rod), trial)
    held = Pairs(128, fold_in(trial.seed, 3), rod)
    kind, _ = NODES[trial.nodes]
    errors = {}
    for n in USED:
        model.draw(n, kind, fold_in(trial.seed, 4))
        source, solution = held.at(model.x)
        errors[str(n)] = float(relative(model(source), solution))
    return {
        "loss": losses[:: max(1, trial.steps // 50)],
        "held out": errors,
        "unanswered": float(relative(source, solution)),  # of the source for a solution
        "gain": model.gain(),
    }


def trials(profile: str, seeds: Sequence[int]) -> list[LearnTrial]:
    """List kinds of nodes without noise; with noise, learning through the solver and without it."""
    small = {} if profile == "full" else {"steps": 150, "lr": 0.05}
    cases = [{"nodes": name} for name in NODES]
    cases += [
        {"noise": noise, "through": through}
        for noise in (0.0, 0.5)
        for through in ("solver", "equation")
        if noise or through == "equation"
    ]
    if profile == "fast":
        cases = [case for case in cases if "new" not in str(case)]
    return [LearnTrial(**case, seed=seed, **small) for case in cases for seed in seeds]


def measure_error(records: Sequence[Record]) -> Mapping[str, Sequence[float]]:
    """Return the error on held-out sources of kernels learned without noise, at 64 nodes."""
    readings: dict[str, list[float]] = {}
    for r in records:
        if r.config.noise == 0 and r.config.through == "solver":
            readings.setdefault(r.config.nodes, []).append(r.metrics["held out"]["64"])
    return readings


def measure_nodes(records: Sequence[Record]) -> Mapping[str, Sequence[float]]:
    """Return the error at 256 nodes over that at 64, where the kernel was learned at 64."""
    readings: dict[str, list[float]] = {}
    for r in records:
        if r.config.noise == 0 and r.config.through == "solver":
            held = r.metrics["held out"]
            readings.setdefault(r.config.nodes, []).append(held["256"] / held["64"])
    return readings


def measure_noise(records: Sequence[Record]) -> Mapping[str, Sequence[float]]:
    """Return the error through the solver over that without it, for every level of noise."""
    found = {
        (r.config.noise, r.config.through, r.config.seed): r.metrics["held out"]["64"]
        for r in records
        if r.config.nodes == "gauss"
    }
    readings: dict[str, list[float]] = {}
    for (noise, through, seed), error in sorted(found.items()):
        if through == "solver":
            ratio = error / found[noise, "equation", seed]
            readings.setdefault(f"noise {noise:g}: solver over equation", []).append(ratio)
    return readings


EXPERIMENT = Experiment(
    name="equations-learn",
    summary="a kernel learned from sources and solutions, through the solver or without it",
    trial=LearnTrial,
    trials=trials,
    run=run,
    seeds={"fast": range(1), "full": range(15)},
    measures={
        "equations-learn": measure_error,
        "equations-nodes": measure_nodes,
        "equations-noise": measure_noise,
    },
    tolerance=1e-3,
)
