"""Attention and the smallest integral equation: bias and variance against the number of nodes.

Both are quotients of two means over random nodes.
The bias is far smaller than the spread, so it is measured without its linear part, whose mean is
zero and known: what is left is as small as the bias itself.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mcnn.equations import rank_one, self_normalised
from mcnn.integral.nodes import nodes
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.stats import slope

KINDS = ("attention", "equation")
_DIMENSION = 2
_PLACES = 8  # queries of the attention, sources of the equation
_GAUSS = 64**_DIMENSION  # nodes of the exact integrals
_TILT = 3.0  # deviation of a score's gradient
_Q = 0.6  # of the equation; its u has unit mean square
_CHUNK = 2**20  # values of nodes at a time


@dataclass(frozen=True, kw_only=True)
class RatioTrial(Trial):
    """Random queries, values and sources; as many replicates for each number of nodes."""

    kind: str = "attention"
    sizes: tuple[int, ...] = (16, 32, 64, 128, 256, 512, 1024)
    replicates: int = 2_000


class _Attention:
    """Scores that are linear in x, values that are waves."""

    def __init__(self, generator: torch.Generator) -> None:
        self.query = _TILT * _normal(_PLACES, _DIMENSION, generator)
        self.wave = 3 * _normal(_DIMENSION, 1, generator)
        self.phase = 2 * math.pi * torch.rand(1, dtype=torch.float64, generator=generator)

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return numerators and denominators at nodes: [..., n, d] to [..., places, n] twice."""
        share = (x @ self.query.T).exp().transpose(-1, -2)
        return share * torch.cos(x @ self.wave + self.phase).transpose(-1, -2), share

    def estimate(self, x: Tensor) -> Tensor:
        """Return what attention makes of nodes, [..., n, d] to [..., places]."""
        scores = (x @ self.query.T).transpose(-1, -2)
        return self_normalised(scores, torch.cos(x @ self.wave + self.phase))[..., 0]


class _Equation:
    """One u of unit mean square, and sources that are waves."""

    def __init__(self, generator: torch.Generator) -> None:
        self.sources = 3 * _normal(_PLACES, _DIMENSION, generator)

    def values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        u = (2 * torch.cos(math.pi * x).square().prod(-1) * 8 / 9).sqrt().unsqueeze(-2)
        return torch.cos(x @ self.sources.T).transpose(-1, -2), u

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        f, u = self.values(x)
        return u * f, (1 - _Q * u.square()).expand_as(f)

    def estimate(self, x: Tensor) -> Tensor:
        f, u = self.values(x)
        return rank_one(f, u.expand_as(f), _Q)


def _normal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    return torch.randn(rows, columns, dtype=torch.float64, generator=generator)


def run(trial: RatioTrial, device: torch.device) -> dict:
    """Return bias and variance, root mean square or mean over places, at every size."""
    generator = torch.Generator().manual_seed(trial.seed)
    problem = {"attention": _Attention, "equation": _Equation}[trial.kind](generator)
    x, weights = nodes(_GAUSS, _DIMENSION, "gauss", dtype=torch.float64)
    above, below = (part @ weights for part in problem.parts(x))  # [places]
    exact = above / below
    bias, error, variance = [], [], []
    for n in trial.sizes:
        rest, square = [], torch.zeros(_PLACES, dtype=torch.float64)
        batch = max(1, _CHUNK // n)
        for first in range(0, trial.replicates, batch):
            some = min(batch, trial.replicates - first)
            x = torch.rand(some, n, _DIMENSION, dtype=torch.float64, generator=generator)
            off = problem.estimate(x) - exact  # [some, places]
            a, b = (part.mean(-1) for part in problem.parts(x))
            rest.append(off - (a - exact * b) / below)
            square += off.square().sum(0)
        left = torch.cat(rest)
        mean = left.mean(0)
        bias.append(float(mean.square().mean().sqrt()))
        error.append(float((left.var(0) / len(left)).mean().sqrt()))
        variance.append(float((square / trial.replicates - mean.square()).mean()))
    return {
        "bias": bias,
        "error of bias": error,
        "variance": variance,
        "slope of bias": slope(trial.sizes, bias),
        "slope of variance": slope(trial.sizes, variance),
    }


def trials(profile: str, seeds: Sequence[int]) -> list[RatioTrial]:
    """List both kinds for every seed."""
    small = {} if profile == "full" else {"sizes": (16, 64, 256), "replicates": 1_000}
    return [RatioTrial(kind=kind, seed=seed, **small) for kind in KINDS for seed in seeds]


def measure(records: Sequence[Record]) -> Mapping[str, Sequence[float]]:
    """Return the slopes, one value for each set of random functions."""
    readings: dict[str, list[float]] = {}
    for r in records:
        for what in ("bias", "variance"):
            name = f"{r.config.kind}: slope of {what}"
            readings.setdefault(name, []).append(r.metrics[f"slope of {what}"])
    return readings


EXPERIMENT = Experiment(
    name="equations-ratio",
    summary="bias and variance of attention and of a rank-one equation against nodes",
    trial=RatioTrial,
    trials=trials,
    run=run,
    seeds={"fast": range(1), "full": range(10)},
    measures={"equations-attention": measure, "equations-bias": measure},
    tolerance=1e-6,
)
