r"""Items that were not chosen: a few of them in place of all.

The loss of a user is a sum over all items that the user did not choose, and the rank of an item is
the number of those that score at least as high.
Both are sums :math:`F=\sum_j f_j`, and with items j drawn from any density q that leaves none out,

.. math:: \hat F=\frac1m\sum_{s=1}^m\frac{f_{j_s}}{q_{j_s}},\qquad
          m\operatorname{Var}\hat F=\sum_j\frac{f_j^2}{q_j}-F^2.

The density is free: uniform, or by popularity, which draws what is often chosen by others.
It is importance sampling, as :mod:`mcnn.density` does it with weights.
"""

import math
import operator

import torch
from torch import Tensor

from mcnn.errors import UsageError


def density(candidates: Tensor, popularity: Tensor | None = None, power: float = 1.0) -> Tensor:
    r"""Return the probabilities q of drawing each item for each user.

    Parameters
    ----------
    candidates
        bool [users, items], what may be drawn.
    popularity
        [items], how often each was chosen; without it all are alike. One is added to each, so that
        none is left out.
    power
        Exponent of the popularity.

    Returns
    -------
    Tensor
        float64 [users, items], rows sum to one.

    Raises
    ------
    UsageError
        If a user has no candidate, a popularity is below zero or not a number, or shapes do not
        fit.

    Examples
    --------
    >>> density(torch.tensor([[True, True, False]]), torch.tensor([2, 0, 9])).tolist()
    [[0.75, 0.25, 0.0]]
    """
    if candidates.dtype != torch.bool or candidates.dim() != 2:
        raise UsageError(
            f"candidates must be bool [users, items], got {candidates.dtype} "
            f"{list(candidates.shape)}"
        )
    if not bool(candidates.any(1).all()):
        raise UsageError("a user has chosen all items, so that there is none left to draw")
    weight = torch.ones(candidates.shape[1], dtype=torch.float64, device=candidates.device)
    if popularity is not None:
        if popularity.shape != weight.shape:
            raise UsageError(f"popularity must be [{len(weight)}], got {list(popularity.shape)}")
        if not bool((popularity >= 0).all() and popularity.isfinite().all()):
            raise UsageError("a popularity must be a number of at least 0")
        if not math.isfinite(power):
            raise UsageError(f"power must be finite, got {power}")
        weight = (popularity.double() + 1) ** power
    q = candidates * weight
    return q / q.sum(1, keepdim=True)


def draw(q: Tensor, samples: int, generator: torch.Generator) -> Tensor:
    """Return items drawn with replacement, int64 [users, samples].

    Parameters
    ----------
    q
        [users, items], from :func:`density`.
    samples
        For each user.
    generator
        Source of the random numbers.

    Raises
    ------
    UsageError
        If none is to be drawn, or a row of q is no density.
    """
    samples = operator.index(samples)
    if samples < 1:
        raise UsageError(f"samples must be at least 1, got {samples}")
    if q.dim() != 2 or not bool((q >= 0).all() and (q.sum(1) > 0).all() and q.isfinite().all()):
        raise UsageError("q must be [users, items], and each row a density")
    cumulative = q.cumsum(1)
    top = cumulative[:, -1:]  # one, to rounding
    xi = torch.rand(len(q), samples, generator=generator, dtype=torch.float64) * top
    found = torch.searchsorted(cumulative, xi, right=True)
    # Behind the last item that may be drawn, rounding may point.
    last = q.shape[1] - 1 - (q > 0).flip(1).int().argmax(1, keepdim=True)
    return torch.minimum(found, last)


def weighted_sum(f: Tensor, q: Tensor) -> Tensor:
    r"""Return :math:`\hat F`, the estimate of a sum over all items from some of them.

    Parameters
    ----------
    f
        [..., samples, ...] values of items that were drawn; the samples are dimension 1.
    q
        [users, samples], the probabilities with which they were drawn.

    Returns
    -------
    Tensor
        The shape of ``f`` without its dimension 1.
    """
    weight = 1 / q
    return (f * weight.view(weight.shape + (1,) * (f.dim() - 2))).mean(1)


def variance(squares: Tensor, total: Tensor, q: Tensor) -> Tensor:
    r"""Return the exact variance of one draw, :math:`\sum_j f_j^2/q_j-F^2`, for each user [users].

    Parameters
    ----------
    squares
        [users, items], :math:`f_j^2`, or squared lengths where f is a vector, of candidates.
    total
        [users], :math:`F^2`, or the squared length of the whole sum.
    q
        [users, items], from :func:`density`.
    """
    ratio = torch.where(q > 0, squares / q.clamp(min=torch.finfo(q.dtype).tiny), 0.0)
    return ratio.sum(1) - total


def not_known(known: Tensor, user: Tensor, generator: torch.Generator) -> Tensor:
    """Return an item for each user that may not be learned from, uniformly, int64 [n].

    Parameters
    ----------
    known
        bool [users, items]; every user lacks one item at least.
    user
        int64 [n].
    generator
        Source of the random numbers.

    Raises
    ------
    UsageError
        If a user lacks none.
    """
    if bool(known.all(1)[user].any()):
        raise UsageError("a user has chosen every item: there is none left that was not chosen")
    items = known.shape[1]
    item = torch.randint(items, user.shape, generator=generator)
    left = known[user, item].nonzero().squeeze(1)
    while len(left):  # what was met already is drawn again
        item[left] = torch.randint(items, left.shape, generator=generator)
        left = left[known[user[left], item[left]]]
    return item
