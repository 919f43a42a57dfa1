"""Gradients through stochastic units against the exact one, in a net whose states can be listed.

A network with few binary units learns from the exact gradient for a while.
There, for a fixed batch, means and variances of all estimates are sums over all states: nothing of
the biases is left to chance.
Errors of estimates that are really drawn stand beside them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mcnn import data, gates
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.randomness.binarise import draws
from mcnn.randomness.source import substream
from mcnn.stats import slope

ESTIMATORS = ("score function", *gates.UNITS)

Loss = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class GradientTrial(Trial):
    """A network with ``units`` binary units, and what is estimated of it."""

    dataset: str = "mnist"
    units: int = 4
    batch_size: int = 8
    steps: int = 300
    lr: float = 0.5
    nodes: int = 16
    samples: tuple[int, ...] = (1, 4, 16, 64, 256)
    repeats: int = 48
    scales: tuple[float, ...] = (0.25, 0.125, 0.0625, 0.03125)


class UnitNet(nn.Module):
    """Pixels, stochastic units, classes."""

    def __init__(self, pixels: int, units: int, classes: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.first = nn.Linear(pixels, units)
            self.last = nn.Linear(units, classes)

    def losses(self, y: Tensor, scale: float = 1.0) -> Loss:
        """Return the cross entropy [..., b] as a function of the units' values [..., b, k]."""

        def loss(h: Tensor) -> Tensor:
            logits = self.last(scale * h)  # [..., b, classes]
            right = logits.gather(-1, y.expand(h.shape[:-1]).unsqueeze(-1)).squeeze(-1)
            return torch.logsumexp(logits, -1) - right

        return loss


def run(trial: GradientTrial, device: torch.device) -> dict[str, Any]:
    """Return variances of baselines, biases and variances of estimators, relative to the exact."""
    dataset = data.load(trial.dataset, device=device)
    pixels = dataset.train.images[0].numel()
    net = UnitNet(pixels, trial.units, len(dataset.classes), trial.seed).to(device)
    _learn(net, dataset.train, trial)
    net = net.double()
    generator = torch.Generator().manual_seed(trial.seed)
    x, y = next(dataset.test.batches(trial.batch_size, generator))
    x = x.flatten(1).double()
    a = net.first(x).detach()  # [b, k]
    return {
        "baselines": _baselines(a, x, net.losses(y)),
        "estimators": _estimators(a, x, net.losses(y), trial),
        "gap": _gaps(a, net, y, trial),
    }


def _learn(net: UnitNet, split: data.Split, trial: GradientTrial) -> None:
    """Train by the exact gradient of the expected loss of binary units."""
    optimizer = torch.optim.SGD(net.parameters(), trial.lr)
    generator = torch.Generator().manual_seed(trial.seed)
    order = torch.randperm(len(split), generator=generator)
    for step in range(trial.steps):
        index = order[torch.arange(step * 64, (step + 1) * 64) % len(split)]
        x, y = split.inputs(index).flatten(1), split.labels[index]
        value = gates.expected_loss(net.first(x), net.losses(y))
        optimizer.zero_grad()
        value.mean().backward()
        optimizer.step()


def _length(by_a: Tensor, x: Tensor) -> float:
    """Return the squared length of the gradient by the weights, of [b, k] by pre-activations."""
    return float((by_a.T @ x / len(x)).square().sum())


def _spread(variance: Tensor, x: Tensor) -> float:
    """Return the trace of the covariance of that gradient: the examples draw independently."""
    return float((variance * x.square().sum(1, keepdim=True)).sum() / len(x) ** 2)


@torch.no_grad()
def _baselines(a: Tensor, x: Tensor, loss: Loss) -> dict[str, float]:
    """Return the variance of one draw for each baseline, exactly."""
    found = {
        name: _spread(gates.variance(a, loss, baseline), x)
        for name, baseline in gates.all_baselines(a, loss).items()
    }
    return found | {"local expectation": _spread(gates.local_variance(a, loss), x)}


def _gradient(value: Callable[[Tensor], Tensor], a: Tensor) -> Tensor:
    leaf = a.clone().requires_grad_()
    return torch.autograd.grad(value(leaf).sum(), leaf)[0]


