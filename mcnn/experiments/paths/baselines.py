"""Sparse networks of the field at equal numbers of edges, beside networks of paths."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mcnn import data, training
from mcnn.baselines.evolve import RigL, Set
from mcnn.baselines.masks import (
    apportion,
    edges_of,
    erk_densities,
    fan_in_mask,
    magnitude,
    random_mask,
    shuffled,
    weights,
)
from mcnn.baselines.saliency import snip, synflow
from mcnn.experiments.paths.common import (
    BATCH,
    RECIPE,
    edges,
    fit,
    fit_masked,
    network,
    path_masks,
)
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.paths.graph import Graph

Masks = dict[str, Tensor]
SEEDS = {"fast": range(1), "full": range(3)}


@dataclass(frozen=True, kw_only=True)
class PeersTrial(Trial):
    """A sparse network with a share of the weights of the dense one, and how its edges are chosen.

    ``shuffle`` moves the edges of each layer to random places before training, the control.
    """

    dataset: str = "fashion-mnist"
    method: str = "uniform"
    density: float = 0.05
    shuffle: bool = False
    widths: tuple[int, ...] = (784, 300, 300, 10)
    epochs: int = 3


def _run(trial: PeersTrial, device: torch.device) -> dict[str, Any]:
    dataset = data.load(trial.dataset, device=device)
    model = network(trial.widths, trial.seed).to(device)
    if trial.method == "dense":
        return {"accuracy": fit(model, dataset, None, trial.epochs, trial.seed)}
    total = round(trial.density * sum(w.numel() for w in weights(model).values()))
    if trial.method == "small dense":
        return _small(trial, dataset, total)
    if trial.method == "pruned":
        return _pruned(trial, model, dataset, total)
    masks = {n: m.to(device) for n, m in _MASKS[trial.method](model, dataset, total, trial).items()}
    if trial.shuffle:
        masks = shuffled(masks, trial.seed)
    result = {"edges": edges(masks)} | _graph(masks)
    if trial.method in _CHANGING:
        steps = _steps(trial, dataset)
        often = {"steps": steps, "interval": max(1, steps // 14)}  # 100 of the 1407 on MNIST
        masked = _CHANGING[trial.method](model, masks, seed=trial.seed, **often)
        result["accuracy"] = fit_masked(model, dataset, masked, trial.epochs, trial.seed)
        return result | _graph(masked.masks)
    return result | {"accuracy": fit(model, dataset, masks, trial.epochs, trial.seed)}


def _graph(masks: Masks) -> dict[str, Any]:
    graph = Graph.of_masks(list(masks.values()))
    return {"useless": sum(graph.useless), "coverage": list(graph.coverage)}


def _steps(trial: PeersTrial, dataset: data.Data) -> int:
    return trial.epochs * math.ceil(len(dataset.train) / BATCH)


# --- masks of about `total` edges -----------------------------------------------------------------


def _paths(model: nn.Module, _: data.Data, total: int, trial: PeersTrial) -> Masks:
    """Take as many paths as do not have more edges."""
    few, many = 1, 2 * total
    while many - few > 1:
        middle = (few + many) // 2
        if sum(edges(path_masks(model, middle, trial.method, trial.seed))) <= total:
            few = middle
        else:
            many = middle
    return path_masks(model, few, trial.method, trial.seed)


def _random(
    model: nn.Module, _: data.Data, total: int, trial: PeersTrial, erk: bool = False
) -> Masks:
    """Spread edges at random: layers of one density, or of Erdős and Rényi's."""
    layers = weights(model)
    shapes = [tuple(w.shape) for w in layers.values()]
    sizes = [w.numel() for w in layers.values()]
    share = total / sum(sizes)
    densities = erk_densities(shapes, share) if erk else [share] * len(sizes)
    numbers = edges_of(densities, sizes, total)
    return {
        name: random_mask(w.shape, number, _seed(trial, i))
        for i, ((name, w), number) in enumerate(zip(layers.items(), numbers, strict=True))
    }


