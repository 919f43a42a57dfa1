"""Sampled metrics, sampled ranks and sampled losses of one model, against what they stand for.

The model is a dot product that has learned for a while.
All ranks, all losses and all variances are also sums over all pairs, so that nothing is left to
chance but what is drawn; what is drawn is judged by the normal distribution of its mean.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mcnn.experiments.ranking.common import fingerprint, load
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.ranking import GMF, Dot, Interactions, NeuMF, negatives, ranks, sampled_ranks
from mcnn.ranking.metrics import expected, gains, unbiased_rank
from mcnn.ranking.training import Recipe, epochs
from mcnn.sampling import fold_in

SUMS = ("rank", "loss", "gradient")


@dataclass(frozen=True, kw_only=True)
class EstimatesTrial(Trial):
    """A model, and how often is drawn what for it."""

    ratings: str = "movielens"
    factors: int = 32
    spread: float = 0.1
    epochs: int = 5
    lr: float = 0.008
    decay: float = 0.1
    batch_size: int = 1024
    sampled: int = 99
    k: int = 10
    repeats: int = 100
    powers: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)


def _run(trial: EstimatesTrial, device: torch.device) -> dict[str, Any]:
    data = load(trial.ratings, trial.seed)
    seed = fold_in(trial.seed, 0)
    model = Dot(data.users, data.items, trial.factors, seed, trial.spread).to(device)
    learning = epochs(
        [(model, Recipe(trial.lr, trial.decay))],
        data,
        number=trial.epochs,
        batch_size=trial.batch_size,
        generator=torch.Generator().manual_seed(fold_in(trial.seed, 1)),
    )
    for _ in learning:
        pass
    model = model.cpu().double()
    scores = model.scores()
    generator = torch.Generator().manual_seed(fold_in(trial.seed, 2))
    return {
        "fingerprint": fingerprint(trial.ratings),
        "metric": _metrics(scores, data, trial, generator),
        "sums": _sums(scores, data, trial, generator),
        "variance": _variances(model, scores, data, trial.powers),
        "generalise": _generalise(model, scores),
    }


def _metrics(
    scores: Tensor, data: Interactions, trial: EstimatesTrial, generator: torch.Generator
) -> dict[str, Any]:
    """Return sampled metrics, their expectation from full ranks, and the p-value of the gap."""
    candidates = ~data.seen
    n = candidates.sum(1)
    rank = ranks(scores, data.test, candidates)
    drawn = torch.stack(
        [
            sampled_ranks(scores, data.test, candidates, trial.sampled, generator)
            for _ in range(trial.repeats)
        ]
    )  # [repeats, users]
    found: dict[str, Any] = {}
    for kind in ("hit", "ndcg"):
        gain = gains(kind, trial.k)
        mean = expected(rank, n, gain, trial.sampled)
        spread = expected(rank, n, gain**2, trial.sampled) - mean.square()
        seen = expected(drawn.flatten(), n.repeat(trial.repeats), gain).mean()
        error = math.sqrt(float(spread.sum()) / trial.repeats) / data.users
        found[kind] = {
            "drawn": float(seen),
            "expected": float(mean.mean()),
            "full": float(expected(rank, n, gain).mean()),
            "p": _two_sided(float(seen - mean.mean()), error),
        }
    return found


def _sums(
    scores: Tensor, data: Interactions, trial: EstimatesTrial, generator: torch.Generator
) -> dict[str, Any]:
    """Return p-values of estimated ranks and losses, and how far off they are without weights."""
    candidates = ~data.seen
    rank = ranks(scores, data.test, candidates).double()
    loss = F.softplus(scores)  # of an item that was not chosen
    total = (loss * candidates).sum(1)
    better = (scores >= scores.gather(1, data.test[:, None])) & candidates
    found: dict[str, Any] = {}
    for name, popularity in (("uniform", None), ("popularity", data.popularity)):
        q = negatives.density(candidates, popularity)
        n = candidates.sum(1, keepdim=True)
        gaps = {"rank": 0.0, "loss": 0.0, "rank, no weights": 0.0}
        for _ in range(trial.repeats):
            item = negatives.draw(q, trial.sampled, generator)
            own = q.gather(1, item)
            estimate = unbiased_rank(scores, data.test, item, q)
            gaps["rank"] += float((estimate - rank).sum())
            estimate = negatives.weighted_sum(loss.gather(1, item), own)
            gaps["loss"] += float((estimate - total).sum())
            plain = (better.gather(1, item) * n).double().mean(1)
            gaps["rank, no weights"] += float((plain - rank).sum())
        draws = trial.sampled * trial.repeats
        spread = {
            "rank": negatives.variance(better.double(), rank.square(), q),
            "loss": negatives.variance(loss.square(), total.square(), q),
        }
        found[name] = {
            f"p, {key}": _two_sided(
                gaps[key] / trial.repeats, math.sqrt(float(spread[key].sum()) / draws)
            )
            for key in spread
        }
        found[name]["bias without weights"] = (
            gaps["rank, no weights"] / trial.repeats / float(rank.sum())
        )
    return found


def _two_sided(gap: float, error: float) -> float:
    """Return the probability of a gap at least as large, if it is normal around zero."""
    return math.erfc(abs(gap) / error / math.sqrt(2))


def _variances(
    model: Dot, scores: Tensor, data: Interactions, powers: Sequence[float]
) -> dict[str, list[float]]:
    """Return exact variances of one draw for powers of the popularity, over those of power 0."""
    candidates = ~data.seen
    better = ((scores >= scores.gather(1, data.test[:, None])) & candidates).double()
    loss = F.softplus(scores) * candidates
    squares, total = gradient(model, scores, candidates)
    found: dict[str, list[float]] = {name: [] for name in SUMS}
    for power in powers:
        q = negatives.density(candidates, data.popularity, power)
        parts = (
            negatives.variance(better, better.sum(1).square(), q),
            negatives.variance(loss.square(), loss.sum(1).square(), q),
            negatives.variance(squares, total, q),
        )
        for name, part in zip(SUMS, parts, strict=True):
            found[name].append(float(part.sum()))
    uniform = negatives.density(candidates)
    first = negatives.variance(better, better.sum(1).square(), uniform)
    base = {"rank": float(first.sum())}
    base["loss"] = float(negatives.variance(loss.square(), loss.sum(1).square(), uniform).sum())
    base["gradient"] = float(negatives.variance(squares, total, uniform).sum())
    return {name: [v / base[name] for v in values] for name, values in found.items()}


@torch.no_grad()
def gradient(model: Dot, scores: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return squared lengths of the gradients of a user's losses, and of their sum.

    The loss of a pair that was not chosen is softplus(s), so its gradient is
    :math:`\sigma(s)` times that of the score: q for the user, p for the item, 1 for three biases.

    Returns
    -------
    tuple of Tensor
        [users, items], for each pair, and [users], for the sum over a user's candidates.
    """
    slope = scores.sigmoid() * candidates  # [users, items]
    p, q = model.user.weight, model.item.weight
    of_p, of_q = p.square().sum(1), q.square().sum(1)
    squares = slope.square() * (of_q + of_p[:, None] + 3)
    shared = (slope @ q).square().sum(1) + 2 * slope.sum(1).square()  # p, its bias, the bias of all
    return squares, shared + slope.square().sum(1) * (of_p + 1)


