"""The same network, its images seen in every order, and the variance of the gradient on the way."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcnn import data
from mcnn.experiments.randomness.common import TaskTrial, differences, evaluate, fit, task_trials
from mcnn.ledger.experiment import Experiment
from mcnn.ledger.records import Record
from mcnn.randomness.order import ORDERS, epoch_order
from mcnn.training import nets

GROUPS = (1, 4, 16)


@dataclass(frozen=True, kw_only=True)
class OrderTrial(TaskTrial):
    """All orders, one seed; the variance is taken over ``batches`` batches of one epoch."""

    epochs: int = 2
    batches: int = 256


def run(trial: OrderTrial, device: torch.device) -> dict[str, Any]:
    """Return accuracy and loss at the end, and the variance of means of 1, 4, 16 gradients."""
    dataset = data.load(trial.dataset, device=device)
    sorted_ = by_class(dataset.train)
    n = len(sorted_)
    metrics = {}
    for method in ORDERS:
        model = nets.build("mlp", trial.seed, widths=trial.widths).to(device)
        fit(model, dataset, trial, lambda e, m=method: sorted_[epoch_order(n, m, trial.seed, e)])
        metrics[method] = evaluate(model, dataset.test)
    # One model for all: trained for an epoch in the usual way.
    model = nets.build("mlp", trial.seed, widths=trial.widths).to(device)
    once = OrderTrial(**{**trial.config(), "epochs": 1})
    fit(model, dataset, once)
    exact = _gradient(model, dataset.train, torch.arange(n))
    for method in ORDERS:
        parts = sorted_[epoch_order(n, method, trial.seed, 1)].split(trial.batch_size)
        errors = [_gradient(model, dataset.train, i) - exact for i in parts[: trial.batches]]
        metrics[method]["variance"] = variances(torch.stack(errors))
    return metrics


def by_class(split: data.Split) -> Tensor:
    """Return the images sorted by class, and within a class by their brightness."""
    brightness = split.images.flatten(1).double().mean(1) / 256  # [n], below one
    return (split.labels.cpu() + brightness.cpu()).argsort(stable=True)


def variances(errors: Tensor) -> list[float]:
    """Return the mean square of the means of g errors, for each number of :data:`GROUPS`.

    Parameters
    ----------
    errors
        [batches, parameters], gradients less that of all images.
    """
    return [
        float(errors[: len(errors) // g * g].unflatten(0, (-1, g)).mean(1).square().sum(1).mean())
        for g in GROUPS
    ]


def _gradient(model: nn.Module, split: data.Split, index: Tensor) -> Tensor:
    index = index.to(split.device)
    loss = F.cross_entropy(model(split.inputs(index)), split.labels[index])
    grads = torch.autograd.grad(loss, list(model.parameters()))
    return torch.cat([g.flatten() for g in grads]).double()


def measure(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return differences to the usual order, and ratios of variances to independent samples."""
    readings = differences(records, list(ORDERS), "shuffled")
    readings |= differences(records, list(ORDERS), "shuffled", "loss")
    for place, g in enumerate(GROUPS):
        for method in ORDERS:
            readings[f"variance of {g} batches, {method} over replacement"] = [
                r.metrics[method]["variance"][place] / r.metrics["replacement"]["variance"][place]
                for r in records
            ]
    return readings


EXPERIMENTS = [
    Experiment(
        name="randomness-order",
        summary="a network trained on images in seven orders, and the variance of its gradient",
        trial=OrderTrial,
        trials=partial(task_trials, OrderTrial, {"batches": 32}),
        run=run,
        seeds={"fast": range(2), "full": range(10)},
        measures={"randomness-order": measure},
        tolerance=0.01,
    ),
]
