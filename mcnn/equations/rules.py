"""Where the integral of an equation is sampled, and between which limits.

Fredholm's integral is over the whole cube, Volterra's over what came before: the first coordinate
is time, and only x up to y counts.
A rule gives each node a weight at each place, so that the limits are a part of the weights.

Any nodes of :func:`mcnn.integral.nodes` will do, and for data on a regular grid of times there are
the trapezoidal rule and that of rectangles.
The latter, with limits of Volterra, looks at what came *strictly* before: every repetition of a
solver then settles one more time, and n of them solve any equation, contraction or not.
"""

import operator

import torch
from torch import Tensor

from mcnn.errors import unknown
from mcnn.integral.nodes import RULES, nodes

LIMITS = ("fredholm", "volterra")
GRIDS = ("trapezoid", "rectangle")
POINTS = (*RULES, *GRIDS)


def rule(
    n: int,
    d: int = 1,
    points: str = "jittered",
    limits: str = "fredholm",
    seed: int | torch.Generator = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor]:
    """Return nodes, and what each of them counts in an integral up to each of them.

    Parameters
    ----------
    n, d
        Number of nodes in the unit cube of dimension d.
    points
        One of :data:`mcnn.integral.RULES`, or, in one dimension, ``"trapezoid"`` or
        ``"rectangle"``: a regular grid with both ends, between two of which a function is linear,
        or as it was at the first of them.
    limits
        ``"fredholm"``: over the whole cube; ``"volterra"``: up to y in the first coordinate.
    seed
        Randomises the points.
    dtype, device
        Of the results.

    Returns
    -------
    x : Tensor
        [n, d] in [0, 1], for ``"volterra"`` in order of the first coordinate.
    weights : Tensor
        [n, n], of node x (row) at place y (column); the columns of ``"fredholm"`` sum to one, those
        of ``"volterra"`` to y, of random nodes on average.

    Raises
    ------
    UsageError, ValueError
        For unknown names, or numbers that the rule does not have.

    Examples
    --------
    >>> x, weights = rule(3, points="trapezoid", limits="volterra")
    >>> weights.T
    tensor([[0.0000, 0.0000, 0.0000],
            [0.2500, 0.2500, 0.0000],
            [0.2500, 0.5000, 0.2500]])
    """
    if points not in POINTS:
        raise unknown("points", points, POINTS)
    if limits not in LIMITS:
        raise unknown("limits", limits, LIMITS)
    n, d = operator.index(n), operator.index(d)
    if points in GRIDS:
        return _grid(n, d, points, limits, dtype, device)
    x, weights = nodes(n, d, points, seed, device, dtype)
    if limits == "volterra":
        order = x[:, 0].argsort()
        x, weights = x[order], weights[order]
    return x, between(x, weights, x, limits)


def between(x: Tensor, weights: Tensor, y: Tensor, limits: str) -> Tensor:
    """Return what nodes count at other places: [n, d], [n] and [m, d] to [n, m].

    A node at the limit itself counts by half.
    """
    if limits == "fredholm":
        return weights.unsqueeze(1).expand(-1, len(y))
    before = y[:, 0] - x[:, :1]  # [n, m]
    return weights.unsqueeze(1) * torch.heaviside(before, before.new_tensor(0.5))


def _grid(
    n: int, d: int, points: str, limits: str, dtype: torch.dtype, device: torch.device | str
) -> tuple[Tensor, Tensor]:
    if d != 1 or n < 2:
        raise ValueError(f"a grid of {points}s is for d = 1 and at least 2 nodes, got {d} and {n}")
    x = torch.linspace(0, 1, n, dtype=dtype, device=device).unsqueeze(1)
    last = torch.arange(n) if limits == "volterra" else torch.full((n,), n - 1)  # of each column
    node = torch.arange(n).unsqueeze(1)
    left, right = ((node < last).to(dtype), ((node > 0) & (node <= last)).to(dtype))
    weights = left if points == "rectangle" else (left + right) / 2
    return x, (weights / (n - 1)).to(device)
