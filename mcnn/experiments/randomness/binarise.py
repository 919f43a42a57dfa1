"""Bias and variance of two gradient estimators through binary units, against the exact gradient.

A network with few binary units learns from the exact gradient for a while.
There, for a fixed batch, the gradient by the weights of the units is estimated again and again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mcnn import data
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.randomness.binarise import (
    DRAWS,
    draws,
    expected_loss,
    score_function,
    straight_through,
)
from mcnn.randomness.source import substream
from mcnn.stats import slope

ESTIMATORS = ("straight-through", "score", "score, not centred")
BIAS = (*ESTIMATORS[:2], *(f"score, {source}" for source in DRAWS if source != "random"))


@dataclass(frozen=True, kw_only=True)
class BinariseTrial(Trial):
    """A network with ``units`` binary units, and what is estimated of it."""

    dataset: str = "mnist"
    units: int = 8
    batch_size: int = 8
    steps: int = 300
    lr: float = 0.5
    samples: tuple[int, ...] = (4, 16, 64, 256)
    repeats: int = 48
    blocks: int = 6


class BinaryNet(nn.Module):
    """Pixels, binary units, classes."""

    def __init__(self, pixels: int, units: int, classes: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.first = nn.Linear(pixels, units)
            self.last = nn.Linear(units, classes)

    def losses(self, y: Tensor) -> Callable[[Tensor], Tensor]:
        """Return the cross entropy [..., b] as a function of the states [..., b, k]."""

        def loss(h: Tensor) -> Tensor:
            logits = self.last(h)  # [..., b, classes]
            return torch.logsumexp(logits, -1) - logits.gather(
                -1, y.expand(h.shape[:-1]).unsqueeze(-1)
            ).squeeze(-1)

        return loss


def run(trial: BinariseTrial, device: torch.device) -> dict[str, Any]:
    """Return biases, variances and errors, relative to the exact gradient, and losses."""
    dataset = data.load(trial.dataset, device=device)
    pixels = dataset.train.images[0].numel()
    net = BinaryNet(pixels, trial.units, len(dataset.classes), trial.seed).to(device)
    curves = {"exact": _learn(net, dataset.train, trial, "exact")}
    for name in ESTIMATORS:
        other = BinaryNet(pixels, trial.units, len(dataset.classes), trial.seed).to(device)
        curves[name] = _learn(other, dataset.train, trial, name)
    net = net.double()
    generator = torch.Generator().manual_seed(trial.seed)
    x, y = next(dataset.test.batches(trial.batch_size, generator))
    x = x.flatten(1).double()
    with torch.no_grad():
        a = net.first(x)  # [b, k]
    loss = net.losses(y)
    exact = _by_weights(expected_loss, a, x, loss)[0]  # [k, pixels]
    estimate = partial(_estimate, a, x, loss, exact, trial)
    metrics: dict[str, Any] = {"loss": curves, "bias": {}, "error": {}, "slope": {}}
    for name in BIAS:
        metrics["bias"][name] = _bias(estimate, name, trial)
    for name in (*ESTIMATORS, *BIAS[2:]):
        errors = [
            float(estimate(name, samples, 0).square().sum(1).mean().sqrt())
            for samples in trial.samples
        ]
        metrics["error"][name] = errors
        metrics["slope"][name] = slope(trial.samples, errors)
    return metrics


def _learn(net: BinaryNet, split: data.Split, trial: BinariseTrial, name: str) -> list[float]:
    """Train with two draws a step; return the exact expected loss of 512 images on the way."""
    # A loop of its own: what is learned from is an estimate of a gradient, with draws of each step,
    # and not the gradient of the mean cross entropy.
    optimizer = torch.optim.SGD(net.parameters(), trial.lr)
    generator = torch.Generator().manual_seed(trial.seed)
    order = torch.randperm(len(split), generator=generator)
    x_test, y_test = split.inputs(order[-512:]).flatten(1), split.labels[order[-512:]]
    curve, size = [], 64
    for step in range(trial.steps):
        index = order[torch.arange(step * size, (step + 1) * size) % (len(split) - 512)]
        x, y = split.inputs(index).flatten(1), split.labels[index]
        a, loss = net.first(x), net.losses(y)
        if name == "exact":
            value = expected_loss(a, loss)
        else:
            xi = draws(2, trial.units, "random", substream(trial.seed, step), size)
            value = _value(name, a, xi.to(a.device), loss)
        optimizer.zero_grad()
        value.mean().backward()
        optimizer.step()
        if (step + 1) % (trial.steps // 6) == 0:
            with torch.no_grad():
                curve.append(float(expected_loss(net.first(x_test), net.losses(y_test)).mean()))
    return curve


def _value(name: str, a: Tensor, xi: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the expression [b] whose gradient an estimator takes; ``xi`` is [S, b, k]."""
    if name == "straight-through":
        return loss(straight_through(a, xi)).mean(0)
    return score_function(a, xi, loss, centred=name != "score, not centred")


