"""Backpropagation by hand against automatic differentiation, and a net trained with each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mcnn import data, nutshell
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record


@dataclass(frozen=True, kw_only=True)
class BackpropTrial(Trial):
    """Random networks to compare gradients of, and one that is trained on a data set."""

    dataset: str = "mnist"
    networks: int = 100
    widths: tuple[int, ...] = (784, 100, 100, 10)
    batch_size: int = 50
    rate: float = 0.1
    live_outputs: bool = True
    steps: int = 3000
    checks: int = 30


def _run(trial: BackpropTrial, device: torch.device) -> dict[str, Any]:
    return {"gradient": _gradients(trial, device), **_training(trial, device)}


def _gradients(trial: BackpropTrial, device: torch.device) -> list[float]:
    """Return for each random network how far the rule is from autograd, relative, at worst."""
    generator = torch.Generator().manual_seed(trial.seed)
    worst = []
    for _ in range(trial.networks):
        depth, batch = torch.randint(1, 7, (2,), generator=generator).tolist()
        widths = torch.randint(1, 51, (depth + 1,), generator=generator).tolist()
        weights = nutshell.initial_weights(widths, generator, device, torch.float64)
        x, target = (
            torch.randn(batch, n, generator=generator, dtype=torch.float64).to(device)
            for n in (widths[0], widths[-1])
        )
        a = nutshell.forward(weights, x)
        by_hand = nutshell.gradients(a, nutshell.backward(weights, a, a[-1] - target))
        leaves = [w.clone().requires_grad_() for w in weights]
        wanted = torch.autograd.grad(_error(leaves, x, target).sum(), leaves)
        worst.append(max(map(_relative, by_hand, wanted)))
    return worst


def _error(weights: Sequence[Tensor], x: Tensor, target: Tensor) -> Tensor:
    """Return half the squared error of each example [batch], as autograd sees it."""
    for w in weights:
        x = F.relu(x @ w)
    return (x - target).square().sum(1) / 2


def _relative(value: Tensor, truth: Tensor) -> float:
    value, truth = value.detach(), truth.detach()
    largest = float(truth.abs().max())
    return float((value - truth).abs().max()) / largest if largest else float(value.abs().max())


def _training(trial: BackpropTrial, device: torch.device) -> dict[str, Any]:
    """Train by hand, with ``torch.optim.SGD``, and by hand without the rule's condition."""
    dataset = data.load(trial.dataset, device=device)
    start = nutshell.initial_weights(
        trial.widths, trial.seed, device, torch.float64, trial.live_outputs
    )
    by_hand, unconditional = start, start
    leaves = [w.clone().requires_grad_() for w in start]
    optimizer = torch.optim.SGD(leaves, lr=trial.rate)
    metrics = {"step": [], "accuracy": [], "sgd_accuracy": [], "difference": [], "loss": []}
    generator = torch.Generator().manual_seed(trial.seed)
    every = trial.steps // trial.checks
    for number, (x, labels) in enumerate(_batches(dataset, trial, generator), start=1):
        x, target = x.flatten(1).double(), F.one_hot(labels, trial.widths[-1]).double()
        a = nutshell.forward(by_hand, x)
        by_hand = nutshell.step(
            by_hand, a, nutshell.backward(by_hand, a, a[-1] - target), trial.rate
        )
        unconditional = _unconditional_step(unconditional, x, target, trial.rate)
        optimizer.zero_grad()
        _error(leaves, x, target).mean().backward()
        optimizer.step()
        if number % every == 0:
            metrics["step"].append(number)
            metrics["accuracy"].append(_accuracy(by_hand, dataset))
            metrics["sgd_accuracy"].append(_accuracy([w.detach() for w in leaves], dataset))
            metrics["difference"].append(max(map(_relative, by_hand, leaves)))
            metrics["loss"].append(float((a[-1] - target).square().sum(1).mean() / 2))
    metrics["unconditional_accuracy"] = _accuracy(unconditional, dataset)
    return metrics


def _batches(dataset: data.Data, trial: BackpropTrial, generator: torch.Generator) -> Any:
    """Go on from one epoch to the next until the steps are done."""
    left = trial.steps
    while left:
        for batch in dataset.train.batches(trial.batch_size, generator, drop_last=True):
            yield batch
            left -= 1
            if not left:
                return


def _unconditional_step(
    weights: list[Tensor], x: Tensor, target: Tensor, rate: float
) -> list[Tensor]:
    """Take the step w' = w - rate * delta * a for inactive units, too."""
    a = nutshell.forward(weights, x)
    deltas = nutshell.backward(weights, a, a[-1] - target)
    return [
        w - rate / len(x) * before.T @ delta
        for w, before, delta in zip(weights, a, deltas[1:], strict=False)
    ]


def _accuracy(weights: Sequence[Tensor], dataset: data.Data) -> float:
    outputs = nutshell.forward(weights, dataset.test.inputs().flatten(1).double())[-1]
    return float((outputs.argmax(1) == dataset.test.labels).double().mean())


def _trials(profile: str, seeds: Sequence[int]) -> list[BackpropTrial]:
    fast = {"dataset": "digits", "widths": (64, 40, 40, 10), "networks": 20, "steps": 600}
    size = {} if profile == "full" else fast | {"checks": 10}
    return [
        BackpropTrial(seed=seed, live_outputs=live, **size)
        for seed in seeds
        for live in (True, False)
    ]


def _measure(records: Sequence[Record]) -> dict[str, list[float]]:
    live = [r.metrics for r in records if r.config.live_outputs]
    mixed = [r.metrics for r in records if not r.config.live_outputs]
    return {
        "gradient": [max(r.metrics["gradient"]) for r in records],
        "weights after training, against torch.optim.SGD": [
            r.metrics["difference"][-1] for r in records
        ],
        "accuracy, trained by the rule": [m["accuracy"][-1] for m in live],
        "accuracy, steps of inactive units, too": [m["unconditional_accuracy"] for m in live],
        "accuracy, outputs that may start inactive": [m["accuracy"][-1] for m in mixed],
    }


EXPERIMENTS = [
    Experiment(
        name="nutshell-backprop",
        summary="the talk's backpropagation against autograd, and training with it",
        trial=BackpropTrial,
        trials=_trials,
        run=_run,
        seeds={"fast": range(2), "full": range(5)},
        measures={"nutshell-backprop": _measure},
        tolerance=0.01,
    ),
]
