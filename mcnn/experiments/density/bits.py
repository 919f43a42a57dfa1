"""Sampled densities against rounding and pruning on MNIST, without training again."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mcnn.density import importance
from mcnn.experiments.density import baselines
from mcnn.experiments.density.common import (
    FAST_DATASET,
    FAST_WIDTHS,
    SEEDS,
    NetTrial,
    accuracy,
    linears,
    trained,
)
from mcnn.ledger.experiment import Experiment


@dataclass(frozen=True, kw_only=True)
class BitsTrial(NetTrial):
    """Samplings of each setting, and training images to calibrate with."""

    samplings: int = 5
    calibration: int = 1000


def _run_bits(trial: BitsTrial, device: torch.device) -> dict[str, Any]:
    model, dataset = trained(trial, device)
    scales = importance.input_scales(model, dataset.train.inputs(slice(trial.calibration)))
    names = list(linears(model))
    metrics: dict[str, Any] = {"dense": accuracy(model, dataset)}
    for group, layers in (("first layer", names[:1]), ("all layers", names)):
        test = baselines.accuracy_from(model, int(layers[0]), dataset.test)
        metrics[group] = baselines.compare(model, layers, test, scales, trial.samplings)
    return metrics


def _bits_trials(profile: str, seeds: Sequence[int]) -> list[BitsTrial]:
    if profile == "full":
        return [BitsTrial(seed=seed) for seed in seeds]
    fast = {"dataset": FAST_DATASET, "widths": FAST_WIDTHS, "epochs": 20}
    return [BitsTrial(seed=seed, samplings=2, calibration=500, **fast) for seed in seeds]


EXPERIMENTS = [
    Experiment(
        name="density-bits",
        summary="sampled densities, rounding and pruning at equal bits and equal weights",
        trial=BitsTrial,
        trials=_bits_trials,
        run=_run_bits,
        seeds=SEEDS,
        tolerance=0.01,
    ),
]
