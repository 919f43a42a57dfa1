"""Direct feedback alignment next to backpropagation, feedback matrices from every source."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mcnn import data
from mcnn.experiments.randomness.common import TaskTrial, differences, evaluate, fit, task_trials
from mcnn.ledger.experiment import Experiment
from mcnn.ledger.records import Record
from mcnn.randomness.feedback import FeedbackMLP, alignment_angles
from mcnn.randomness.source import SOURCES

OF = ("errors", "gradients")
_IMAGES = 1000  # for the angle


@dataclass(frozen=True, kw_only=True)
class FeedbackTrial(TaskTrial):
    """All sources, one seed."""

    widths: tuple[int, ...] = (784, 64, 64, 10)
    epochs: int = 3
    lr: float = 0.1


def run(trial: FeedbackTrial, device: torch.device) -> dict[str, Any]:
    """Return accuracy and the angles of the hidden layers, every epoch."""
    dataset = data.load(trial.dataset, device=device)
    x, y = dataset.test.inputs(slice(_IMAGES)), dataset.test.labels[:_IMAGES]

    def angle(model: FeedbackMLP) -> dict[str, list[float]]:
        return {of: alignment_angles(model, x, y, of) for of in OF}

    metrics = {}
    for arm in ("backpropagation", *SOURCES):
        direct = arm != "backpropagation"
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(trial.seed)
            source = arm if direct else "random"
            model = FeedbackMLP(trial.widths, source, trial.seed, direct).to(device)
        curve, angles = [], [angle(model)]
        fit(
            model,
            dataset,
            trial,
            on_epoch=lambda m, _, c=curve, a=angles: (
                c.append(evaluate(m, dataset.test)["accuracy"]),
                a.append(angle(m)),
            ),
        )
        metrics[arm] = {"curve": curve, "angles": angles, **evaluate(model, dataset.test)}
    metrics["hidden layers frozen"] = _frozen(trial, dataset)
    return metrics


def _frozen(trial: FeedbackTrial, dataset: data.Data) -> dict[str, float]:
    """Return accuracy and loss if only the output layer learns: what any feedback has to beat."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(trial.seed)
        model = FeedbackMLP(trial.widths, "random", trial.seed).to(dataset.device)
    for layer in model.layers[:-1]:
        layer.requires_grad_(False)
    fit(model, dataset, trial)
    return evaluate(model, dataset.test)


def trials(profile: str, seeds: Sequence[int]) -> list[FeedbackTrial]:
    """List a trial for each seed."""
    return task_trials(FeedbackTrial, {"widths": (64, 32, 32, 10)}, profile, seeds)


def measure(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return accuracies against backpropagation, and the angles at the end."""
    readings = differences(records, SOURCES, "backpropagation")
    readings |= differences(records, SOURCES, "random")
    readings |= differences(records, ["random"], "hidden layers frozen")
    for arm in (*SOURCES, "backpropagation"):
        for of in OF:
            for layer in range(len(records[0].config.widths) - 2):
                readings[f"angle of {of} at the end, layer {layer + 1}, {arm}"] = [
                    r.metrics[arm]["angles"][-1][of][layer] for r in records
                ]
    return readings


EXPERIMENTS = [
    Experiment(
        name="randomness-dfa",
        summary="direct feedback alignment, its accuracy and angle, next to backpropagation",
        trial=FeedbackTrial,
        trials=trials,
        run=run,
        seeds={"fast": range(2), "full": range(10)},
        measures={"randomness-dfa": measure},
        tolerance=0.01,
    ),
]
