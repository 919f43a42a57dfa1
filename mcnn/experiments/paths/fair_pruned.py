"""What sparse training is measured by: the dense network, and what is left of it after pruning.

Pruning sees a trained dense network, so it costs what sparse training is meant to save, and here it
trains twice as long: once dense, once with the largest weights of all layers together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mcnn import data, training
from mcnn.baselines.masks import magnitude, weights
from mcnn.experiments.paths.common import network
from mcnn.experiments.paths.fair import BATCH, CHOOSING, FULL, GRID, SEEDS
from mcnn.experiments.paths.fair_networks import SCALE, masks_from
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.paths.graph import Graph
from mcnn.training.sparse_ensemble import Network, SparseLayer, evaluate_sparse, fit_sparse

DENSITIES = (0.005, 0.01, 0.02, 0.05)

# What paths-fair-pruned-rate chooses, for the dense network and for each density; a test holds it
# against the records.
RATE: float | None = 0.05
AGAIN: tuple[float, ...] = (0.2, 0.4, 0.4, 0.4)


@dataclass(frozen=True, kw_only=True)
class PrunedTrial(Trial):
    """A dense network, and the same pruned to each of several densities and trained again.

    Parameters
    ----------
    rates
        The learning rates of the dense network, of which the best on the images held out goes on.
    again
        Those of the pruned networks: one for each density; to choose, all that each is tried with.
    choose
        Whether networks are judged on the images held out, not on the test set.
    """

    dataset: str = "fashion-mnist"
    densities: tuple[float, ...] = DENSITIES
    rates: tuple[float, ...] = (0.1,)
    again: tuple[float, ...] = (0.1, 0.1, 0.1, 0.1)
    choose: bool = False
    widths: tuple[int, ...] = FULL
    epochs: int = 20
    validation: int = 5000


def _run(trial: PrunedTrial, device: torch.device) -> dict[str, Any]:
    dataset = data.load(trial.dataset, validation=trial.validation)
    judged = dataset.validation if trial.choose else dataset.test
    options = {"epochs": trial.epochs, "batch_size": BATCH, "scale": SCALE}
    best, dense, chosen = None, [], -1.0
    for rate in trial.rates:
        model = network(trial.widths, trial.seed)
        try:
            training.fit(model, dataset, lr=rate, seed=trial.seed, **options)
        except training.DivergenceError:
            dense.append(0.0)
            continue
        dense.append(training.evaluate(model, judged, SCALE).accuracy)
        held = training.evaluate(model, dataset.validation, SCALE).accuracy
        if held > chosen:
            best, chosen = model, held
    size = sum(w.numel() for w in weights(best).values())
    pruned = [_pruned(best, round(density * size)) for density in trial.densities]
    at_once = evaluate_sparse(pruned, judged, SCALE)
    tries = len(trial.again) if trial.choose else 1
    again = trial.again * len(pruned) if trial.choose else trial.again
    nets = [net for net in pruned for _ in range(tries)]
    trained = fit_sparse(nets, dataset, lrs=again, seed=trial.seed + 1000, **options)
    after = [score.accuracy for score in evaluate_sparse(trained, judged, SCALE)]
    rows = {}
    for i, (density, net) in enumerate(zip(trial.densities, pruned, strict=True)):
        graph = Graph.of_masks(masks_from(net, trial.widths[0]))
        tried = after[i * tries : (i + 1) * tries]
        rows[str(density)] = {
            "edges": list(graph.unique),
            "useless": sum(graph.useless),
            "coverage": list(graph.coverage),
            "at once": at_once[i].accuracy,
            "accuracy": tried if trial.choose else tried[0],
        }
    return {"dense": dense if trial.choose else dense[0], "pruned": rows}


def _pruned(model: nn.Sequential, edges: int) -> Network:
    masks = magnitude(model, edges)
    layers = []
    for name, layer in model.named_children():
        if name in masks:
            ends = masks[name].nonzero().T.flip(0).contiguous()  # [2, edges]
            weight, bias = layer.weight.detach(), layer.bias.detach()
            layers.append(SparseLayer(ends, weight[masks[name]], bias.clone()))
    return layers


def chosen(recorded: Sequence[Record]) -> tuple[float, tuple[float, ...]]:
    """Return the rate of the dense network and those of the pruned ones that records choose."""
    trial = recorded[0].config

    def best(tries: Sequence[Sequence[float]], rates: Sequence[float]) -> float:
        totals = [sum(values) for values in zip(*tries, strict=True)]
        return rates[totals.index(max(totals))]

    dense = best([r.metrics["dense"] for r in recorded], trial.rates)
    again = (
        best([r.metrics["pruned"][str(density)]["accuracy"] for r in recorded], trial.again)
        for density in trial.densities
    )
    return dense, tuple(again)


_FAST: dict[str, Any] = {
    "dataset": "digits",
    "widths": (64, 64, 64, 10),
    "densities": (0.1, 0.2),
    "epochs": 5,
    "validation": 137,
}


def _rate_trials(profile: str, seeds: Sequence[int]) -> list[PrunedTrial]:
    if profile == "fast":
        rates = (0.05, 0.1)
        options = _FAST | {"rates": rates, "again": rates}
    else:
        options = {"rates": GRID, "again": GRID, "epochs": 5}
    return [PrunedTrial(seed=seed, choose=True, **options) for seed in seeds]


def _trials(profile: str, seeds: Sequence[int]) -> list[PrunedTrial]:
    if profile == "full" and RATE is None:
        return []
    options = _FAST | {"again": (0.1, 0.1)}
    if profile == "full":
        options = {"rates": (RATE,), "again": AGAIN}
    return [PrunedTrial(seed=seed, **options) for seed in seeds]


EXPERIMENTS = [
    Experiment(
        name="paths-fair-pruned-rate",
        summary="learning rates of the dense and the pruned network, chosen on images held out",
        trial=PrunedTrial,
        trials=_rate_trials,
        run=_run,
        seeds=CHOOSING,
        tolerance=0.01,
    ),
    Experiment(
        name="paths-fair-pruned",
        summary="the dense network, and what pruning leaves of it at each density",
        trial=PrunedTrial,
        trials=_trials,
        run=_run,
        seeds=SEEDS,
        tolerance=0.01,
    ),
]
