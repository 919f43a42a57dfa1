"""Trees and shallow networks that are built by least squares: error against weights.

No training is in it, so what is measured is the network and not the search for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from mcnn.approximation.fitted import fit
from mcnn.approximation.targets import Compositional
from mcnn.approximation.tree import TreeNet, shallow_like
from mcnn.experiments.approximation.common import NETS, slopes
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.sampling import fold_in

DIMENSIONS = (2, 4, 8, 16)


@dataclass(frozen=True, kw_only=True)
class BuiltTrial(Trial):
    """One function; ``widths`` are the hidden units of each node of the tree."""

    dimension: int = 8
    widths: tuple[int, ...] = (8, 16, 32, 64, 128)
    examples: int = 1 << 13
    repetitions: int = 4


@torch.no_grad()
def run(trial: BuiltTrial, device: torch.device) -> dict[str, Any]:
    """Return weights and errors of both networks for every width.

    Errors are root mean squares over the function's standard deviation and over repetitions.
    """
    d = trial.dimension
    f = Compositional(d, fold_in(trial.seed, 0))
    generator = torch.Generator().manual_seed(fold_in(trial.seed, 1))
    x, z = torch.randn(2, trial.examples, d, generator=generator, dtype=torch.float64)
    stages, exact = f.stages(x), f(z)
    metrics: dict[str, Any] = {name: {"weights": [], "error": []} for name in NETS}
    for width in trial.widths:
        squares = dict.fromkeys(NETS, 0.0)
        options = {"seed": 0, "kernel": "dense", "dtype": torch.float64}
        tree = TreeNet(d, width, **options)
        nets = {"tree": tree, "shallow": shallow_like(tree, **options)}
        given = {"tree": stages, "shallow": [stages[0], stages[-1]]}
        for name, net in nets.items():
            for r in range(trial.repetitions):
                fit(net, given[name], fold_in(trial.seed, r + 2))
                squares[name] += float((net(z) - exact).square().mean() / exact.var())
            metrics[name]["weights"].append(net.n_weights)
            metrics[name]["error"].append((squares[name] / trial.repetitions) ** 0.5)
    return metrics


def trials(profile: str, seeds: Sequence[int]) -> list[BuiltTrial]:
    """List functions of two, four, eight and sixteen variables."""
    few: dict[str, Any] = {"widths": (8, 16, 32), "examples": 1 << 11, "repetitions": 2}
    options = {} if profile == "full" else few
    return [BuiltTrial(dimension=d, seed=seed, **options) for d in DIMENSIONS for seed in seeds]


def measure(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return slopes of errors against weights, and by how much more variables flatten them."""
    return slopes(sorted(records, key=lambda r: r.config.seed), DIMENSIONS)


_FIRST = Experiment(
    name="approximation-built",
    summary="trees and shallow networks built by least squares, in 2 to 16 dimensions",
    trial=BuiltTrial,
    trials=trials,
    run=run,
    seeds={"fast": range(1), "full": range(5)},
    measures={"approximation-exponent": measure},
    tolerance=1e-4,  # least squares of nearly dependent units
)

EXPERIMENTS = [
    _FIRST,
    # A second run, with fresh seeds, of what the first left open; the claim pools them.
    replace(
        _FIRST,
        name="approximation-built-again",
        summary="trees and shallow networks built by least squares, with fresh seeds",
        seeds={"fast": range(1), "full": range(10, 20)},
    ),
]
