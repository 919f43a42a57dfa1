"""Dot products, towers and both together, trained on the same batches and ranked by both metrics.

Every second epoch all models are looked at; that with the best hit rate of the *validation* items
is the one whose test items count.
Hit rates among 99 random items are expectations over all draws, so that no luck of a draw orders
models.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from mcnn.experiments.ranking.common import fingerprint, load
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.ranking import GMF, MLP, Dot, Interactions, NeuMF, hit_rate, ndcg, ranks
from mcnn.ranking.models import Ranker
from mcnn.ranking.training import Recipe, epochs
from mcnn.sampling import fold_in

POPULARITY = "popularity"
METRICS = ("among 99", "among all")
TOWERS = {1: (16, 8), 2: (32, 16, 8), 3: (64, 32, 16, 8)}  # by depth, as the paper makes them
SHALLOW = (64, 8)  # the embeddings of three layers, and one layer


@dataclass(frozen=True, kw_only=True)
class ModelsTrial(Trial):
    """All models on one data set."""

    ratings: str = "movielens"
    epochs: int = 14
    every: int = 2
    batch_size: int = 1024
    lr: float = 0.008
    factors: int = 8
    dot_factors: int = 32  # of the tuned ones
    dot_spread: float = 0.1
    dot_recipe: tuple[float, float] = (0.008, 0.1)
    neumf_recipe: tuple[float, float] = (0.008, 0.03)
    paths: int = 256
    k: int = 10
    sampled: int = 99


def build(trial: ModelsTrial, data: Interactions) -> dict[str, tuple[Ranker, Recipe]]:
    """Return the models and how each of them learns."""
    sizes = (data.users, data.items)
    plain = Recipe(trial.lr)
    seed = fold_in(trial.seed, 0)  # of all: what has one shape starts alike
    made: dict[str, tuple[Ranker, Recipe]] = {
        "dot, tuned": (
            Dot(*sizes, trial.dot_factors, seed, trial.dot_spread),
            Recipe(*trial.dot_recipe),
        ),
        "dot": (Dot(*sizes, trial.factors, seed), plain),
        "GMF": (GMF(*sizes, trial.factors, seed), plain),
        "NeuMF": (NeuMF(*sizes, trial.factors, seed=seed), plain),
        "NeuMF, tuned": (
            NeuMF(*sizes, trial.factors, seed=seed),
            Recipe(*trial.neumf_recipe),
        ),
        "NeuMF, paths": (
            NeuMF(*sizes, trial.factors, paths=trial.paths, seed=seed),
            plain,
        ),
    }
    for depth, tower in TOWERS.items():
        made[f"MLP-{depth}"] = (MLP(*sizes, tower, seed=seed), plain)
    made["MLP-1, wide"] = (MLP(*sizes, SHALLOW, seed=seed), plain)
    return made


def _run(trial: ModelsTrial, device: torch.device) -> dict[str, Any]:
    data = load(trial.ratings, trial.seed)
    models = build(trial, data)
    for model, _ in models.values():
        model.to(device)
    learning = epochs(
        list(models.values()),
        data,
        number=trial.epochs,
        batch_size=trial.batch_size,
        generator=torch.Generator().manual_seed(fold_in(trial.seed, 1)),
    )
    curves: dict[str, list[dict[str, float]]] = {name: [] for name in models}
    for epoch in learning:
        if epoch % trial.every == 0:
            for name, (model, _) in models.items():
                curves[name].append({"epoch": epoch, **_look(model.scores().cpu(), data, trial)})
    popular = data.popularity.expand(data.users, -1)
    found: dict[str, Any] = {POPULARITY: _look(popular, data, trial) | {"weights": 0}}
    for name, curve in curves.items():
        best = max(curve, key=lambda look: look["validation"])
        weights = sum(p.numel() for p in models[name][0].parameters())
        found[name] = best | {"weights": weights, "curve": curve}
    return {"fingerprint": fingerprint(trial.ratings), "models": found}


def _look(scores: Tensor, data: Interactions, trial: ModelsTrial) -> dict[str, float]:
    """Return the hit rate of the validation items, and the metrics of the test items."""
    candidates = ~data.seen
    n = candidates.sum(1)
    validation = ranks(scores, data.validation, candidates)
    rank = ranks(scores, data.test, candidates)
    return {
        "validation": hit_rate(validation, n, trial.k, trial.sampled),
        METRICS[0]: hit_rate(rank, n, trial.k, trial.sampled),
        METRICS[1]: hit_rate(rank, n, trial.k, None),
        f"NDCG {METRICS[0]}": ndcg(rank, n, trial.k, trial.sampled),
        f"NDCG {METRICS[1]}": ndcg(rank, n, trial.k, None),
    }


def tau(x: Sequence[float], y: Sequence[float]) -> float:
    """Return Kendall's rank correlation: pairs ordered alike minus others, over all pairs.

    A pair that is equal in one of the two counts half.

    Examples
    --------
    >>> tau([1, 2, 3], [1, 3, 2])
    0.3333333333333333
    """
    pairs = list(combinations(range(len(x)), 2))
    signs = [_sign(x[i] - x[j]) * _sign(y[i] - y[j]) for i, j in pairs]
    return sum(signs) / len(pairs)


def _sign(x: float) -> int:
    return (x > 0) - (x < 0)


def _trials(profile: str, seeds: Sequence[int]) -> list[ModelsTrial]:
    fast: dict[str, Any] = {"ratings": "generated", "epochs": 8, "batch_size": 512}
    return [ModelsTrial(seed=seed, **({} if profile == "full" else fast)) for seed in seeds]


def _minus(recorded: Sequence[Record], one: str, other: str) -> dict[str, list[float]]:
    keys = (*METRICS, *(f"NDCG {m}" for m in METRICS))
    words = {key: key if key.startswith("NDCG") else f"hit rate {key}" for key in keys}
    return {
        f"{words[key]}, {one} minus {other}": [
            r.metrics["models"][one][key] - r.metrics["models"][other][key] for r in recorded
        ]
        for key in keys
    }


def _measure_neumf(recorded: Sequence[Record]) -> dict[str, list[float]]:
    pairs = (
        ("NeuMF", "dot, tuned"),
        ("NeuMF, tuned", "dot, tuned"),
        ("NeuMF", "GMF"),
        ("NeuMF", "dot"),
    )
    return {key: v for pair in pairs for key, v in _minus(recorded, *pair).items()}


def _measure_depth(recorded: Sequence[Record]) -> dict[str, list[float]]:
    pairs = (("MLP-2", "MLP-1"), ("MLP-3", "MLP-1"), ("MLP-3", "MLP-2"), ("MLP-3", "MLP-1, wide"))
    readings = {key: v for pair in pairs for key, v in _minus(recorded, *pair).items()}
    for name in (*(f"MLP-{depth}" for depth in TOWERS), "MLP-1, wide"):
        readings[f"epoch chosen, {name}"] = [
            float(r.metrics["models"][name]["epoch"]) for r in recorded
        ]
    return readings


def _measure_paths(recorded: Sequence[Record]) -> dict[str, list[float]]:
    return _minus(recorded, "NeuMF, paths", "NeuMF")


def _measure_order(recorded: Sequence[Record]) -> dict[str, list[float]]:
    chosen, learning = [], []
    for r in recorded:
        looks = list(r.metrics["models"].values())
        chosen.append(tau(*([look[m] for look in looks] for m in METRICS)))
        looks = [look for model in r.metrics["models"].values() for look in model.get("curve", ())]
        learning.append(tau(*([look[m] for look in looks] for m in METRICS)))
    return {"tau, models chosen": chosen, "tau, all models at all epochs": learning}


EXPERIMENTS = [
    Experiment(
        name="ranking-models",
        summary="dot products, towers and NeuMF by hit rates among 99 random items and among all",
        trial=ModelsTrial,
        trials=_trials,
        run=_run,
        seeds={"fast": range(1), "full": range(9)},
        measures={
            "ranking-neumf": _measure_neumf,
            "ranking-dot": _measure_neumf,
            "ranking-depth": _measure_depth,
            "ranking-embeddings": _measure_depth,
            "ranking-paths": _measure_paths,
            "ranking-order": _measure_order,
        },
        tolerance=0.05,  # of a hit rate; epochs and numbers of weights are equal, or one is another
    ),
]
