"""How many units of sparse masks dangle, against none of paths, and what is left to learn with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mcnn import data
from mcnn.baselines.masks import edges_of, erk_densities, random_mask, shuffled, weights
from mcnn.experiments.paths.common import edges, fit, network, path_masks
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.paths.graph import Graph


@dataclass(frozen=True, kw_only=True)
class DanglingTrial(Trial):
    """A very sparse network, and whether it is trained.

    ``method`` is a generator of paths; ``"random"`` and ``"erk"`` have as many edges, in layers of
    one density or of Erdős and Rényi's; ``"shuffled"`` has as many in each layer as uniform paths.
    """

    dataset: str = "mnist"
    method: str = "uniform"
    density: float = 0.01
    trained: bool = False
    widths: tuple[int, ...] = (784, 300, 300, 10)
    epochs: int = 3


def _run(trial: DanglingTrial, device: torch.device) -> dict[str, Any]:
    model = network(trial.widths, trial.seed)
    shapes = {name: w.shape for name, w in weights(model).items()}
    sizes = [shape.numel() for shape in shapes.values()]
    total = round(trial.density * sum(sizes))
    if trial.method in ("random", "erk"):
        share = total / sum(sizes)
        erk = trial.method == "erk"
        densities = erk_densities(list(shapes.values()), share) if erk else [share] * len(sizes)
        numbers = edges_of(densities, sizes, total)
        masks = {
            name: random_mask(shape, number, trial.seed * 16 + i)
            for i, ((name, shape), number) in enumerate(zip(shapes.items(), numbers, strict=True))
        }
    else:
        method = "uniform" if trial.method == "shuffled" else trial.method
        paths = total // len(sizes)  # no more edges than that
        masks = path_masks(model, paths, method, trial.seed)
        masks = shuffled(masks, trial.seed) if trial.method == "shuffled" else masks
    graph = Graph.of_masks(list(masks.values()))
    result: dict[str, Any] = {
        "edges": edges(masks),
        "useless": sum(graph.useless),
        "dangling": sum(graph.dangling),
        "hidden_units_used": round(
            sum(c * n for c, n in zip(graph.coverage[1:-1], trial.widths[1:-1], strict=True))
        ),
        "coverage": list(graph.coverage),
    }
    if trial.trained:
        images = data.load(trial.dataset, device=device)
        model.to(device)
        result["accuracy"] = fit(model, images, masks, trial.epochs, trial.seed)
    return result


def _trials(profile: str, seeds: Sequence[int]) -> list[DanglingTrial]:
    methods = ("random", "erk", "shuffled", "uniform", "sobol", "permutation")
    densities = (0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)
    if profile == "fast":
        fast = {"dataset": "digits", "widths": (64, 64, 64, 10)}
        return [
            DanglingTrial(seed=seed, method=method, density=density, **fast)
            for method in methods
            for density in (0.1, 0.05, 0.02)
            for seed in seeds
        ]
    trained = {(m, d) for m in ("random", "uniform") for d in (0.005, 0.002)}
    return [
        DanglingTrial(
            seed=seed,
            method=method,
            density=density,
            trained=(method, density) in trained and seed < 3,
        )
        for density in densities
        for method in methods
        for seed in seeds
    ]


EXPERIMENTS = [
    Experiment(
        name="paths-dangling",
        summary="dangling units and lost edges of random masks against those of paths",
        trial=DanglingTrial,
        trials=_trials,
        run=_run,
        seeds={"fast": range(1), "full": range(5)},
        tolerance=0.01,
    ),
]
