"""How much the gradient scatters: its mean over P consecutive masks at a fixed model and batch."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcnn import data, training
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.partition.layer import DropoutPartition
from mcnn.training import nets

KINDS = ("partition", "shared", "dropout", "partition, examples in turn")


@dataclass(frozen=True, kw_only=True)
class VarianceTrial(Trial):
    """LeNet-5 trained a little without masks, and the means over P masks that are drawn."""

    dataset: str = "cifar10"
    epochs: int = 1
    batch_size: int = 128
    parts: tuple[int, ...] = tuple(range(2, 10))
    means: int = 64


class Dropout(nn.Module):
    """Dropout from an own generator, with one mask for all examples of a batch or one for each.

    ``numbers_drawn`` counts the random numbers.
    """

    def __init__(self, rate: float, shared: bool, seed: int) -> None:
        super().__init__()
        self.rate, self.shared, self.numbers_drawn = rate, shared, 0
        self.generator = torch.Generator().manual_seed(seed)

    def forward(self, x: Tensor) -> Tensor:
        """Return x [b, n] without some units, the others scaled."""
        keep = torch.empty(1 if self.shared else len(x), x.shape[1])
        keep.bernoulli_(1 - self.rate, generator=self.generator)
        self.numbers_drawn += keep.numel()
        return x * (keep / (1 - self.rate)).to(x)


def dropping(kind: str, parts: int, seed: int) -> list[nn.Module]:
    """Return the two layers that drop units in one of the :data:`KINDS`."""
    if kind in ("shared", "dropout"):
        return [Dropout(1 / parts, kind == "shared", seed + i) for i in range(2)]
    return [DropoutPartition(parts, per_sample=kind != "partition", seed=seed + i) for i in (0, 1)]


def mean_gradients(
    model: nn.Sequential, x: Tensor, y: Tensor, layers: Sequence[nn.Module], steps: int
) -> Callable[[], Tensor]:
    """Return a function that takes some steps and returns the mean of their gradients, flat [n].

    Parameters
    ----------
    model
        A LeNet or a perceptron of :mod:`mcnn.training.nets`, without masks.
    x, y
        The batch, [b, c, h, w] and [b].
    layers
        One to drop units after each hidden fully connected layer.
    steps
        Masks to average over.
    """
    body = list(model)
    split = next(i for i, m in enumerate(body) if isinstance(m, nn.Flatten)) + 1
    features, head = nn.Sequential(*body[:split]), body[split:]
    hidden = [i for i, m in enumerate(head) if isinstance(m, nn.ReLU)]
    for i, layer in reversed(list(zip(hidden, layers, strict=True))):
        head.insert(i + 1, layer)
    masked = nn.Sequential(*head).train()
    before, after = list(features.parameters()), list(masked.parameters())

    def draw() -> Tensor:
        a = features(x)  # [b, n]: the layers before the first mask run once for all masks
        h = a.detach().requires_grad_(bool(before))
        loss = sum(F.cross_entropy(masked(h), y) for _ in range(steps)) / steps
        gradients = torch.autograd.grad(loss, [*after, *([h] if before else [])])
        inner = torch.autograd.grad(a, before, gradients[-1]) if before else ()
        return torch.cat([g.flatten() for g in (*inner, *gradients[: len(after)])])

    return draw


def trace(draw: Callable[[], Tensor], means: int) -> tuple[float, float]:
    """Return the trace of the covariance of a random vector, and the squared length of its mean."""
    total = squares = torch.zeros((), dtype=torch.float64)
    for _ in range(means):
        g = draw().double()
        total, squares = total + g, squares + g.square().sum()
    mean = total / means
    spread = float(squares - means * mean.square().sum()) / (means - 1)
    return spread, float(mean.square().sum())


def _run(trial: VarianceTrial, device: torch.device) -> dict[str, Any]:
    dataset = data.load(trial.dataset, device=device)
    model = nets.build("lenet5", seed=trial.seed, shape=dataset.shape).to(device)
    options = {"lr": 0.01, "schedule": "constant", "scale": "standard"}
    training.fit(model, dataset, epochs=trial.epochs, seed=trial.seed, **options)
    generator = torch.Generator().manual_seed(trial.seed)
    x, y = next(dataset.train.batches(trial.batch_size, generator, scale="standard"))
    metrics: dict[str, Any] = {"cycle": {}, "step": {}, "mean": {}}
    for kind in KINDS:
        cycle, step = [], []
        for parts in trial.parts:
            seeds = count(4096 * (trial.seed * 16 + parts), 2)
            layers = dropping(kind, parts, next(seeds))
            cycle.append(trace(mean_gradients(model, x, y, layers, parts), trial.means))
            # A first step each, for the steps of a cycle depend on each other.
            first = (mean_gradients(model, x, y, dropping(kind, parts, s), 1)() for s in seeds)
            step.append(trace(partial(next, first), trial.means))
        metrics["cycle"][kind] = [spread for spread, _ in cycle]
        metrics["step"][kind] = [spread for spread, _ in step]
        metrics["mean"][kind] = [length for _, length in cycle]
    return metrics


def _trials(profile: str, seeds: Sequence[int]) -> list[VarianceTrial]:
    if profile == "full":
        return [VarianceTrial(seed=seed) for seed in seeds]
    fast = {"dataset": "digits", "epochs": 10, "parts": (2, 3, 9), "means": 16}
    return [VarianceTrial(seed=seed, **fast) for seed in seeds]


def _measure(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return logarithms of traces of the other kinds over those of partitions, one a seed."""
    readings: dict[str, list[float]] = {}
    about = {"shared": "shared masks", "dropout": "masks for each example"}
    for kind, name in about.items():
        for record in records:
            ours, theirs = record.metrics["cycle"]["partition"], record.metrics["cycle"][kind]
            for parts, a, b in zip(record.config.parts, ours, theirs, strict=True):
                readings.setdefault(f"P = {parts}, {name}", []).append(math.log(b / a))
    return readings


EXPERIMENTS = [
    Experiment(
        name="partition-variance",
        summary="covariance of the gradient averaged over P consecutive masks",
        trial=VarianceTrial,
        trials=_trials,
        run=_run,
        seeds={"fast": range(1), "full": range(5)},
        measures={"partition-variance": _measure},
        tolerance=1e-4,
    ),
]
