"""A width that no dense network reaches: a million units a layer, trained on one machine."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from mcnn import data, training
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.paths.nets import PathMLP


@dataclass(frozen=True, kw_only=True)
class WideTrial(Trial):
    """A network of paths with very many hidden units, trained once on some of the images."""

    dataset: str = "mnist"
    widths: tuple[int, ...] = (784, 1 << 20, 1 << 20, 10)
    paths: int = 1 << 21
    method: str = "permutation"
    images: int = 3200
    tested: int = 1000
    batch: int = 32
    lr: float = 2e-5


def _run(trial: WideTrial, device: torch.device) -> dict[str, Any]:
    dataset = data.load(trial.dataset, device=device)
    options = {"method": trial.method, "seed": trial.seed, "init": "realised", "device": device}
    net = PathMLP(trial.widths, trial.paths, **options)
    few = {
        "train": replace(
            dataset.train,
            images=dataset.train.images[: trial.images],
            labels=dataset.train.labels[: trial.images],
        ),
        "test": replace(
            dataset.test,
            images=dataset.test.images[: trial.tested],
            labels=dataset.test.labels[: trial.tested],
        ),
    }
    dataset = replace(dataset, **few)
    start = time.perf_counter()
    # Outputs add up very many units, so each may change only a little in a step.
    recipe = {"optimizer": "adam", "lr": trial.lr, "schedule": "cosine"}
    training.fit(net, dataset, epochs=1, batch_size=trial.batch, seed=trial.seed, **recipe)
    return {
        "accuracy": training.evaluate(net, dataset.test, batch_size=trial.batch).accuracy,
        "weights": sum(layer.weight.numel() for layer in net.layers),
        "dense_weights": sum(layer.in_features * layer.out_features for layer in net.layers),
        "training_seconds": round(time.perf_counter() - start, 1),
    }


def _trials(profile: str, seeds: Sequence[int]) -> list[WideTrial]:
    if profile == "fast":
        small = {"dataset": "digits", "widths": (64, 1 << 12, 1 << 12, 10), "paths": 1 << 13}
        small |= {"images": 1000, "tested": 300, "lr": 2e-3}
        return [WideTrial(seed=seed, **small) for seed in seeds]
    return [WideTrial(seed=seed) for seed in seeds]


EXPERIMENTS = [
    Experiment(
        name="paths-wide",
        summary="a million units a layer, trained on one machine",
        trial=WideTrial,
        trials=_trials,
        run=_run,
        seeds={"fast": range(1), "full": range(1)},
        tolerance=0.02,
    ),
]
