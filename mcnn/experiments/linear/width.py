"""Samples that a neuron needs against the number of its inputs.

A constant number of samples makes the cost linear.
Whether it is also enough, however wide the network is, must be seen: here the two layers of a
trained network whose fan-in is its width are sampled, for many widths and numbers of samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mcnn import data, density, training
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.training import nets


@dataclass(frozen=True, kw_only=True)
class WidthTrial(Trial):
    """Widths n of a network with two hidden layers of n units, and numbers of samples."""

    dataset: str = "mnist"
    widths: tuple[int, ...] = (64, 128, 256, 512, 1024)
    samples: tuple[int, ...] = (4, 8, 16, 32, 64, 128, 256, 512)
    method: str = "jittered"
    epochs: int = 2


WIDE = ("3", "5")  # the layers with n inputs; the first has the pixels


def _run_width(trial: WidthTrial, device: torch.device) -> dict[str, Any]:
    dataset = data.load(trial.dataset, device=device)
    pixels = dataset.train.shape[0] * dataset.train.shape[1] * dataset.train.shape[2]
    metrics: dict[str, Any] = {"dense": [], "sampled": []}
    for n in trial.widths:
        model = nets.build("mlp", seed=trial.seed, widths=(pixels, n, n, 10)).to(device)
        training.fit(model, dataset, epochs=trial.epochs, seed=trial.seed)
        metrics["dense"].append(training.evaluate(model, dataset.test).accuracy)
        accuracies = []
        for samples in trial.samples:
            options = {"layers": WIDE, "method": trial.method, "seed": trial.seed}
            sampled, _ = density.quantize(model, samples, **options)
            accuracies.append(training.evaluate(sampled, dataset.test).accuracy)
        metrics["sampled"].append(accuracies)
    return metrics


def needed(record: Record, level: float = 0.95) -> list[float]:
    """Return for each width the samples at which a relative accuracy is reached.

    Between two numbers of samples the curve is taken as straight over the logarithm of samples.

    Raises
    ------
    ValueError
        If a curve does not get there, or starts above.
    """
    logs = np.log2(record.config.samples)
    widths = []
    for dense, accuracies in zip(record.metrics["dense"], record.metrics["sampled"], strict=True):
        curve = np.array(accuracies) / dense
        at = int(np.argmax(curve >= level))
        if at == 0:
            raise ValueError(f"the level {level} is not crossed by {curve.tolist()}")
        part = (level - curve[at - 1]) / (curve[at] - curve[at - 1])
        widths.append(float(2 ** (logs[at - 1] + part * (logs[at] - logs[at - 1]))))
    return widths


def _trials(profile: str, seeds: Sequence[int]) -> list[WidthTrial]:
    if profile == "full":
        return [WidthTrial(seed=seed) for seed in seeds]
    small = {"dataset": "digits", "widths": (32, 64, 128), "epochs": 15}
    return [WidthTrial(seed=seed, **small) for seed in seeds]


EXPERIMENTS = [
    Experiment(
        name="linear-width",
        summary="samples that a neuron needs against the number of its inputs",
        trial=WidthTrial,
        trials=_trials,
        run=_run_width,
        seeds={"fast": range(1), "full": range(5)},
        tolerance=0.02,
    ),
]
