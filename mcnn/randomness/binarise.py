r"""Learning through units that are 0 or 1 by chance.

A stochastic binary unit is 1 with probability :math:`p=\sigma(a)` of its pre-activation a:

.. math:: h_j=[\xi_j<p_j],\qquad 0\le\xi_j<1 .

The loss :math:`L(h)` of one draw is piecewise constant in a, so its derivative says nothing.
What can be descended is the expected loss :math:`E[L(h)]=\sum_h P(h\mid p)\,L(h)`.
With k units that is a sum of :math:`2^k` terms, and :func:`expected_loss` writes it out: the exact
gradient, as long as k is small.
Otherwise it has to be estimated from draws, and there are two schools.

**Straight-through** [1]_ takes the binary unit for p in the backward pass,
:math:`\partial h_j/\partial p_j:=1`.
One backward pass, little variance, and a gradient of something else: it is biased.

**Score function** [2]_, also called REINFORCE, differentiates the probabilities instead:

.. math:: \nabla E[L(h)]=E\bigl[(L(h)-c)\,\nabla\log P(h\mid p)\bigr]

It is unbiased for any constant c that does not depend on the draw, and c makes all the difference
to its variance.
The mean of the losses of the other draws is a usual choice; it needs them to be independent.
Here c is the loss at h = p, which depends on no draw: the estimator stays unbiased for any numbers
that are uniform one by one, and so :math:`\xi` may also come in pairs :math:`\xi, 1-\xi`
(*antithetic*) or from a low-discrepancy point set.

References
----------
.. [1] Y. Bengio, N. Léonard, A. Courville: Estimating or propagating gradients through stochastic
   neurons for conditional computation. arXiv:1308.3432, after G. Hinton's lectures of 2012.
.. [2] R. J. Williams: Simple statistical gradient-following algorithms for connectionist
   reinforcement learning. Machine Learning, 1992.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from mcnn.errors import unknown
from mcnn.randomness.source import numbers, substream
from mcnn.sampling import as_seed

Loss = Callable[[Tensor], Tensor]

DRAWS = ("random", "antithetic", "lfsr", "sobol", "lattice")

_MOST_UNITS = 20


def all_states(k: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return every state of k binary units, [2**k, k].

    Raises
    ------
    ValueError
        If k is not in 1 ... 20: there would be too many.

    Examples
    --------
    >>> all_states(2).tolist()
    [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
    """
    if not 1 <= k <= _MOST_UNITS:
        raise ValueError(f"k must be in 1 ... {_MOST_UNITS} to enumerate all states, got {k}")
    return (torch.arange(2**k).unsqueeze(1) >> torch.arange(k) & 1).to(dtype)


def log_probability(a: Tensor, h: Tensor) -> Tensor:
    """Return log P(h | sigma(a)) of independent units.

    Parameters
    ----------
    a
        [..., k], pre-activations.
    h
        [..., k], states 0 or 1, of a shape that fits.

    Returns
    -------
    Tensor
        [...].
    """
    return (h * a - F.softplus(a)).sum(-1)


def expected_loss(a: Tensor, loss: Loss) -> Tensor:
    """Return the exact expectation of the loss, by all 2**k states.

    Parameters
    ----------
    a
        [b, k], pre-activations of k binary units for b examples.
    loss
        Maps states [..., b, k] to losses [..., b].

    Returns
    -------
    Tensor
        [b]; its gradient is the one that the estimators estimate.
    """
    h = all_states(a.shape[-1], a.dtype).to(a.device).unsqueeze(1)  # [2**k, 1, k]
    h = h.expand(-1, *a.shape)  # [2**k, b, k]
    return (log_probability(a, h).exp() * loss(h)).sum(0)


def straight_through(a: Tensor, xi: Tensor) -> Tensor:
    """Return states whose derivative by the probabilities is taken to be one.

    Parameters
    ----------
    a
        [b, k], pre-activations.
    xi
        [..., b, k] in [0, 1).

    Returns
    -------
    Tensor
        [..., b, k], 0 or 1, differentiable.

    Examples
    --------
    >>> a = torch.zeros(2, requires_grad=True)
    >>> straight_through(a, torch.tensor([0.4, 0.6])).tolist()
    [1.0, 0.0]
    """
    p = a.sigmoid()
    h = (xi < p).to(p.dtype)
    # Not h + (p - p.detach()), which may round to a neighbour of 0 or 1 and would be no state.
    return _StraightThrough.apply(h, p.expand_as(h))


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, h: Tensor, p: Tensor) -> Tensor:
        return h.clone()

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> tuple[None, Tensor]:
        return None, grad


def score_function(a: Tensor, xi: Tensor, loss: Loss, centred: bool = True) -> Tensor:
    """Return an expression whose gradient estimates that of the expected loss without bias.

    Its value is the mean loss of the draws.
    The gradient by the parameters of ``loss`` itself is the usual one, averaged over the draws.

    Parameters
    ----------
    a
        [b, k], pre-activations.
    xi
        [S, b, k] in [0, 1): S draws; each number uniform by itself, those of a draw independent.
    loss
        Maps states [..., b, k] to losses [..., b].
    centred
        Whether the loss at the probabilities themselves is taken off, which removes most of the
        variance where the loss is nearly linear.

    Returns
    -------
    Tensor
        [b].
    """
    h = (xi < a.sigmoid()).to(a.dtype).detach()  # [S, b, k]
    value = loss(h)  # [S, b]
    constant = loss(a.sigmoid()).detach() if centred else 0.0
    log_p = log_probability(a, h)
    # Worth zero, but not its gradient.
    score = (value.detach() - constant) * (log_p - log_p.detach())
    return (value + score).mean(0)


def draws(
    samples: int,
    k: int,
    source: str = "random",
    seed: int | torch.Generator = 0,
    sets: int = 1,
) -> Tensor:
    """Return the numbers of S draws of k units, for several sets that are independent.

    Parameters
    ----------
    samples
        S; even for ``antithetic``.
    k
        Number of units.
    source
        One of :data:`DRAWS`.
    seed
        Randomises them.
    sets
        How many; one for each example of a batch, say.

    Returns
    -------
    Tensor
        float64 [S, sets, k] in [0, 1).

    Raises
    ------
    ValueError
        For an unknown source, an odd number of antithetic draws, or no set.
    """
    if source not in DRAWS:
        raise unknown("source", source, DRAWS)
    if sets < 1:
        raise ValueError(f"sets must be at least 1, got {sets}")
    seed = as_seed(seed)
    if source == "antithetic":
        if samples % 2:
            raise ValueError(f"antithetic draws come in pairs, got {samples}")
        xi = draws(samples // 2, k, "random", seed, sets)
        return torch.cat([xi, (1 - xi).clamp(max=1 - 2.0**-53)])
    if source in ("random", "lfsr"):  # the numbers of a stream are independent already
        return numbers(samples * sets, k, source, seed).view(samples, sets, k)
    return torch.stack([numbers(samples, k, source, substream(seed, i)) for i in range(sets)], 1)
