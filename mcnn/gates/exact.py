r"""Expected losses and their estimates' means and variances, exactly: the ruler for all of them.

k binary units have :math:`2^k` states, and so have units that are smooth times stochastic, only
that those states move with the pre-activations.
A noisy rectifier is off with probability 1 - p, and else a function of :math:`\xi<p`.
Its logarithms at both ends are tamed by a substitution that is flat there, a Gauss-Legendre rule of
a few nodes does the rest, and k units are a sum over :math:`(m+1)^k` states.

A sum over states that can be differentiated gives the gradient of the expected loss
(:func:`expected_loss`).
A sum over states *of* derivatives gives what a backward pass finds on average, and how much that
varies (:func:`moments`).
Where the two differ, the estimate has a bias.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mcnn.errors import UsageError, unknown
from mcnn.gates.units import UNITS
from mcnn.randomness.binarise import all_states, log_probability

Loss = Callable[[Tensor], Tensor]

_MOST_STATES = 2**20


def states(a: Tensor, unit: str = UNITS[0], nodes: int = 16) -> tuple[Tensor, Tensor]:
    """Return every state of the units of a kind, and how probable it is.

    Parameters
    ----------
    a
        [b, k], pre-activations of k units for b examples.
    unit
        One of :data:`mcnn.gates.UNITS`; straight-through units are binary.
    nodes
        m, of the quadrature rule for noisy rectifiers that are on.

    Returns
    -------
    tuple of Tensor
        Values [N, b, k] and weights [N, b], which sum to one; both differentiable by ``a``.

    Raises
    ------
    UsageError
        For an unknown unit, or if there were more than a million states.
    ValueError
        Of :func:`mcnn.randomness.all_states`, for too many units.

    Examples
    --------
    >>> h, weight = states(torch.zeros(1, 2, dtype=torch.float64))
    >>> h.shape, weight.flatten().tolist()
    (torch.Size([4, 1, 2]), [0.25, 0.25, 0.25, 0.25])
    """
    if unit not in UNITS:
        raise unknown("unit", unit, UNITS)
    if unit == "noisy-rectifier":
        return _rectified(a, nodes)
    coins = all_states(a.shape[-1], a.dtype).to(a.device).unsqueeze(1)  # [2**k, 1, k]
    if unit == "smooth-times-stochastic":
        root = a.sigmoid().sqrt()  # [b, k]
        return coins * root, torch.where(coins > 0, root, 1 - root).prod(-1)
    h = coins.expand(-1, *a.shape)
    return h, log_probability(a, h).exp()


def _rectified(a: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    k = a.shape[-1]
    if nodes < 1 or (nodes + 1) ** k > _MOST_STATES:
        raise UsageError(
            f"{nodes} nodes and {k} units are {nodes + 1}^{k} states; choose both so that these "
            f"are at most {_MOST_STATES}"
        )
    points, weights = np.polynomial.legendre.leggauss(nodes)
    s = torch.tensor((1 + points) / 2, dtype=a.dtype, device=a.device)  # [m], in (0, 1)
    rest = 1 - s
    weight = torch.tensor(weights / 2, dtype=a.dtype, device=a.device) * 140 * (s * rest) ** 3
    log_on = F.logsigmoid(a).unsqueeze(-1)  # [b, k, 1]
    p = log_on.exp()
    above_xi = F.sigmoid(-a).unsqueeze(-1) + p * _step(rest)  # [b, k, m], 1 - xi
    above = a.unsqueeze(-1) - log_on - _step(s).log() + above_xi.log()  # a minus the logit of xi
    h = torch.cat([torch.zeros_like(log_on), above], -1)  # [b, k, m + 1], off first
    off = F.logsigmoid(-a).unsqueeze(-1)
    log_p = torch.cat([off, log_on + weight.log()], -1)
    index = torch.cartesian_prod(*[torch.arange(nodes + 1)] * k).view(-1, k)  # [N, k]
    total = sum(log_p[:, i, index[:, i]] for i in range(k))  # [b, N]
    values = torch.stack([h[:, i, index[:, i]].T for i in range(k)], -1)  # [N, b, k]
    return values, total.exp().T


def _step(s: Tensor) -> Tensor:
    """Rise from 0 to 1 like s^4, and flat at 1 in the same way."""
    return s**4 * (35 - 84 * s + 70 * s**2 - 20 * s**3)


def expected_loss(a: Tensor, loss: Loss, unit: str = UNITS[0], nodes: int = 16) -> Tensor:
    """Return the expectation of the loss, summed over all states.

    Parameters
    ----------
    a, unit, nodes
        As for :func:`states`.
    loss
        Maps values [..., b, k] to losses [..., b], and has a derivative.

    Returns
    -------
    Tensor
        [b]; its gradient is the one that is to be estimated.

    Raises
    ------
    UsageError, ValueError
        Of :func:`states`.
    """
    h, weight = states(a, unit, nodes)
    return (weight * loss(h)).sum(0)


def moments(a: Tensor, loss: Loss, unit: str = UNITS[0], nodes: int = 16) -> tuple[Tensor, Tensor]:
    """Return mean and variance of the derivative that one draw of a unit passes back.

    Parameters
    ----------
    a, loss, unit, nodes
        As for :func:`expected_loss`.

    Returns
    -------
    tuple of Tensor
        [b, k] each, of the derivative by ``a``.

    Raises
    ------
    UsageError, ValueError
        Of :func:`states`.
    """
    h, weight = (t.detach() for t in states(a, unit, nodes))
    h.requires_grad_()
    (by_h,) = torch.autograd.grad(loss(h).sum(), h)  # [N, b, k]
    p, on = a.detach().sigmoid(), (h.detach() > 0).to(a.dtype)
    by_a = {  # of each unit's value
        "straight-through": p * (1 - p),
        "noisy-rectifier": on,
        "smooth-times-stochastic": on * p.sqrt() * (1 - p) / 2,
    }
    return of_states(by_h * by_a[unit], weight)


def of_states(estimate: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance [b, k] of an estimate [N, b, k] with the states' weights [N, b]."""
    weight = weight.unsqueeze(-1)
    mean = (weight * estimate).sum(0)
    return mean, (weight * (estimate - mean).square()).sum(0)
