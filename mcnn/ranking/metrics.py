r"""How high an item ranks among all, and what a few random ones say about that.

The *rank* R of a held out item is the number of items that the user never chose and that score at
least as high: 0 is best.
A metric is the mean over users of a function g(R): of 1 for R < k, the *hit rate* at k, or of
:math:`1/\log_2(R+2)` there, the *NDCG*.

Against m random items in place of all N the item has the rank K, which is hypergeometric, and

.. math:: \mathbb E\,g(K)\ne g(\mathbb E\,K\,N/m)=g(R).

So "hit rate at 10 among 99" is the mean of *another function of the rank*, :math:`\mathbb E\,g(K)`
as a function of R, which :func:`mcnn.ranking.hit_rate` computes without a random number: it falls
from one to zero not at rank 10 but around rank N/10, slowly.
"""

import operator

import numpy as np
import torch
from torch import Tensor

from mcnn.errors import UsageError

SAMPLED = 99  # items that the paper ranks against


def ranks(scores: Tensor, item: Tensor, candidates: Tensor) -> Tensor:
    """Return how many candidates score at least as high as an item, int64 [users].

    Equal scores count against the item: a model that gives one score to all is not a good one.

    Parameters
    ----------
    scores
        [users, items].
    item
        int64 [users], the held out items.
    candidates
        bool [users, items], without the held out items.

    Raises
    ------
    UsageError
        If a score is not a number: nothing is as high as it, and it would rank first. If shapes do
        not fit, or a held out item is among its own candidates.

    Examples
    --------
    >>> scores = torch.tensor([[3.0, 1.0, 2.0, 2.0]])
    >>> ranks(scores, torch.tensor([2]), torch.tensor([[True, True, False, True]])).tolist()
    [2]
    """
    own = _own(scores, item)
    _check_candidates(scores, item, candidates)
    return ((scores >= own) & candidates).sum(1)


def _own(scores: Tensor, item: Tensor) -> Tensor:
    """Return the scores of the held out items, [users, 1]."""
    if scores.dim() != 2 or item.shape != scores.shape[:1]:
        raise UsageError(
            f"scores and items must be [users, items] and [users], got {list(scores.shape)} and "
            f"{list(item.shape)}"
        )
    if bool(scores.isnan().any()):
        raise UsageError("a score is not a number (NaN), and has no rank: has training run away?")
    return scores.gather(1, item[:, None])


def _check_candidates(scores: Tensor, item: Tensor, candidates: Tensor) -> None:
    if candidates.dtype != torch.bool or candidates.shape != scores.shape:
        raise UsageError(
            f"candidates must be bool {list(scores.shape)}, got {candidates.dtype} "
            f"{list(candidates.shape)}"
        )
    if bool(candidates.gather(1, item[:, None]).any()):
        raise UsageError("a held out item is among the candidates, and would count against itself")


def gains(kind: str, k: int) -> np.ndarray:
    """Return what each of the first k ranks is worth: ones for hits, less and less for NDCG.

    Raises
    ------
    UsageError
        For another kind than ``"hit"`` and ``"ndcg"``, or k below 1.
    """
    k = operator.index(k)
    if k < 1:
        raise UsageError(f"k must be at least 1, got {k}")
    if kind == "hit":
        return np.ones(k)
    if kind == "ndcg":
        return 1 / np.log2(np.arange(k) + 2)
    raise UsageError(f"no metric {kind!r}; there are: hit, ndcg")


def expected(
    rank: Tensor, candidates: Tensor, gain: np.ndarray, sampled: int | None = None
) -> Tensor:
    r"""Return g(R) of each user, or :math:`\mathbb E\,g(K)` with K the rank among a few items.

    Parameters
    ----------
    rank, candidates
        int64 [users], from :func:`mcnn.ranking.ranks`, and how many candidates there were.
    gain
        From :func:`gains`.
    sampled
        How many of the candidates are drawn, without replacement; None is all.

    Returns
    -------
    Tensor
        float64 [users].

    Raises
    ------
    UsageError
        If there is no user, fewer candidates are there than are to be drawn or than the rank says,
        or none is to be drawn.
    """
    _check_ranks(rank, candidates)
    r, n = rank.cpu().numpy(), candidates.cpu().numpy()
    if sampled is None:
        top = np.minimum(r, len(gain) - 1)
        return torch.from_numpy(np.where(r < len(gain), gain[top], 0.0))
    sampled = operator.index(sampled)
    if sampled < 1:
        raise UsageError(f"one item at least is to be drawn, got {sampled}; None is all")
    if sampled > n.min():
        raise UsageError(f"{sampled} items are to be drawn, but a user has {n.min()} candidates")
    from scipy.stats import hypergeom  # takes as long to import as half of PyTorch

    chance = hypergeom.pmf(np.arange(len(gain)), n[:, None], r[:, None], sampled)  # [users, k]
    return torch.from_numpy(chance @ gain)


