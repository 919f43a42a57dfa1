"""The same network with dropout and with drop-connect, masks from every source."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from mcnn import data
from mcnn.experiments.randomness.common import TaskTrial, differences, evaluate, fit, task_trials
from mcnn.ledger.experiment import Experiment
from mcnn.ledger.records import Record
from mcnn.randomness.masks import DropConnect, Dropout
from mcnn.randomness.source import SOURCES
from mcnn.training import nets

KINDS = ("dropout", "drop-connect")


@dataclass(frozen=True, kw_only=True)
class DropoutTrial(TaskTrial):
    """All sources, one seed."""

    kind: str = "dropout"
    p: float = 0.5


def run(trial: DropoutTrial, device: torch.device) -> dict[str, Any]:
    """Return accuracy and loss of every source, and without masks."""
    dataset = data.load(trial.dataset, device=device)
    metrics = {}
    for source in ("none", *SOURCES):
        model = nets.build("mlp", trial.seed, widths=trial.widths)
        if source != "none":
            model = masked(model, trial, source)
        fit(model.to(device), dataset, trial)
        metrics[source] = evaluate(model, dataset.test)
    return metrics


def masked(model: nn.Sequential, trial: DropoutTrial, source: str) -> nn.Sequential:
    """Return the network with dropout after its hidden layer, or drop-connect in it."""
    flatten, first, relu, last = model
    if trial.kind == "dropout":
        layer = Dropout(first.out_features, trial.p, source, trial.seed)
        return nn.Sequential(flatten, first, relu, layer, last)
    layer = DropConnect(
        first.in_features, first.out_features, p=trial.p, source=source, seed=trial.seed
    )
    layer.load_state_dict(first.state_dict())
    return nn.Sequential(flatten, layer, relu, last)


def trials(profile: str, seeds: Sequence[int]) -> list[DropoutTrial]:
    """List a trial for each kind and seed."""
    return [
        trial
        for kind in KINDS
        for trial in task_trials(partial(DropoutTrial, kind=kind), {}, profile, seeds)
    ]


def measure(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return the differences to pseudo-random masks, of each kind."""
    readings = {}
    for kind in KINDS:
        chosen = [r for r in records if r.config.kind == kind]
        for metric in ("accuracy", "loss"):
            by_source = differences(chosen, (*SOURCES, "none"), "random", metric)
            readings |= {f"{kind}: {name}": values for name, values in by_source.items()}
    return readings


EXPERIMENTS = [
    Experiment(
        name="randomness-dropout",
        summary="a network trained with dropout and drop-connect, masks from every source",
        trial=DropoutTrial,
        trials=trials,
        run=run,
        seeds={"fast": range(2), "full": range(10)},
        measures={"randomness-dropout": measure},
        tolerance=0.01,
    ),
]
