"""Training with one solver, testing with all of them: what the experiments on data share."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from mcnn.ledger.experiment import Trial
from mcnn.ledger.records import Record
from mcnn.residual import ResidualODE

STEPS = 8  # of every training with a fixed step, and the number of layers
DRAWN = (4, 16)  # steps drawn at random, both ends included
TRAININGS = ("euler", "rk4", "dopri5", "random")
WEIGHTS = ("layers", "shared", "interpolated")
TESTED = {
    "euler": (1, 2, 4, 8, 16, 32, 64, 128),
    "midpoint": (1, 2, 4, 8, 16, 32),
    "rk4": (1, 2, 4, 8, 16, 32),
    "dopri5": (STEPS,),
}
SEEDS = {"fast": range(2), "full": range(5)}


@dataclass(frozen=True, kw_only=True)
class ExchangeTrial(Trial):
    """A classifier, the solver it is trained with, and how its weights depend on time.

    ``training`` is a solver, or ``"random"``: Euler's method whose number of steps is drawn anew
    for every batch.
    """

    training: str = "euler"
    weights: str = "layers"
    width: int = 32
    hidden: int = 64
    horizon: float = 1.0
    epochs: int = 2
    batch_size: int = 128
    lr: float = 2e-3


def classifier(trial: ExchangeTrial, inputs: int, classes: int, **options: Any) -> nn.Sequential:
    """Return a linear map into the state, the equation, and a linear map out of it."""
    solver = "euler" if trial.training == "random" else trial.training
    options = {"solver": solver, "weights": trial.weights, "horizon": trial.horizon} | options
    options = {"width": trial.width, "hidden": trial.hidden, "steps": STEPS, **options}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(trial.seed)  # nn.Linear has no generator of its own
        return nn.Sequential(
            nn.Linear(inputs, trial.width),
            ResidualODE(**options, tolerance=1e-4, seed=trial.seed),
            nn.Linear(trial.width, classes),
        )


def fit(model: nn.Sequential, x: Tensor, y: Tensor, trial: ExchangeTrial) -> list[float]:
    """Train by Adam, its rate falling along a cosine; return the mean loss of each epoch.

    Parameters
    ----------
    model
        From :func:`classifier`.
    x, y
        Inputs [n, ...] and classes [n].
    trial
        Says how.
    """
    # A loop of its own: the spirals are points and no images, and numbers of steps are drawn
    # between two batches, from the generator of the order.
    generator = torch.Generator().manual_seed(trial.seed)
    optimizer = torch.optim.Adam(model.parameters(), trial.lr, foreach=True)
    total = trial.epochs * math.ceil(len(x) / trial.batch_size)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
    losses = []
    for _ in tqdm(range(trial.epochs), desc=trial.training, leave=False, disable=None):
        order = torch.randperm(len(x), generator=generator).to(x.device)
        sum_of_losses = torch.zeros((), device=x.device)
        for index in order.split(trial.batch_size):
            if trial.training == "random":
                low, high = DRAWN
                model[1].steps = int(torch.randint(low, high + 1, (), generator=generator))
            loss = nn.functional.cross_entropy(model(x[index]), y[index])  # of logits [b, classes]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            sum_of_losses += loss.detach() * len(index)
        losses.append(sum_of_losses.item() / len(x))
    model[1].steps = STEPS
    return losses


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return the fraction of inputs [n, ...] that are classified as y [n]."""
    classes = [model(part).argmax(1) for part in x.split(1000)]
    return (torch.cat(classes) == y).double().mean().item()


def exchange(model: nn.Sequential, x: Tensor, y: Tensor) -> dict[str, list[float]]:
    """Return the accuracy with every solver of :data:`TESTED`, for each of its step counts."""
    block: ResidualODE = model[1]
    kept = block.solver, block.steps
    accuracies = {}
    for block.solver, counts in TESTED.items():
        accuracies[block.solver] = []
        for block.steps in counts:
            accuracies[block.solver].append(accuracy(model, x, y))
    block.solver, block.steps = kept
    return accuracies


@torch.no_grad()
def gap(model: nn.Sequential, x: Tensor) -> float:
    """Return how far the last state is from that of the equation, relative to its size."""
    block: ResidualODE = model[1]
    a = model[0](x[:1000])  # [1000, width]
    kept = block.solver, block.steps
    solved = block(a)
    block.solver, block.steps = "rk4", 32 * STEPS
    exact = block(a)
    block.solver, block.steps = kept
    return ((solved - exact).norm() / exact.norm()).item()


def train_and_exchange(
    trial: ExchangeTrial, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]
) -> dict[str, Any]:
    """Train on inputs [n, inputs] and classes [n], and test with every solver."""
    classes = int(train[1].max()) + 1
    model = classifier(trial, train[0].shape[1], classes).to(train[0].device)
    losses = fit(model, *train, trial)
    return {
        "losses": losses,
        "accuracy": accuracy(model, *test),  # with the solver it was trained with
        "exchanged": exchange(model, *test),
        "gap": gap(model, test[0]),
    }


def name_of(trial: ExchangeTrial) -> str:
    """Describe what a classifier was trained with."""
    kinds = {
        "euler": f"Euler, {STEPS} steps",
        "rk4": f"RK4, {STEPS} steps",
        "dopri5": "Dormand-Prince",
        "random": f"Euler, {DRAWN[0]} to {DRAWN[1]} steps",
    }
    return f"{trial.weights} weights, {kinds[trial.training]}"


def measure(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return accuracy after the exchange minus accuracy before it, for every training.

    It is the worst of all solvers with at least as many steps as there are layers.
    """
    readings: dict[str, list[float]] = {}
    for record in records:
        worst = min(
            value
            for solver, counts in TESTED.items()
            for steps, value in zip(counts, record.metrics["exchanged"][solver], strict=True)
            if steps >= STEPS
        )
        values = readings.setdefault(f"{name_of(record.config)}: worst", [])
        values.append(worst - record.metrics["accuracy"])
    return readings
