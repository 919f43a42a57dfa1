"""The talk's figure at another learning rate: one that suits few weights need not suit many."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mcnn import data, training
from mcnn.baselines.masks import Masked
from mcnn.experiments.paths.accuracy import GRID, AccuracyTrial
from mcnn.experiments.paths.common import BATCH, RECIPE, edges, network, path_masks, sparse
from mcnn.ledger.experiment import Experiment

_THROUGH_EDGES = 64  # paths a pixel from which masked dense layers are faster


@dataclass(frozen=True, kw_only=True)
class RateTrial(AccuracyTrial):
    """A trial of paths-accuracy with a rate of its own, of uniform paths or ``"dense"``.

    Of .02, .05 and .1 the last was the best for dense networks in pilots of seed 1000.
    """

    lr: float = 0.1


def _run(trial: RateTrial, device: torch.device) -> dict[str, Any]:
    dataset = data.load(trial.dataset, device=device)
    model, counted = network(trial.widths, trial.seed), []
    if trial.method != "dense":
        paths = trial.per_pixel * trial.widths[0]
        masks = path_masks(model, paths, trial.method, trial.seed)
        counted = edges(masks)
        if trial.per_pixel < _THROUGH_EDGES:
            model = sparse(model.to(device), masks)
        else:
            Masked(model.to(device), masks)
    model.to(device)
    recipe = RECIPE | {"lr": trial.lr}
    training.fit(model, dataset, epochs=trial.epochs, batch_size=BATCH, seed=trial.seed, **recipe)
    return {"accuracy": training.evaluate(model, dataset.test).accuracy, "edges": counted}


def _trials(profile: str, seeds: Sequence[int]) -> list[RateTrial]:
    fast = {"dataset": "digits", "widths": (64, 64, 64, 10), "epochs": 10}
    sets = [fast] if profile == "fast" else [{"dataset": d} for d in ("fashion-mnist", "mnist")]
    networks = [("dense", 0), *(("uniform", n) for n in GRID)]
    return [
        RateTrial(seed=seed, method=method, per_pixel=n, **options)
        for options in sets
        for method, n in (networks[::4] if profile == "fast" else networks)
        for seed in seeds
    ]


EXPERIMENTS = [
    Experiment(
        name="paths-accuracy-rate",
        summary="accuracy against paths for each pixel, at a rate that suits dense networks",
        trial=RateTrial,
        trials=_trials,
        run=_run,
        seeds={"fast": range(1), "full": range(5)},
        tolerance=0.01,
    ),
]
