"""Accuracy of a trained network whose weights are sampled, under every reading of the claim."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mcnn import density
from mcnn.baselines import rounding
from mcnn.density.counts import cumulative_mass
from mcnn.experiments.density.common import (
    FAST_DATASET,
    FAST_WIDTHS,
    RECIPES,
    SEEDS,
    NetTrial,
    accuracy,
    linears,
    trained,
)
from mcnn.ledger.experiment import Experiment
from mcnn.ledger.records import Record


@dataclass(frozen=True, kw_only=True)
class MnistTrial(NetTrial):
    """Samples of the primary reading, those of the curve, and samplings of each."""

    samples: int = 94
    curve: tuple[int, ...] = ()
    samplings: int = 10


def _run_mnist(trial: MnistTrial, device: torch.device) -> dict[str, Any]:
    model, dataset = trained(trial, device)
    first = next(iter(linears(model)))
    fraction = trial.samples / trial.widths[0]

    def sampled(**options: Any) -> list[float]:
        """Sample the network several times and test each."""
        return [
            accuracy(
                density.quantize(model, **{"method": "jittered"} | options, seed=s)[0], dataset
            )
            for s in range(trial.samplings)
        ]

    own = {"samples": trial.samples, "layers": first}
    readings = {"first layer, jittered": sampled(**own)}
    if trial.curve:
        for method in ("iid", "systematic", "van-der-corput"):
            readings[f"first layer, {method}"] = sampled(**own, method=method)
        for method in ("jittered", "systematic"):
            readings[f"first layer, {method}, sorted"] = sampled(
                **own, method=method, order="sorted"
            )
        readings["first layer, jittered, one density a layer"] = sampled(**own, normalize="tensor")
        readings["first layer, jittered, biases sampled"] = sampled(**own, bias="sampled")
    readings["all layers, jittered"] = sampled(samples=trial.samples)
    readings["12 % of each fan-in, jittered"] = sampled(fraction=fraction)
    readings["first layer, largest weights"] = [accuracy(_pruned(model, fraction, first), dataset)]
    readings["all layers, largest weights"] = [accuracy(_pruned(model, fraction, None), dataset)]
    walked = [_walked(model, fraction, seed) for seed in range(trial.samplings)]
    for number, name in enumerate(("backward paths", "backward paths, counted")):
        readings[f"all layers, {name}"] = [accuracy(pair[number], dataset) for pair in walked]
    curve = {
        method: [sampled(samples=s, layers=first, method=method) for s in trial.curve]
        for method in density.METHODS
        if trial.curve
    }
    return {"dense": accuracy(model, dataset), "readings": readings, "curve": curve}


def _pruned(model: nn.Module, fraction: float, layer: str | None) -> nn.Module:
    """Keep the largest weights: of one layer or of all, the same number in each row."""
    pruned = copy.deepcopy(model)
    for name, module in linears(pruned).items():
        if layer in (None, name):
            module.weight.data.copy_(rounding.largest(module.weight, fraction))
    return pruned


def _widths(model: nn.Module) -> tuple[int, ...]:
    layers = list(linears(model).values())
    return (*(m.in_features for m in layers), layers[-1].out_features)


def _walked(
    model: nn.Module, fraction: float, seed: int, walks: int = 200_000
) -> tuple[nn.Module, nn.Module]:
    """Walk backwards until the fraction of all weights has been seen; return two networks.

    A walk starts at an output, each equally often, and steps from a unit to one of its inputs with
    probability in proportion to the magnitude of the weight between them.
    One network keeps the weights that were seen, the other has counts of how often.

    Not :func:`mcnn.paths.compress`, which takes a number of paths and counts walks without an
    order: here walks come one after the other, and stop at a fraction of the weights.
    Its random numbers are others too, so records would not be the same.
    """
    layers = _walk(model, seed, walks)
    first_seen = {}
    for name, (edge, _) in layers.items():
        w = linears(model)[name].weight
        seen = torch.full((w.numel(),), walks).scatter_reduce_(0, edge, torch.arange(walks), "amin")
        first_seen[name] = seen.view_as(w)
    everything = torch.cat([seen.flatten() for seen in first_seen.values()])
    last = int(everything.sort().values[round(fraction * everything.numel()) - 1])
    if last == walks:
        raise ValueError(f"{walks} walks see less than {fraction:.0%} of the weights")
    kept, counted = copy.deepcopy(model), copy.deepcopy(model)
    for name, module in linears(kept).items():
        module.weight.data.mul_((first_seen[name] <= last).to(module.weight.device))
    for name, module in linears(counted).items():
        edge, unit = (x[: last + 1] for x in layers[name])
        w = module.weight.data
        hits = torch.bincount(edge, minlength=w.numel()).view_as(w).to(w)
        visits = torch.bincount(unit, minlength=len(w)).clamp(min=1).to(w)[:, None]
        w.copy_(w.sign() * hits / visits * w.abs().sum(1, keepdim=True))
    return kept, counted


def _walk(model: nn.Module, seed: int, walks: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Return for each layer the edge that each walk takes, and the unit it comes from [walks]."""
    generator = torch.Generator().manual_seed(seed)
    unit = torch.arange(walks) % _widths(model)[-1]
    taken = {}
    for name, module in reversed(linears(model).items()):
        w = module.weight.detach().cpu()
        edges = cumulative_mass(w)  # [rows, n]
        total = edges[:, -1]  # [rows]
        start = total.cumsum(0) - total  # [rows]: all rows end to end make one sorted list
        xi = (torch.rand(walks, generator=generator, dtype=torch.float64) * total[unit]).long()
        edge = torch.searchsorted((edges + start[:, None]).flatten(), xi + start[unit], right=True)
        taken[name] = edge, unit
        unit = edge - unit * w.shape[1]
    return taken


def _mnist_trials(profile: str, seeds: Sequence[int]) -> list[MnistTrial]:
    if profile == "fast":
        fast = {"dataset": FAST_DATASET, "widths": FAST_WIDTHS, "samples": 8, "epochs": 20}
        curve = (4, 8, 16, 32, 48)
        return [MnistTrial(seed=seed, curve=curve, samplings=5, **fast) for seed in seeds]
    curve = tuple(range(50, 601, 50))
    return [
        trial
        for seed in seeds
        for trial in (
            MnistTrial(seed=seed, curve=curve),
            *(MnistTrial(seed=seed, recipe=recipe) for recipe in RECIPES if recipe != "sgd"),
            MnistTrial(seed=seed, widths=(784, 300, 300, 10)),
        )
    ]


def _measure_mnist(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return relative accuracies: the mean over samplings is one value for each training."""
    readings: dict[str, list[float]] = {}
    for record in records:
        trial = record.config
        about = [] if trial.recipe == "sgd" else [trial.recipe]
        about += ["two hidden layers"] if len(trial.widths) == 4 else []
        for name, accuracies in record.metrics["readings"].items():
            relative = sum(accuracies) / len(accuracies) / record.metrics["dense"]
            readings.setdefault(
                ": ".join([", ".join(about), name] if about else [name]), []
            ).append(relative)
    return readings


EXPERIMENTS = [
    Experiment(
        name="density-mnist",
        summary="accuracy with 12 % of the weights sampled, every reading",
        trial=MnistTrial,
        trials=_mnist_trials,
        run=_run_mnist,
        seeds=SEEDS,
        measures={"density-mnist": _measure_mnist},
        tolerance=0.01,
    ),
]