def _check_ranks(rank: Tensor, candidates: Tensor) -> None:
    if rank.dim() != 1 or not len(rank) or rank.shape != candidates.shape:
        raise UsageError(
            "ranks and numbers of candidates must be [users], of one user at least, got "
            f"{list(rank.shape)} and {list(candidates.shape)}"
        )
    if rank.is_floating_point() or candidates.is_floating_point():
        raise UsageError("ranks and numbers of candidates are integers: an estimate has no metric")
    if bool(((rank < 0) | (rank > candidates)).any()):
        raise UsageError("a rank must be at least 0, and at most the number of candidates")


def hit_rate(rank: Tensor, candidates: Tensor, k: int = 10, sampled: int | None = SAMPLED) -> float:
    """Return the hit rate at k: the share of users whose item is among the first k.

    Parameters
    ----------
    rank, candidates
        As of :func:`mcnn.ranking.metrics.expected`.
    k
        The length of the list.
    sampled
        How many random candidates the item is ranked against, the paper's 99 by default: the
        expectation over all draws. None: against all.

    Examples
    --------
    >>> rank, candidates = torch.tensor([5, 50]), torch.tensor([1000, 1000])
    >>> hit_rate(rank, candidates, sampled=None)
    0.5
    >>> round(hit_rate(rank, candidates), 3)
    0.99
    """
    return float(expected(rank, candidates, gains("hit", k), sampled).mean())


def ndcg(rank: Tensor, candidates: Tensor, k: int = 10, sampled: int | None = SAMPLED) -> float:
    r"""Return the NDCG at k: as :func:`hit_rate`, with :math:`1/\log_2(R+2)` for a rank R < k."""
    return float(expected(rank, candidates, gains("ndcg", k), sampled).mean())


def sampled_ranks(
    scores: Tensor, item: Tensor, candidates: Tensor, sampled: int, generator: torch.Generator
) -> Tensor:
    """Return ranks among random candidates, drawn without replacement, int64 [users].

    Parameters
    ----------
    scores, item, candidates
        As of :func:`mcnn.ranking.ranks`.
    sampled
        How many are drawn for each user.
    generator
        Source of the random numbers.

    Raises
    ------
    UsageError
        If fewer candidates are there, none is to be drawn, or as of :func:`mcnn.ranking.ranks`.
    """
    own = _own(scores, item)
    _check_candidates(scores, item, candidates)
    sampled = operator.index(sampled)
    if sampled < 1:
        raise UsageError(f"one item at least is to be drawn, got {sampled}")
    least = int(candidates.sum(1).min())
    if sampled > least:
        raise UsageError(f"{sampled} items are to be drawn, but a user has {least} candidates")
    key = torch.rand(candidates.shape, generator=generator, dtype=torch.float64)
    drawn = key.masked_fill(~candidates, 2.0).topk(sampled, largest=False).indices
    return (scores.gather(1, drawn) >= own).sum(1)


def unbiased_rank(scores: Tensor, item: Tensor, drawn: Tensor, q: Tensor) -> Tensor:
    r"""Estimate ranks from items that were drawn with probabilities q, float64 [users].

    It is :math:`\frac1m\sum_s[\,s_{j_s}\ge s_i\,]/q_{j_s}`: right on average for every density
    that leaves no candidate out. A metric of it is *not*: it is the metric of a mean that is right,
    not the mean of the metric.

    Parameters
    ----------
    scores, item
        As of :func:`mcnn.ranking.ranks`.
    drawn
        int64 [users, m], from :func:`mcnn.ranking.negatives.draw`.
    q
        [users, items], from :func:`mcnn.ranking.negatives.density`.

    Raises
    ------
    UsageError
        If a score is not a number, shapes do not fit, nothing was drawn, or something that cannot
        be.

    Examples
    --------
    >>> scores, q = torch.tensor([[0.0, 2.0, 3.0]]), torch.tensor([[0.0, 0.25, 0.75]])
    >>> drawn = torch.tensor([[1, 2, 2, 2]])
    >>> round(float(unbiased_rank(scores, torch.tensor([0]), drawn, q)), 9)
    2.0
    """
    own = _own(scores, item)
    if drawn.dim() != 2 or len(drawn) != len(scores) or not drawn.shape[1]:
        raise UsageError(f"drawn must be [{len(scores)}, m], m at least 1, got {list(drawn.shape)}")
    if q.shape != scores.shape:
        raise UsageError(f"q must be {list(scores.shape)}, got {list(q.shape)}")
    chance = q.gather(1, drawn).double()
    if not bool((chance > 0).all()):
        raise UsageError("an item was drawn that q gives no probability")
    better = scores.gather(1, drawn) >= own
    return (better / chance).mean(1)
