r"""The backward walk as a Markov chain: transition matrix, absorption, importance by visits.

The states are the units of all layers.
From unit i a walk steps to unit j of the layer before with probability
:math:`|w_{j,i}|/\lVert w_i\rVert_1`, and an input *absorbs* it.
So much is the chain that the talk hints at.
Let Q be the transition matrix without the steps of inputs to themselves.
It leads from layer to layer and is nilpotent, so the *fundamental matrix* [1]_

.. math:: N=(I-Q)^{-1}=I+Q+Q^2+\cdots+Q^L

is a sum of products of transition matrices, and :math:`N_{i,j}` is the expected number of visits of
unit j by a walk that starts at unit i: at most one.
In the columns of inputs it is the probability to be absorbed there.
Multiplied out, :math:`N_{i,j}` is the sum over all paths from i down to j of the products of their
weights, each divided by the norm of its unit: importance by visits is a sum of normalised path
weights.

Divided unit by unit, that is not yet the share of :math:`\prod|w|` in the sum over all paths.
It is for the weights of :func:`folded`, into which the norms of the layers below are multiplied.

Source: slide "Sampling paths through networks" of A. Keller's talk: "relation to random walks on
directed graphs and Markov chains".

References
----------
.. [1] J. G. Kemeny, J. L. Snell: Finite Markov Chains. Van Nostrand, 1960.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor


def transitions(weights: Sequence[Tensor]) -> list[Tensor]:
    """Return the probabilities of a step back through each layer.

    Parameters
    ----------
    weights
        One matrix a layer, the first layer first, [units, units before] as in ``nn.Linear``.

    Returns
    -------
    list of Tensor
        Of the same shapes; rows sum to one, but for units without weights, where a walk ends.

    Raises
    ------
    ValueError
        If the layers do not fit together, or there is none.

    Examples
    --------
    >>> transitions([torch.tensor([[3.0, -1.0]])])
    [tensor([[0.7500, 0.2500]])]
    """
    if not weights or any(b.shape[1] != a.shape[0] for a, b in pairwise(weights)):
        shapes = [tuple(w.shape) for w in weights]
        raise ValueError(f"each layer must have as many inputs as the last has units, got {shapes}")
    steps = []
    for w in weights:
        norm = w.abs().sum(1, keepdim=True)
        steps.append(w.abs() / torch.where(norm > 0, norm, 1))
    return steps


def transition_matrix(weights: Sequence[Tensor]) -> Tensor:
    """Return the transition matrix of the chain, [n, n] for all n units, inputs first.

    Inputs absorb, and so do units without weights.

    Examples
    --------
    >>> transition_matrix([torch.tensor([[3.0, -1.0]])])
    tensor([[1.0000, 0.0000, 0.0000],
            [0.0000, 1.0000, 0.0000],
            [0.7500, 0.2500, 0.0000]])
    """
    matrix = _steps(weights)
    ends = matrix.sum(1) == 0
    return matrix + torch.diag(ends.to(matrix.dtype))


def fundamental_matrix(weights: Sequence[Tensor]) -> Tensor:
    """Return the expected visits of every unit by walks from every unit, [n, n], inputs first.

    Entry [i, j] is that of unit j by a walk from i; the start counts, and an end counts once.
    """
    steps = _steps(weights)
    one = torch.eye(len(steps), dtype=steps.dtype, device=steps.device)
    # All steps lead back to earlier units: I - Q is lower triangular with ones on its diagonal.
    return torch.linalg.solve_triangular(one - steps, one, upper=False, unitriangular=True)


def visits(weights: Sequence[Tensor], start: Tensor | None = None) -> list[Tensor]:
    """Return the probability that a walk visits each unit, layer by layer, inputs first.

    It is a product of transition matrices, and costs as much as one forward pass.

    Parameters
    ----------
    weights
        As for :func:`transitions`.
    start
        Distribution over the outputs, [units]; uniform by default.

    Returns
    -------
    list of Tensor
        [units] for each layer; each sums to one, less what ended above.

    Examples
    --------
    >>> visits([torch.tensor([[3.0, -1.0]]), torch.tensor([[2.0]])])[0]
    tensor([0.7500, 0.2500])
    """
    steps = transitions(weights)
    last = weights[-1]
    if start is None:
        start = torch.full_like(last[:, 0], 1 / len(last))
    distributions = [start]
    for step in reversed(steps):
        distributions.append(distributions[-1] @ step)
    return distributions[::-1]


def folded(weights: Sequence[Tensor]) -> list[Tensor]:
    """Multiply into each weight the sum of all path weights that lead from the inputs to it.

    Walks in proportion to these take whole paths in proportion to the product of their weights.

    Parameters
    ----------
    weights
        As for :func:`transitions`.

    Returns
    -------
    list of Tensor
        Of the same shapes, not negative.
    """
    importances = []
    below = torch.ones_like(weights[0][0])  # of the inputs
    for w in weights:
        importances.append(w.abs() * below)
        below = importances[-1].sum(1)
    return importances


def _steps(weights: Sequence[Tensor]) -> Tensor:
    """Return the transitions of all units in one matrix, [n, n], zero where walks end."""
    layers = transitions(weights)
    ends = [0, *accumulate([layers[0].shape[1], *map(len, layers)])]  # units before each layer
    matrix = layers[0].new_zeros(ends[-1], ends[-1])
    for number, step in enumerate(layers):
        first, middle, last = ends[number : number + 3]
        matrix[middle:last, first:middle] = step
    return matrix
