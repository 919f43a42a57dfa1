"""Visits of backward walks, as a Markov chain has them, against sums over all paths."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.paths import chain
from mcnn.sampling import fold_in, uniforms

_START = 1 << 20  # no layer's number: the distribution over the outputs


@dataclass(frozen=True, kw_only=True)
class ChainTrial(Trial):
    """Random networks, small enough that all of their paths can be listed."""

    networks: int = 40
    most_layers: int = 6
    widest: int = 7


def listed(weights: Sequence[Tensor], start: Tensor) -> list[Tensor]:
    """Return the sums of products along all paths through each unit, [units] for each layer.

    Parameters
    ----------
    weights
        One matrix a layer, [units, units before], not negative.
    start
        Factor of each output, [units].
    """
    widths = [weights[0].shape[1], *map(len, weights)]
    paths = torch.cartesian_prod(*map(torch.arange, widths)).view(
        -1, len(widths)
    )  # [paths, layers]
    product = start[paths[:, -1]].clone()
    for layer, w in enumerate(weights):
        product *= w[paths[:, layer + 1], paths[:, layer]]
    return [
        torch.zeros(n, dtype=product.dtype).index_add_(0, paths[:, layer], product)
        for layer, n in enumerate(widths)
    ]


def random_network(trial: ChainTrial, number: int) -> list[Tensor]:
    """Draw widths and weights of either sign, about a third of them zero; no unit has none."""
    seed = fold_in(trial.seed, number)
    u = uniforms(seed, torch.arange(trial.most_layers + 1))
    layers = 2 + int(u[0] * (trial.most_layers - 1))
    widths = (1 + (u[1 : 1 + layers] * trial.widest).long()).tolist()
    weights = []
    for layer, (n, m) in enumerate(pairwise(widths)):
        own = fold_in(seed, layer)
        w = 2 * uniforms(own, torch.arange(n * m)).view(m, n) - 1
        kept = uniforms(fold_in(own, 1), torch.arange(n * m)).view(m, n) > 1 / 3
        weights.append(w * (kept | ~kept.any(1, keepdim=True)))
    return weights


def _run(trial: ChainTrial, device: torch.device) -> dict[str, Any]:
    """Return the largest differences over all networks, units and starts."""
    names = ("fundamental matrix", "product of matrices", "folded weights", "absorbed", "powers")
    worst = dict.fromkeys(names, 0.0)
    paths = 0
    for number in range(trial.networks):
        weights = random_network(trial, number)
        own = fold_in(fold_in(trial.seed, number), _START)
        raw = uniforms(own, torch.arange(len(weights[-1])))
        start = raw / raw.sum()
        exact = listed(chain.transitions(weights), start)
        below = listed([w.abs() for w in weights], torch.ones_like(start))[-1]
        shares = listed([w.abs() for w in weights], start / below)
        matrix, all_visits = chain.transition_matrix(weights), chain.fundamental_matrix(weights)
        from_outputs = start @ all_visits[-len(start) :]
        long = torch.linalg.matrix_power(matrix, len(weights))[-len(start) :]
        inputs = weights[0].shape[1]
        differences = {
            "fundamental matrix": from_outputs - torch.cat(exact),
            "product of matrices": torch.cat(chain.visits(weights, start)) - torch.cat(exact),
            "folded weights": torch.cat(chain.visits(chain.folded(weights), start))
            - torch.cat(shares),
            "absorbed": from_outputs[:inputs].sum() - 1,
            "powers": start @ long[:, :inputs] - exact[0],
        }
        for name, difference in differences.items():
            worst[name] = max(worst[name], float(difference.abs().max()))
        paths += torch.tensor([inputs, *map(len, weights)]).prod().item()
    return {"worst": worst, "paths": paths}


def _trials(profile: str, seeds: Sequence[int]) -> list[ChainTrial]:
    options = {"networks": 10} if profile == "fast" else {}
    return [ChainTrial(seed=seed, **options) for seed in seeds]


def _measure(records: Sequence[Record]) -> dict[str, list[float]]:
    about = {
        "fundamental matrix": "visits by the fundamental matrix, against all paths",
        "product of matrices": "visits by products of matrices, against all paths",
        "folded weights": "visits with folded weights, against shares of path weights",
        "absorbed": "absorption in inputs, against certainty",
        "powers": "absorption by a power of the transition matrix, against all paths",
    }
    return {text: [r.metrics["worst"][name] for r in records] for name, text in about.items()}


EXPERIMENTS = [
    Experiment(
        name="paths-chain",
        summary="visits of the backward walk as a Markov chain, against sums over all paths",
        trial=ChainTrial,
        trials=_trials,
        run=_run,
        seeds={"fast": range(1), "full": range(5)},
        measures={"paths-chain": _measure},
        tolerance=1e-12,
    ),
]
