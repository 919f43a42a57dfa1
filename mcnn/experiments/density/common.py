"""What the experiments on densities share: a trained network and its layers."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mcnn import data, training
from mcnn.ledger.experiment import Trial
from mcnn.training import nets

RECIPES: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": "sgd", "lr": 0.05, "momentum": 0.9, "schedule": "cosine"},
    "adam": {"optimizer": "adam", "lr": 1e-3, "momentum": 0.9, "schedule": "cosine"},
    "onecycle": {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "schedule": "onecycle"},
    "l1": {"optimizer": "sgd", "lr": 0.05, "momentum": 0.9, "schedule": "cosine", "l1": 3e-5},
}
FAST_WIDTHS = (64, 64, 10)
FAST_DATASET = "digits"


@dataclass(frozen=True, kw_only=True)
class NetTrial(Trial):
    """A network, trained by a recipe."""

    dataset: str = "mnist"
    widths: tuple[int, ...] = (784, 300, 10)
    recipe: str = "sgd"
    epochs: int = 5


def trained(trial: NetTrial, device: torch.device) -> tuple[nn.Sequential, data.Data]:
    """Return the network of a trial, trained, and the data it was trained on."""
    dataset = data.load(trial.dataset, device=device)
    model = nets.build("mlp", seed=trial.seed, widths=trial.widths).to(device)
    options = RECIPES[trial.recipe]
    training.fit(model, dataset, epochs=trial.epochs, batch_size=128, seed=trial.seed, **options)
    return model.eval(), dataset


def linears(model: nn.Module) -> dict[str, nn.Linear]:
    """Return the linear layers by name, from input to output."""
    return {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}


def first_layer(trial: NetTrial, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the first layer's weights [rows, n] and the test images it sees [images, n]."""
    model, dataset = trained(trial, device)
    weight = next(iter(linears(model).values())).weight.detach()
    return weight, dataset.test.inputs().flatten(1)


def accuracy(model: nn.Module, dataset: data.Data) -> float:
    """Return the accuracy on the whole test set."""
    return training.evaluate(model, dataset.test).accuracy


SEEDS = {"fast": range(2), "full": range(5)}
