"""The task that initialisation, order and masks share: a small network, trained on digits.

Nothing but the numbers that are compared differs between the arms of a trial: the data, their
order, the initial weights and the masks come from the same seed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcnn import data, training
from mcnn.ledger.experiment import Trial
from mcnn.ledger.records import Record
from mcnn.randomness.order import epoch_order

FAST = {"dataset": "digits", "widths": (64, 32, 10), "epochs": 4, "batch_size": 32}


@dataclass(frozen=True, kw_only=True)
class TaskTrial(Trial):
    """The network and how it is trained: gradient descent, its rate constant or falling to zero."""

    dataset: str = "mnist"
    widths: tuple[int, ...] = (784, 64, 10)
    epochs: int = 1
    batch_size: int = 128
    lr: float = 0.5
    decay: bool = True


def fit(
    model: nn.Module,
    dataset: data.Data,
    trial: TaskTrial,
    order: Callable[[int], Tensor] | None = None,
    on_epoch: Callable[[nn.Module, dict[str, Any]], object] | None = None,
) -> None:
    """Train in place; ``order`` gives the images of each epoch from zero, by default shuffled."""
    order = order or (lambda epoch: epoch_order(len(dataset.train), "shuffled", trial.seed, epoch))
    training.fit(
        model,
        dataset,
        epochs=trial.epochs,
        batch_size=trial.batch_size,
        lr=trial.lr,
        momentum=0.0,
        schedule="linear" if trial.decay else "constant",
        order=lambda epoch: order(epoch - 1),
        on_epoch=on_epoch,
    )


@torch.no_grad()
def evaluate(model: nn.Module, split: data.Split) -> dict[str, float]:
    """Return accuracy and mean cross entropy over a split."""
    model.eval()
    logits = model(split.inputs())  # [n, classes]
    right = (logits.argmax(1) == split.labels).double().mean()
    return {"accuracy": float(right), "loss": float(F.cross_entropy(logits, split.labels))}


def differences(
    records: Sequence[Record], arms: Sequence[str], base: str, metric: str = "accuracy"
) -> dict[str, list[float]]:
    """Return what each arm has more than the base, one value for each seed."""
    return {
        f"{metric}, {arm} minus {base}": [
            r.metrics[arm][metric] - r.metrics[base][metric] for r in records
        ]
        for arm in arms
        if arm != base
    }


def task_trials(
    make: type[TaskTrial], fast: dict[str, Any], profile: str, seeds: Sequence[int]
) -> list[TaskTrial]:
    """List a trial for each seed."""
    options = FAST | fast if profile == "fast" else {}
    return [make(seed=seed, **options) for seed in seeds]
