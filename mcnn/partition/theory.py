r"""What a partition does to the variance of a mean over a cycle, exactly.

In a single step a partition is dropout: each unit is dropped with probability :math:`1/P`,
independently of the others.
Only the steps of a cycle depend on each other, for a unit that was dropped will not be dropped
again: for each unit the :math:`P` steps are a stratified sample, one stratum a step, in random
order.
For many units that is Latin hypercube sampling.

Let :math:`g` be a function of the mask, such as a gradient.
It is a sum of parts of order 0, 1, 2, ... (the analysis of variance): a part of order k is a sum of
products of k centred masks of different units, and has variance :math:`\sigma_k^2`.
The product of a centred mask and that of another step of the cycle has the mean :math:`-1/(P-1)`,
relative to its variance, so that parts of order k of two steps correlate by
:math:`(-1/(P-1))^k`.
The mean over the :math:`P` steps thus has the variance

.. math:: \frac1P\sum_k c_k\,\sigma_k^2,\qquad c_k = 1 + (-1)^k (P-1)^{1-k},

where independent masks have :math:`c_k=1`.
The first order cancels, :math:`c_1=0`.
The second one grows, :math:`c_2=P/(P-1)`: by as much as 2 for two parts, for the second step then
repeats the product of the first.

Source: B. Efron and C. Stein, The jackknife estimate of variance, Annals of Statistics 9, 1981, for
the decomposition; M. Stein, Large sample properties of simulations using Latin hypercube sampling,
Technometrics 29, 1987, for the first order.
"""

from mcnn.partition.parts import check_parts


def variance_factor(order: int, parts: int) -> float:
    """Return the variance of a mean over a cycle, relative to that over independent masks.

    Parameters
    ----------
    order
        k: of a function that is a sum of products of k centred masks, at least 1.
    parts
        P, with unbalanced parts.

    Raises
    ------
    ValueError
        For an order below one, or parts out of range.

    Examples
    --------
    >>> [variance_factor(order, 3) for order in (1, 2, 3)]
    [0.0, 1.5, 0.75]
    """
    check_parts(parts)
    if order < 1:
        raise ValueError(f"order must be at least 1, got {order}: a constant has no variance")
    return 1 + (-1) ** order * (parts - 1.0) ** (1 - order)


def first_order_share(ratio: float, parts: int) -> float:
    """Return the share of the first order in the variance, if there are only two orders.

    Parameters
    ----------
    ratio
        Variance of a mean over P independent masks, over that of a mean over a cycle.
    parts
        P.

    Examples
    --------
    >>> first_order_share(ratio=1.0, parts=2)
    0.5
    """
    return 1 - 1 / (variance_factor(2, parts) * ratio)
