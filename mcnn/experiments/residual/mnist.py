"""MNIST: a network trained with one solver and tested with all."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mcnn import data
from mcnn.experiments.residual.common import SEEDS, ExchangeTrial, measure, train_and_exchange
from mcnn.ledger.experiment import Experiment


@dataclass(frozen=True, kw_only=True)
class MnistTrial(ExchangeTrial):
    """The data set; the pixels are mapped to the state by one linear layer."""

    dataset: str = "mnist"
    lr: float = 5e-3


def flat(dataset: str, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Return the training and the test part, each as images [n, pixels] and classes [n]."""
    loaded = data.load(dataset, device=device)
    return [(part.inputs().flatten(1), part.labels) for part in (loaded.train, loaded.test)]


def _run_mnist(trial: MnistTrial, device: torch.device) -> dict[str, Any]:
    return train_and_exchange(trial, *flat(trial.dataset, device))


_CASES = (
    *((weights, training) for weights in ("layers", "shared") for training in ("euler", "rk4")),
    *((weights, "random") for weights in ("layers", "shared")),
    ("shared", "dopri5"),
)


def _trials(profile: str, seeds: Sequence[int]) -> list[MnistTrial]:
    if profile == "full":
        return [MnistTrial(seed=s, weights=w, training=t) for s in seeds for w, t in _CASES]
    options = {"dataset": "digits", "epochs": 15, "batch_size": 64}
    return [MnistTrial(seed=s, training=t, **options) for s in seeds for t in ("euler", "rk4")]


EXPERIMENTS = [
    Experiment(
        name="residual-mnist",
        summary="MNIST, trained with one solver and tested with all",
        trial=MnistTrial,
        trials=_trials,
        run=_run_mnist,
        seeds=SEEDS,
        measures={"residual-solver": measure},
        tolerance=0.01,
    ),
]