@torch.no_grad()
def _generalise(model: Dot, scores: Tensor) -> dict[str, float]:
    """Return how far a GMF and a NeuMF are from the dot product that they are made to be."""
    users, items = scores.shape
    factors = model.user.embedding_dim
    one = torch.ones(users, 1), torch.ones(items, 1)
    p = torch.cat([model.user.weight, model.user_bias.weight, one[0]], 1)
    q = torch.cat([model.item.weight, one[1], model.item_bias.weight], 1)
    gmf = GMF(users, items, factors + 2, seed=0).double()
    neumf = NeuMF(users, items, factors + 2, seed=0).double()
    gmf.user.weight.copy_(p)
    gmf.item.weight.copy_(q)
    neumf.gmf_user.weight.copy_(p)
    neumf.gmf_item.weight.copy_(q)
    for net in (gmf, neumf):
        net.last.weight.zero_()
        net.last.weight[:, : factors + 2] = 1
        net.last.bias.copy_(model.bias)
    return {
        "GMF": float((gmf.scores() - scores).abs().max()),
        "NeuMF": float((neumf.scores() - scores).abs().max()),
    }


def _trials(profile: str, seeds: Sequence[int]) -> list[EstimatesTrial]:
    fast: dict[str, Any] = {"ratings": "generated", "epochs": 10, "repeats": 50, "batch_size": 256}
    return [EstimatesTrial(seed=seed, **({} if profile == "full" else fast)) for seed in seeds]


def _measure_sampled(recorded: Sequence[Record]) -> dict[str, list[float]]:
    found = [r.metrics["metric"] for r in recorded]
    return {
        "p, hit rate": [f["hit"]["p"] for f in found],
        "p, NDCG": [f["ndcg"]["p"] for f in found],
        "hit rate among 99, drawn": [f["hit"]["drawn"] for f in found],
        "hit rate among 99, expected": [f["hit"]["expected"] for f in found],
        "hit rate among all": [f["hit"]["full"] for f in found],
    }


def _measure_unbiased(recorded: Sequence[Record]) -> dict[str, list[float]]:
    found = [r.metrics["sums"] for r in recorded]
    readings = {
        f"p, {key}, {name}": [f[name][f"p, {key}"] for f in found]
        for key in ("rank", "loss")
        for name in ("uniform", "popularity")
    }
    readings["bias of the rank by popularity, without weights"] = [
        f["popularity"]["bias without weights"] for f in found
    ]
    return readings


def _measure_variance(recorded: Sequence[Record]) -> dict[str, list[float]]:
    powers = recorded[0].config.powers
    return {
        f"variance of the {name}, popularity to the {power:g} over uniform": [
            r.metrics["variance"][name][i] for r in recorded
        ]
        for name in SUMS
        for i, power in enumerate(powers)
        if power
    }


def _measure_generalise(recorded: Sequence[Record]) -> dict[str, list[float]]:
    return {
        f"largest difference, {name}": [r.metrics["generalise"][name] for r in recorded]
        for name in ("GMF", "NeuMF")
    }


EXPERIMENTS = [
    Experiment(
        name="ranking-estimates",
        summary="sampled metrics, ranks and losses against the sums that they stand for",
        trial=EstimatesTrial,
        trials=_trials,
        run=_run,
        seeds={"fast": range(1), "full": range(5)},
        measures={
            "ranking-sampled": _measure_sampled,
            "ranking-unbiased": _measure_unbiased,
            "ranking-variance": _measure_variance,
            "ranking-variance-rank": _measure_variance,
            "ranking-generalise": _measure_generalise,
        },
        tolerance=0.05,  # p-values of a model that learned on another machine
    ),
]