def _fan_in(model: nn.Module, _: data.Data, total: int, trial: PeersTrial) -> Masks:
    """Give every unit the same number of inputs, up to one."""
    layers = weights(model)
    each = apportion(total, sum(len(w) for w in layers.values()))
    masks = {}
    for i, (name, w) in enumerate(layers.items()):
        own, each = each[: len(w)], each[len(w) :]
        masks[name] = fan_in_mask(w.shape, own, _seed(trial, i))
    return masks


def _snip(model: nn.Module, dataset: data.Data, total: int, trial: PeersTrial) -> Masks:
    """Judge by one batch of 100, as the paper does for MNIST."""
    chosen = torch.randperm(
        len(dataset.train), generator=torch.Generator().manual_seed(trial.seed)
    )[:100].to(dataset.device)
    return snip(model, dataset.train.inputs(chosen), dataset.train.labels[chosen], total)


def _synflow(model: nn.Module, dataset: data.Data, total: int, trial: PeersTrial) -> Masks:
    return synflow(model, dataset.shape, total)


def _seed(trial: PeersTrial, layer: int) -> int:
    return trial.seed * 16 + layer


_MASKS: dict[str, Callable[..., Masks]] = {
    "uniform": _paths,
    "sobol": _paths,
    "permutation": _paths,
    "random": _random,
    "erk": partial(_random, erk=True),
    "fan-in": _fan_in,
    "snip": _snip,
    "synflow": _synflow,
    "set": partial(_random, erk=True),
    "rigl": partial(_random, erk=True),
}
_CHANGING = {"set": Set, "rigl": RigL}


# --- what needs more than a mask ------------------------------------------------------------------


def _small(trial: PeersTrial, dataset: data.Data, total: int) -> dict[str, Any]:
    """Train a dense network with hidden layers so narrow that it has no more weights."""
    inputs, *hidden, outputs = trial.widths

    def widths(n: int) -> tuple[int, ...]:
        return (inputs, *[n] * len(hidden), outputs)

    def size(n: int) -> int:
        return sum(w.numel() for w in weights(network(widths(n), 0)).values())

    n = max((n for n in range(1, max(hidden) + 1) if size(n) <= total), default=1)
    model = network(widths(n), trial.seed).to(dataset.device)
    accuracy = fit(model, dataset, None, trial.epochs, trial.seed)
    return {"accuracy": accuracy, "edges": [w.numel() for w in weights(model).values()]}


def _pruned(trial: PeersTrial, model: nn.Module, dataset: data.Data, total: int) -> dict[str, Any]:
    """Train dense, keep the largest weights, and train those again for as long."""
    training.fit(model, dataset, epochs=trial.epochs, batch_size=BATCH, seed=trial.seed, **RECIPE)
    masks = magnitude(model, total)
    bare = copy.deepcopy(model)
    for name, w in weights(bare).items():
        w.data.mul_(masks[name])
    at_once = training.evaluate(bare, dataset.test).accuracy
    accuracy = fit(model, dataset, masks, trial.epochs, trial.seed + 1)
    counts = {"edges": edges(masks)} | _graph(masks)
    return {"accuracy": accuracy, "accuracy_at_once": at_once} | counts


def _trials(profile: str, seeds: Sequence[int]) -> list[PeersTrial]:
    fast = {"dataset": "digits", "widths": (64, 64, 64, 10), "epochs": 8}
    options = fast if profile == "fast" else {}
    densities = (0.1,) if profile == "fast" else (0.05, 0.01)
    methods = [*_MASKS, "small dense", "pruned"]
    trials = [PeersTrial(seed=seed, method="dense", density=1.0, **options) for seed in seeds]
    trials += [
        PeersTrial(seed=seed, method=method, density=density, **options)
        for density in densities
        for method in methods
        for seed in seeds
    ]
    if profile == "full":
        trials += [
            PeersTrial(seed=seed, method=method, density=0.01, shuffle=True)
            for method in ("uniform", "snip", "synflow")
            for seed in seeds
        ]
    return trials


EXPERIMENTS = [
    Experiment(
        name="paths-peers",
        summary="networks of paths and the field's sparse networks at equal numbers of edges",
        trial=PeersTrial,
        trials=_trials,
        run=_run,
        seeds=SEEDS,
        tolerance=0.01,
    ),
]
