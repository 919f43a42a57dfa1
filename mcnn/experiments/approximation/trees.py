"""Trees against shallow networks of as many weights, on functions with the shape of a tree or not.

A trial is one random function of some dimension, as it is or in turned coordinates.
Both networks are trained on the same normal inputs, with the same recipe; the learning rate is
chosen for each on inputs that are held out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mcnn.approximation.targets import Compositional, Turned
from mcnn.approximation.tree import TreeNet, shallow_like
from mcnn.experiments.approximation.common import NETS, slopes
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.sampling import fold_in

DIMENSIONS = (2, 4, 8)


@dataclass(frozen=True, kw_only=True)
class TreeTrial(Trial):
    """One function; ``widths`` are the hidden units of each node of the tree."""

    dimension: int = 8
    turned: bool = False
    widths: tuple[int, ...] = (8, 16, 32)
    rates: tuple[float, ...] = (0.03, 0.06)
    steps: int = 3000
    batch: int = 256
    examples: int = 1 << 15
    held_out: int = 1 << 13


def run(trial: TreeTrial, device: torch.device) -> dict[str, Any]:
    """Return weights and errors of both networks for every width.

    Errors are root mean squares over the function's standard deviation; 1 is what a constant has.
    """
    f = Compositional(trial.dimension, fold_in(trial.seed, 0))
    target = Turned(f, fold_in(trial.seed, 1)) if trial.turned else f
    generator = torch.Generator().manual_seed(fold_in(trial.seed, 2))
    data = [
        _drawn(target, n, generator, device)
        for n in (trial.examples, trial.held_out, trial.held_out)
    ]
    metrics: dict[str, Any] = {name: {"weights": [], "error": [], "rate": []} for name in NETS}
    for width in trial.widths:
        for name in NETS:
            tried = []
            for rate in trial.rates:
                net = TreeNet(trial.dimension, width, seed=fold_in(trial.seed, 3), kernel="dense")
                if name == "shallow":
                    net = shallow_like(net, fold_in(trial.seed, 4), kernel="dense")
                _train(net.to(device), data[0], rate, trial)
                tried.append((_error(net, data[1]), _error(net, data[2]), rate, net.n_weights))
            _, error, rate, weights = min(tried)
            for key, value in (("weights", weights), ("error", error), ("rate", rate)):
                metrics[name][key].append(value)
    return metrics


def _drawn(
    f: Compositional | Turned, n: int, generator: torch.Generator, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return normal inputs [n, d] and the function's values [n, 1]."""
    x = torch.randn(n, f.inputs, generator=generator, dtype=torch.float64)
    return x.float().to(device), f(x).float().to(device)


def _train(net: TreeNet, data: tuple[Tensor, Tensor], rate: float, trial: TreeTrial) -> None:
    """Adam on random batches, its rate up over a tenth of the steps and down to nothing."""
    x, y = data
    generator = torch.Generator().manual_seed(fold_in(trial.seed, 5))
    optimizer = torch.optim.Adam(net.parameters(), rate, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, trial.steps, pct_start=0.1)
    for _ in range(trial.steps):
        chosen = torch.randint(len(x), (trial.batch,), generator=generator).to(x.device)
        loss = (net(x[chosen]) - y[chosen]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def _error(net: TreeNet, data: tuple[Tensor, Tensor]) -> float:
    x, y = data
    return float(((net(x) - y).square().mean() / y.var()).sqrt())


def trials(profile: str, seeds: Sequence[int]) -> list[TreeTrial]:
    """List functions of two, four and eight variables, and the control of eight."""
    if profile == "fast":
        few = {"widths": (8,), "rates": (0.06,), "steps": 400, "examples": 1 << 12}
        return [
            TreeTrial(turned=turned, seed=seed, **few) for turned in (False, True) for seed in seeds
        ]
    found = []
    for seed in seeds:
        found += [TreeTrial(dimension=d, seed=seed) for d in DIMENSIONS]
        found.append(TreeTrial(turned=True, widths=(32,), seed=seed))
    return found


def measure_error(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return the error of the tree minus that of the shallow network at the largest width."""
    readings: dict[str, list[float]] = {}
    for r in records:
        if r.config.dimension == DIMENSIONS[-1]:
            tree, shallow = (r.metrics[name]["error"][-1] for name in NETS)
            kind = "turned" if r.config.turned else "compositional"
            for name, value in (
                ("tree minus shallow", tree - shallow),
                ("tree", tree),
                ("shallow", shallow),
            ):
                readings.setdefault(f"{kind}, {name}", []).append(value)
    return readings


def measure_slope(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return slopes of errors against weights, and by how much more variables flatten them."""
    straight = [r for r in records if not r.config.turned]
    return slopes(sorted(straight, key=lambda r: r.config.seed), DIMENSIONS)


EXPERIMENT = Experiment(
    name="approximation-tree",
    summary="trees against shallow networks of as many weights, in two, four and eight dimensions",
    trial=TreeTrial,
    trials=trials,
    run=run,
    seeds={"fast": range(1), "full": range(5)},
    measures={
        "approximation-tree": measure_error,
        "approximation-control": measure_error,
        "approximation-trained": measure_slope,
    },
    tolerance=0.1,  # training is chaotic: another processor ends elsewhere
)
