"""The same network from initial weights of every source."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from mcnn import data
from mcnn.experiments.randomness.common import TaskTrial, differences, evaluate, fit, task_trials
from mcnn.ledger.experiment import Experiment
from mcnn.ledger.records import Record
from mcnn.randomness.initialise import initialise_
from mcnn.randomness.source import SOURCES
from mcnn.training import nets


@dataclass(frozen=True, kw_only=True)
class InitTrial(TaskTrial):
    """All sources, one seed."""


def run(trial: InitTrial, device: torch.device) -> dict[str, Any]:
    """Return accuracy and loss after every epoch, and at the end, of every source."""
    dataset = data.load(trial.dataset, device=device)
    metrics = {}
    for source in SOURCES:
        model = nets.build("mlp", trial.seed, widths=trial.widths)
        initialise_(model, source, trial.seed).to(device)
        curve = []
        fit(
            model,
            dataset,
            trial,
            on_epoch=lambda m, _, c=curve: c.append(evaluate(m, dataset.test)),
        )
        metrics[source] = {**curve[-1], "curve": [row["accuracy"] for row in curve]}
    return metrics


def measure(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return the differences to pseudo-random weights."""
    readings = differences(records, SOURCES, "random")
    readings |= differences(records, SOURCES, "random", "loss")
    return readings | {"accuracy, random": [r.metrics["random"]["accuracy"] for r in records]}


EXPERIMENTS = [
    Experiment(
        name="randomness-init",
        summary="a network trained from initial weights of every source",
        trial=InitTrial,
        trials=partial(task_trials, InitTrial, {}),
        run=run,
        seeds={"fast": range(2), "full": range(20)},
        measures={"randomness-init": measure},
        tolerance=0.01,
    ),
]