def _by_weights(
    value: Callable[..., Tensor], a: Tensor, x: Tensor, *rest: Any, repeats: int = 1
) -> Tensor:
    """Return the gradient of the mean over examples by the weights, [repeats, k, pixels]."""
    many = a.repeat(repeats, 1).requires_grad_()  # [repeats * b, k]
    (grad,) = torch.autograd.grad(value(many, *rest).sum(), many)
    return torch.einsum("rbk,bp->rkp", grad.view(repeats, *a.shape), x) / len(a)


def _estimate(
    a: Tensor,
    x: Tensor,
    loss: Callable[[Tensor], Tensor],
    exact: Tensor,
    trial: BinariseTrial,
    name: str,
    samples: int,
    block: int,
) -> Tensor:
    """Return errors relative to the length of the exact gradient, [repeats, k * pixels]."""
    repeats = trial.repeats
    source = name.partition(", ")[2]
    source = source if source in DRAWS else "random"
    b, k = a.shape
    # The examples of a batch draw their numbers independently of each other.
    xi = draws(samples, k, source, substream(trial.seed, block), repeats * b).to(a.device)

    def value(many: Tensor) -> Tensor:
        return _value(name, many, xi, lambda h: _each(loss, h, b))

    estimates = _by_weights(value, a, x, repeats=repeats)
    return ((estimates - exact) / exact.norm()).flatten(1)


def _each(loss: Callable[[Tensor], Tensor], h: Tensor, b: int) -> Tensor:
    """Apply the loss of b examples to repetitions of them: [..., repeats * b, k]."""
    return loss(h.unflatten(-2, (-1, b))).flatten(-2)


def _bias(estimate: Callable[..., Tensor], name: str, trial: BinariseTrial) -> float:
    """Return the squared length of the bias, from 16 draws an estimate, itself without bias.

    The squared length of a mean error holds its variance, too; the scalar product of two mean
    errors that are independent does not.
    """
    blocks = [estimate(name, 16, 1 + i) for i in range(trial.blocks)]
    errors = torch.stack([block.mean(0) for block in blocks])  # [blocks, k * pixels]
    products = errors @ errors.T
    pairs = trial.blocks * (trial.blocks - 1)
    return float((products.sum() - products.trace()) / pairs)


def trials(profile: str, seeds: Sequence[int]) -> list[BinariseTrial]:
    """List a trial for each seed."""
    fast = {
        "dataset": "digits",
        "steps": 150,
        "samples": (4, 16, 64),
        "repeats": 8,
        "blocks": 4,
    }
    return [BinariseTrial(seed=seed, **({} if profile == "full" else fast)) for seed in seeds]


def measure(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return squared biases, errors and slopes."""
    readings = {
        f"squared bias, {name}": [r.metrics["bias"][name] for r in records] for name in BIAS
    }
    for name in records[0].metrics["error"]:
        readings[f"slope, {name}"] = [r.metrics["slope"][name] for r in records]
    at = records[0].config.samples.index(64)
    for name in records[0].metrics["error"]:
        readings[f"error at 64 draws, {name} over score"] = [
            r.metrics["error"][name][at] / r.metrics["error"]["score"][at] for r in records
        ]
    for name in ESTIMATORS:
        readings[f"loss after training, {name} minus exact"] = [
            r.metrics["loss"][name][-1] - r.metrics["loss"]["exact"][-1] for r in records
        ]
    return readings


EXPERIMENTS = [
    Experiment(
        name="randomness-binarise",
        summary="bias and variance of straight-through and score-function gradients",
        trial=BinariseTrial,
        trials=trials,
        run=run,
        seeds={"fast": range(2), "full": range(10)},
        measures={"randomness-binarise": measure},
        tolerance=1e-4,
    ),
]
