"""Compressing trained networks by backward walks, beside pruning and beside sampling each layer."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mcnn import data, training
from mcnn.baselines.masks import edges_of, magnitude, weights
from mcnn.density.model import quantize
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.paths.compress import compress
from mcnn.training import nets


@dataclass(frozen=True, kw_only=True)
class AfterTrial(Trial):
    """A network, trained as in the chapter on densities, and how many paths walk through it.

    ``reading`` is the number of paths that the claim is about.
    """

    dataset: str = "mnist"
    net: str = "mlp"
    widths: tuple[int, ...] = (784, 300, 300, 10)
    epochs: int = 5
    paths: tuple[int, ...] = (1000, 3000, 10_000, 30_000, 100_000, 300_000)
    reading: int = 30_000
    samplings: int = 3


def _run(trial: AfterTrial, device: torch.device) -> dict[str, Any]:
    dataset = data.load(trial.dataset, device=device)
    options = {"widths": trial.widths} if trial.net == "mlp" else {"shape": dataset.shape}
    model = nets.build(trial.net, seed=trial.seed, **options).to(device)
    training.fit(model, dataset, epochs=trial.epochs, seed=trial.seed)
    model.eval()

    def accuracy(net: nn.Module) -> float:
        return training.evaluate(net, dataset.test).accuracy

    walked = {
        f"{method}, {kind}": [
            _mean([_row(*compress(model, n, method, kind, seed=s), accuracy) for s in seeds])
            for n in trial.paths
        ]
        for seeds in [range(trial.samplings)]
        for method in ("stratified", "iid")
        for kind in ("counts", "original")
    }
    walked["stratified, counts, folded"] = [
        _mean([_row(*compress(model, n, fold=True, seed=s), accuracy) for s in seeds])
        for n in trial.paths
        for seeds in [range(trial.samplings)]
    ]
    peers: dict[str, list[dict[str, float]]] = {name: [] for name in _PEERS}
    for row in walked["stratified, counts"]:
        for name, make in _PEERS.items():
            net, bits = make(model, row)
            distinct = sum(int(w.count_nonzero()) for w in weights(net).values())
            peers[name].append({"accuracy": accuracy(net), "distinct": distinct, "bits": bits})
    total = sum(w.numel() for w in weights(model).values())
    return {"dense": accuracy(model), "weights": total, "walked": walked, "peers": peers}


def _row(net: nn.Module, report: Any, accuracy: Callable[[nn.Module], float]) -> dict[str, float]:
    return {"accuracy": accuracy(net), "distinct": report.distinct, "bits": report.bits}


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


# --- peers, each as large as the walks left the network: in distinct weights, or in bits ----------


def _pruned_together(model: nn.Module, row: dict[str, float]) -> tuple[nn.Module, float]:
    return _pruned(model, round(row["distinct"]))


def _pruned_by_layer(model: nn.Module, row: dict[str, float]) -> tuple[nn.Module, float]:
    """Prune every layer to the same density."""
    sizes = {name: w.numel() for name, w in weights(model).items()}
    share = row["distinct"] / sum(sizes.values())
    edges = edges_of([share] * len(sizes), list(sizes.values()), round(row["distinct"]))
    return _pruned(model, dict(zip(sizes, edges, strict=True)))


def _sampled(model: nn.Module, row: dict[str, float]) -> tuple[nn.Module, float]:
    """Sample each layer by itself, a fraction of the fan-in."""

    def make(fraction: float) -> tuple[nn.Module, float, float]:
        net, report = quantize(model, fraction=fraction, seed=0)
        extra = sum(x.rows * 2 * 32 for x in report.layers)  # a scale and a bias
        return net, report.bits_per_weight * report.weights + extra, report.distinct

    fraction = _bisect(lambda f: make(f)[2] <= row["distinct"], 1e-3, 1e3)
    return make(fraction)[:2]


def _pruned_to_bits(model: nn.Module, row: dict[str, float]) -> tuple[nn.Module, float]:
    """Prune to as many bits, the weights that stay in single precision."""
    total = sum(w.numel() for w in weights(model).values())
    edges = _bisect(lambda e: _pruned(model, round(e))[1] <= row["bits"], 1, total)
    return _pruned(model, round(edges))


def _rounded_to_bits(model: nn.Module, row: dict[str, float]) -> tuple[nn.Module, float]:
    """Prune to as many bits, the weights that stay rounded to seven levels either side of zero."""
    total = sum(w.numel() for w in weights(model).values())
    edges = _bisect(lambda e: _rounded(model, round(e))[1] <= row["bits"], 1, total)
    return _rounded(model, round(edges))


def _bisect(small: Callable[[float], bool], low: float, high: float, steps: int = 14) -> float:
    """Return the largest number that is small enough, on a logarithmic scale."""
    if small(high):
        return high
    for _ in range(steps):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if small(middle) else (low, middle)
    return low


def _pruned(model: nn.Module, edges: int | dict[str, int]) -> tuple[nn.Module, float]:
    pruned = copy.deepcopy(model)
    bits = 0.0
    for name, mask in magnitude(model, edges).items():
        weight = weights(pruned)[name]
        weight.data.mul_(mask)
        bits += _entropy(mask) + 32 * int(mask.sum()) + 32 * len(weight)
    return pruned, bits


def _rounded(model: nn.Module, edges: int, levels: int = 7) -> tuple[nn.Module, float]:
    rounded, _ = _pruned(model, edges)
    bits = 0.0
    for w in weights(rounded).values():
        step = w.detach().abs().amax() / levels
        symbols = (w.detach() / step.clamp(min=1e-30)).round()
        w.data.copy_(symbols * step)
        bits += _entropy(symbols) + 32 * len(w) + 32
    return rounded, bits


def _entropy(symbols: torch.Tensor) -> float:
    """Return what an entropy coder comes close to, in bits."""
    numbers = torch.unique(symbols, return_counts=True)[1].tolist()
    return sum(-n * math.log2(n / symbols.numel()) for n in numbers)


_PEERS = {
    "largest weights": _pruned_together,
    "largest weights of each layer": _pruned_by_layer,
    "each layer sampled": _sampled,
    "largest weights, same bits": _pruned_to_bits,
    "largest weights rounded, same bits": _rounded_to_bits,
}


# --- trials and what is measured of them ----------------------------------------------------------


def _trials(profile: str, seeds: Sequence[int]) -> list[AfterTrial]:
    if profile == "fast":
        fast = {"dataset": "digits", "widths": (64, 64, 64, 10), "epochs": 20, "samplings": 2}
        fast |= {"paths": (300, 1000, 3000), "reading": 3000}
        return [AfterTrial(seed=seed, **fast) for seed in seeds]
    few = {"paths": (3000, 10_000, 30_000, 100_000), "samplings": 1}
    return [
        *(AfterTrial(seed=seed) for seed in seeds),
        *(AfterTrial(seed=seed, net="lenet5", widths=(), **few) for seed in seeds[:3]),
    ]


def at(record: Record, group: str, name: str, paths: int | None = None) -> float:
    """Return the accuracy of a network of a record, at a number of paths."""
    index = record.config.paths.index(paths or record.config.reading)
    return record.metrics[group][name][index]["accuracy"]


def _measure_after(records: Sequence[Record]) -> dict[str, list[float]]:
    dense = [r.metrics["dense"] for r in records if r.config.net == "mlp"]
    mlp = [r for r in records if r.config.net == "mlp"]
    counts = [at(r, "walked", "stratified, counts") for r in mlp]
    readings = {
        "relative accuracy": [c / d for c, d in zip(counts, dense, strict=True)],
        "minus iid walks": [
            c - at(r, "walked", "iid, counts") for c, r in zip(counts, mlp, strict=True)
        ],
        "minus each layer sampled": [
            c - at(r, "peers", "each layer sampled") for c, r in zip(counts, mlp, strict=True)
        ],
    }
    lenet = [r for r in records if r.config.net == "lenet5"]
    if lenet:
        readings["LeNet-5: relative accuracy"] = [
            at(r, "walked", "stratified, counts") / r.metrics["dense"] for r in lenet
        ]
    return readings


def _measure_pruning(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return differences of accuracy, walks minus pruning."""
    readings: dict[str, list[float]] = {}
    for record in records:
        about = "" if record.config.net == "mlp" else "LeNet-5: "
        for paths in record.config.paths:
            counts = at(record, "walked", "stratified, counts", paths)
            for name in (n for n in _PEERS if n.startswith("largest")):
                reading = f"{about}{name}, {paths} paths"
                difference = counts - at(record, "peers", name, paths)
                readings.setdefault(reading, []).append(difference)
    return readings


EXPERIMENTS = [
    Experiment(
        name="paths-after",
        summary="accuracy after compression by backward walks, against pruning and sampling",
        trial=AfterTrial,
        trials=_trials,
        run=_run,
        seeds={"fast": range(1), "full": range(5)},
        measures={"paths-after": _measure_after, "paths-after-pruning": _measure_pruning},
        tolerance=0.02,
    ),
]
