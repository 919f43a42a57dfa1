r"""Quotients of two means: what attention and the smallest integral equation have in common.

Both are :math:`A_n/B_n` with means over n nodes, and :math:`E\,A_n/B_n\neq E\,A_n/E\,B_n`.
To first order the quotient is off by :math:`(A_n-\mu B_n)/\beta`, whose mean is zero and whose
variance falls like 1/n.
What is left has a mean, the bias, which falls like 1/n as well.
"""

from torch import Tensor

from mcnn.errors import UsageError


def self_normalised(scores: Tensor, values: Tensor, weights: Tensor | None = None) -> Tensor:
    r"""Return :math:`\sum_i\omega_ie^{s_i}v_i/\sum_i\omega_ie^{s_i}`: softmax attention.

    With nodes from a uniform distribution it estimates
    :math:`\int e^{s(x)}v(x)\,dx/\int e^{s(x)}\,dx`, the mean of v under the density that is
    proportional to :math:`e^s`.

    Parameters
    ----------
    scores
        [..., m, n], of each of n nodes at each of m places.
    values
        [..., n, c].
    weights
        [n], of a quadrature rule; by default all equal.

    Returns
    -------
    Tensor
        [..., m, c].

    Raises
    ------
    UsageError
        If there is not one weight for each node, one is negative, or none is positive.

    Examples
    --------
    >>> import torch
    >>> self_normalised(torch.zeros(1, 4), torch.arange(4.0).unsqueeze(1))
    tensor([[1.5000]])
    """
    if weights is not None:
        if weights.shape != scores.shape[-1:]:
            raise UsageError(
                f"weights must be {list(scores.shape[-1:])}, got {list(weights.shape)}"
            )
        if not bool((weights >= 0).all() and (weights > 0).any()):
            raise UsageError("weights must not be negative, and one must be positive")
        scores = scores + weights.log()
    return scores.softmax(-1) @ values


def rank_one(f: Tensor, u: Tensor, q: float) -> Tensor:
    r"""Solve :math:`a(y)=f(y)+q\,u(y)\int u(x)\,a(x)\,dx` with the integral sampled at nodes.

    Multiply by u and integrate: :math:`\int ua=\int uf/(1-q\int u^2)`, a quotient of two means.

    Parameters
    ----------
    f, u
        [..., n] values at the nodes.
    q
        The strength of the kernel.

    Returns
    -------
    Tensor
        [...], the sampled :math:`\int ua`; the solution is f + q u times that.

    Examples
    --------
    >>> import torch
    >>> rank_one(torch.ones(4), torch.ones(4), 0.5)  # a constant is doubled
    tensor(2.)
    """
    return (u * f).mean(-1) / (1 - q * u.square().mean(-1))
