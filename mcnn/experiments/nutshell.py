"""Backpropagation by hand against automatic differentiation, and what the size of a batch does."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mcnn import data, nutshell
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.stats import slope


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


@dataclass(frozen=True, kw_only=True)
class HomeworkTrial(Trial):
    """Random networks with softmax and cross entropy, derivatives of which are worked out."""

    networks: int = 100


def _homework(trial: HomeworkTrial, device: torch.device) -> dict[str, Any]:
    """Return relative differences from autograd: of softmax, of its loss, and of two layers."""
    generator = torch.Generator().manual_seed(trial.seed)
    metrics: dict[str, list[float]] = {"softmax": [], "loss": [], "layers": []}
    for _ in range(trial.networks):
        batch, *widths = torch.randint(2, 30, (4,), generator=generator).tolist()
        net = _two_layers(widths, generator, device)
        x = torch.randn(batch, widths[0], generator=generator, dtype=torch.float64).to(device)
        y = torch.randn(batch, widths[2], generator=generator, dtype=torch.float64).softmax(1)
        h = torch.randn(widths[2], generator=generator, dtype=torch.float64).to(device)
        a = h.softmax(0)
        by_hand = a.diag() - a.outer(a)  # a_i (1 - a_i), and - a_i a_j elsewhere
        jacobian = torch.autograd.functional.jacobian(lambda h: h.softmax(0), h)
        metrics["softmax"].append(_relative(by_hand, jacobian))
        leaf = h.clone().requires_grad_()
        target = y[0].to(device)
        (wanted,) = torch.autograd.grad(-(target * leaf.log_softmax(0)).sum(), leaf)
        metrics["loss"].append(_relative(a - target, wanted))
        leaves = [w.clone().requires_grad_() for w in net]
        logits = F.relu(x @ leaves[0] + leaves[1]) @ leaves[2] + leaves[3]
        loss = -(y.to(device) * logits.log_softmax(1)).sum(1).mean()
        wants = torch.autograd.grad(loss, leaves)
        founds = _gradient(net, x, y.to(device))
        metrics["layers"].append(max(map(_relative, founds, wants)))
    return metrics


def _two_layers(
    widths: Sequence[int], generator: torch.Generator, device: torch.device
) -> list[Tensor]:
    """Return W1 [n0, n1], b1 [n1], W2 [n1, n2], b2 [n2]."""
    first, second = (
        torch.randn(m, n, generator=generator, dtype=torch.float64) * (2 / m) ** 0.5
        for m, n in pairwise(widths)
    )
    biases = (torch.randn(n, generator=generator, dtype=torch.float64) / 10 for n in widths[1:])
    return [t.to(device) for t in (first, next(biases), second, next(biases))]


def _gradient(net: Sequence[Tensor], x: Tensor, y: Tensor) -> list[Tensor]:
    """Return the gradient of the mean cross entropy over a batch, worked out by hand.

    The homework of the slide: two linear layers, a ReLU between them, a batch of inputs [b, n0]
    and targets [b, n2] that sum to one.
    """
    w1, b1, w2, b2 = net
    h = x @ w1 + b1
    a = h.clamp(min=0)
    outer = ((a @ w2 + b2).softmax(1) - y) / len(x)  # [b, n2]
    inner = outer @ w2.T * (h > 0)  # [b, n1]
    return [x.T @ inner, inner.sum(0), a.T @ outer, outer.sum(0)]


def _loss(net: Sequence[Tensor], x: Tensor, y: Tensor) -> float:
    w1, b1, w2, b2 = net
    logits = (x @ w1 + b1).clamp(min=0) @ w2 + b2
    return float(-(y * logits.log_softmax(1)).sum(1).mean())


@dataclass(frozen=True, kw_only=True)
class BatchTrial(Trial):
    """A network, sizes of batches, and how many images are seen with each."""

    dataset: str = "mnist"
    hidden: int = 100
    sizes: tuple[int, ...] = (1, 4, 16, 64, 256)
    batches: int = 200
    images: int = 4000
    trained: tuple[int, ...] = (1, 8, 64)
    rates: tuple[tuple[float, ...], ...] = ((0.005, 0.01, 0.02), (0.03, 0.06, 0.1), (0.2, 0.5, 1.0))
    validation: int = 5000


def _batches_of(trial: BatchTrial, device: torch.device) -> dict[str, Any]:
    """Return variances of batch gradients, losses after images seen, and seconds per image."""
    dataset = data.load(trial.dataset, device=device).hold_out(trial.validation)
    generator = torch.Generator().manual_seed(trial.seed)
    order = torch.randperm(len(dataset.train), generator=generator)[: trial.images]
    x, y = _examples(dataset.train.part(order.to(device)), dataset)
    held_out, test = (_examples(s, dataset) for s in (dataset.validation, dataset.test))
    start = _two_layers((x.shape[1], trial.hidden, y.shape[1]), generator, device)
    metrics: dict[str, Any] = {"loss": [], "seconds": [], "rate": []}
    for size, rates in zip(trial.trained, trial.rates, strict=True):
        begun = time.process_time()
        nets = {rate: _one_pass(start, x, y, size, rate) for rate in rates}
        metrics["seconds"].append((time.process_time() - begun) / len(x) / len(rates))
        losses = {rate: _loss(net, *held_out) for rate, net in nets.items()}
        best = min(rates, key=losses.__getitem__)
        net = nets[best]
        metrics["loss"].append(_loss(net, *test))
        metrics["rate"].append(best)
    # At the last of them: the mean squared distance from the gradient over all images.
    whole = _gradient(net, x, y)
    length = sum(float(g.square().sum()) for g in whole)
    metrics["variance"] = []
    for size in trial.sizes:
        total = 0.0
        for _ in range(trial.batches):
            chosen = torch.randint(len(x), (size,), generator=generator).to(device)
            found = _gradient(net, x[chosen], y[chosen])
            total += sum(float((f - g).square().sum()) for f, g in zip(found, whole, strict=True))
        metrics["variance"].append(total / trial.batches / length)
    return metrics


def _examples(split: data.Split, dataset: data.Data) -> tuple[Tensor, Tensor]:
    """Return images [n, pixels] and targets [n, classes]."""
    targets = F.one_hot(split.labels, len(dataset.classes)).double()
    return split.inputs().flatten(1).double(), targets


def _one_pass(net: list[Tensor], x: Tensor, y: Tensor, size: int, rate: float) -> list[Tensor]:
    """Go once through the examples, in batches, a step downhill each."""
    for rows in range(0, len(x) - size + 1, size):
        by_hand = _gradient(net, x[rows : rows + size], y[rows : rows + size])
        net = [w - rate * g for w, g in zip(net, by_hand, strict=True)]
    return net


def _batch_trials(profile: str, seeds: Sequence[int]) -> list[BatchTrial]:
    fast = {"dataset": "digits", "images": 800, "batches": 50, "hidden": 30, "validation": 300}
    return [BatchTrial(seed=seed, **({} if profile == "full" else fast)) for seed in seeds]


def _homework_trials(profile: str, seeds: Sequence[int]) -> list[HomeworkTrial]:
    return [HomeworkTrial(seed=s, networks=100 if profile == "full" else 10) for s in seeds]


def _measure_homework(records: Sequence[Record]) -> dict[str, list[float]]:
    words = {
        "softmax": "softmax derivatives",
        "loss": "derivative of the loss",
        "layers": "two linear layers and a batch",
    }
    return {text: [max(r.metrics[key]) for r in records] for key, text in words.items()}


def _measure_batch(records: Sequence[Record]) -> dict[str, list[float]]:
    readings = {"slope": [slope(r.config.sizes, r.metrics["variance"]) for r in records]}
    one, *others = records[0].config.trained
    for i, size in enumerate(others, start=1):
        readings[f"loss, batches of {one} minus {size}"] = [
            r.metrics["loss"][0] - r.metrics["loss"][i] for r in records
        ]
        readings[f"time per image, batches of {one} over {size}"] = [
            r.metrics["seconds"][0] / r.metrics["seconds"][i] for r in records
        ]
    return readings


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
    Experiment(
        name="nutshell-homework",
        summary="derivatives of softmax, cross entropy and two layers, by hand, against autograd",
        trial=HomeworkTrial,
        trials=_homework_trials,
        run=_homework,
        seeds={"fast": range(1), "full": range(5)},
        measures={"nutshell-softmax": _measure_homework, "nutshell-homework": _measure_homework},
        tolerance=1e-12,
    ),
    Experiment(
        name="nutshell-batch",
        summary="variance, loss and time against the size of a batch",
        trial=BatchTrial,
        trials=_batch_trials,
        run=_batches_of,
        seeds={"fast": range(1), "full": range(15)},
        measures={"nutshell-batch": _measure_batch, "nutshell-online": _measure_batch},
        tolerance=0.01,
    ),
]