def _estimators(a: Tensor, x: Tensor, loss: Loss, trial: GradientTrial) -> dict[str, Any]:
    """Return biases and variances of one draw, exactly, and errors of means of several draws.

    Everything squared, relative to the squared length of an exact gradient: that of the loss which
    the unit itself has on average ("own"), or that of binary units.
    """
    binary = _gradient(lambda v: gates.expected_loss(v, loss), a)
    found = {}
    for name in ESTIMATORS:
        if name == "score function":
            own = mean = binary
            best = gates.all_baselines(a, loss)["minimum variance"]
            variance = gates.variance(a, loss, best).detach()
        else:
            own = _gradient(lambda v, n=name: gates.expected_loss(v, loss, n, trial.nodes), a)
            mean, variance = gates.moments(a, loss, name, trial.nodes)
        inner = float(((mean.T @ x) * (binary.T @ x)).sum()) / len(x) ** 2
        found[name] = {
            "bias": _length(mean - own, x) / _length(own, x),
            "length": (_length(mean, x) / _length(own, x)) ** 0.5,
            "cosine": inner / (_length(mean, x) * _length(binary, x)) ** 0.5,
            "variance": _spread(variance, x) / _length(own, x),
            "error": [_error(name, s, a, x, loss, own, trial) for s in trial.samples],
        }
    return found


def _error(
    name: str, samples: int, a: Tensor, x: Tensor, loss: Loss, own: Tensor, trial: GradientTrial
) -> float:
    """Return the root mean square error of the mean of S draws, relative to the exact gradient."""
    b, k = a.shape
    xi = draws(samples, k, "random", substream(trial.seed, samples), trial.repeats * b)
    xi = xi.to(a.device).view(samples, trial.repeats, b, k)
    many = a.expand(trial.repeats, b, k).clone().requires_grad_()
    if name == "score function":
        best = gates.all_baselines(a, loss)["minimum variance"].detach()
        value = gates.score_function(many, xi, loss, best)
    else:
        value = loss(gates.sample(many, xi, name)).mean(0)
    (by_a,) = torch.autograd.grad(value.sum(), many)  # [repeats, b, k]
    errors = torch.einsum("rbk,bp->rkp", by_a - own, x) / b
    return float(errors.square().sum((1, 2)).mean() / _length(own, x)) ** 0.5


@torch.no_grad()
def _gaps(a: Tensor, net: UnitNet, y: Tensor, trial: GradientTrial) -> dict[str, list[float]]:
    """Return the mean distance from the expected loss of binary units, weights scaled down.

    The smaller the weights out of the units, the straighter the loss that they see.
    """
    found: dict[str, list[float]] = {name: [] for name in gates.UNITS[1:]}
    for scale in trial.scales:
        loss = net.losses(y, scale)
        binary = gates.expected_loss(a, loss)
        for name, values in found.items():
            other = gates.expected_loss(a, loss, name, trial.nodes)
            values.append(float((other - binary).abs().mean()))
    return found


def trials(profile: str, seeds: Sequence[int]) -> list[GradientTrial]:
    """List a trial for each seed."""
    fast = {"dataset": "digits", "steps": 150, "nodes": 8, "samples": (1, 4, 16), "repeats": 16}
    return [GradientTrial(seed=seed, **({} if profile == "full" else fast)) for seed in seeds]


def measure_baselines(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return variances over that with the best constant, at one draw and at equal evaluations."""
    found = [r.metrics["baselines"] for r in records]
    best = "minimum variance"
    readings = {
        f"variance, {name} over {best}": [f[name] / f[best] for f in found]
        for name in found[0]
        if name != best
    }
    readings["variance at equal evaluations, local expectation over " + best] = [
        f["local expectation"] / f[best] * (r.config.units + 1)
        for f, r in zip(found, records, strict=True)
    ]
    return readings


def measure_bias(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return squared biases, lengths, cosines and variances of the estimators."""
    found = [r.metrics["estimators"] for r in records]
    words = {
        "bias": "squared bias",
        "variance": "variance of one draw",
        "length": "length of the mean",
        "cosine": "cosine with the binary gradient",
    }
    readings = {
        f"{text}, {name}": [f[name][key] for f in found]
        for key, text in words.items()
        for name in ESTIMATORS
    }
    for name in gates.UNITS:
        readings[f"variance of one draw, {name} over score function"] = [
            f[name]["variance"] / f["score function"]["variance"] for f in found
        ]
    return readings


def measure_gap(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return the powers of the scale with which the distance of expected losses falls."""
    return {
        f"slope, {name}": [slope(r.config.scales, r.metrics["gap"][name]) for r in records]
        for name in gates.UNITS[1:]
    }


EXPERIMENTS = [
    Experiment(
        name="gates-gradient",
        summary="bias and variance of gradients through stochastic units, by all their states",
        trial=GradientTrial,
        trials=trials,
        run=run,
        seeds={"fast": range(2), "full": range(40)},
        measures={
            "gates-baseline": measure_baselines,
            "gates-baseline-local": measure_baselines,
            "gates-bias": measure_bias,
            "gates-half": measure_bias,
            "gates-first-order": measure_gap,
        },
        tolerance=1e-4,
    ),
]
