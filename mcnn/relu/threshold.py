r"""Soft thresholding as two ReLUs, and the support of a sparse code that it finds.

.. math:: S_\theta(x)=\operatorname{ReLU}(x-\theta)-\operatorname{ReLU}(-x-\theta)

moves a number towards zero by :math:`\theta` and stops there.
If what is looked for is not negative the second term goes, and one ReLU with a bias is left.

A signal :math:`y=Dz` is a sum of few columns of a dictionary D, *atoms* of length one.
Which ones?
The crudest answer [1]_ is :math:`S_\theta(D^Ty)`: compare y with every atom and drop what is small.
That is a layer of a network, with the dictionary as its weights.
It finds the support if atoms are different enough.
With the *coherence* :math:`\mu`, the largest :math:`|d_i\cdot d_j|` of two atoms, k atoms with
coefficients between :math:`z_{\min}` and :math:`z_{\max}` in magnitude are found for certain if

.. math:: k<\frac12\Bigl(1+\frac1\mu\,\frac{z_{\min}}{z_{\max}}\Bigr):

an atom of the support is hit by its own coefficient and by at most k - 1 others, any other atom by
at most k, each by :math:`\mu z_{\max}` at most.

References
----------
.. [1] V. Papyan, Y. Romano, M. Elad: Convolutional neural networks analyzed via convolutional
   sparse coding. JMLR 18, 2017. arXiv:1607.08194.
"""

import torch
from torch import Tensor

from mcnn.errors import UsageError
from mcnn.relu.check import check_floating


def soft_threshold(x: Tensor, threshold: float, nonnegative: bool = False) -> Tensor:
    r"""Return :math:`[x-\theta]-[-x-\theta]`, or the first term alone.

    Parameters
    ----------
    x
        Floating point, any shape.
    threshold
        :math:`\theta`, not negative.
    nonnegative
        Whether only what is positive may stay: one ReLU.

    Raises
    ------
    TypeError
        If ``x`` is not floating point.
    UsageError
        For a negative threshold.

    Examples
    --------
    >>> soft_threshold(torch.tensor([-3.0, -0.5, 2.0]), 1.0).tolist()
    [-2.0, 0.0, 1.0]
    >>> soft_threshold(torch.tensor([-3.0, -0.5, 2.0]), 1.0, nonnegative=True).tolist()
    [0.0, 0.0, 1.0]
    """
    check_floating(x=x)
    if not threshold >= 0:
        raise UsageError(f"threshold must not be negative, got {threshold}")
    above = torch.relu(x - threshold)
    return above if nonnegative else above - torch.relu(-x - threshold)


def coherence(dictionary: Tensor) -> float:
    """Return the largest absolute scalar product of two atoms.

    Parameters
    ----------
    dictionary
        [n, m], columns of length one, at least two.

    Raises
    ------
    UsageError
        If a column has another length, or there are fewer than two.

    Examples
    --------
    >>> coherence(torch.tensor([[1.0, 0.6], [0.0, 0.8]]))
    0.6000000238418579
    """
    if dictionary.ndim != 2 or dictionary.shape[1] < 2:
        raise UsageError(f"dictionary must be [n, m] with m > 1, got {list(dictionary.shape)}")
    gram = dictionary.T @ dictionary
    if not torch.allclose(gram.diagonal(), torch.ones_like(gram[0]), atol=1e-4):
        raise UsageError("atoms must have length one: divide each column by its norm")
    return float(gram.fill_diagonal_(0).abs().max())


def certain_atoms(mu: float, ratio: float = 1.0) -> int:
    r"""Return how many atoms thresholding finds for certain.

    Parameters
    ----------
    mu
        Coherence of the dictionary, in (0, 1].
    ratio
        The least over the largest coefficient in magnitude, in (0, 1].

    Returns
    -------
    int
        The largest k below :math:`\frac12(1+\text{ratio}/\mu)`.

    Raises
    ------
    UsageError
        For a number out of range.

    Examples
    --------
    >>> certain_atoms(0.1), certain_atoms(0.1, 0.5), certain_atoms(1 / 3)
    (5, 2, 1)
    """
    if not (0 < mu <= 1 and 0 < ratio <= 1):
        raise UsageError(f"mu and ratio must be in (0, 1], got {mu} and {ratio}")
    bound = (1 + ratio / mu) / 2
    # A hair less: a bound that is whole only by rounding must not count.
    return max(0, -int(-(bound - 1e-9) // 1) - 1)


def certain_threshold(mu: float, atoms: int, least: float = 1.0, largest: float = 1.0) -> float:
    """Return the middle between what other atoms reach and what those of the support keep.

    Parameters
    ----------
    mu
        Coherence.
    atoms
        k.
    least, largest
        Magnitudes between which the coefficients lie.

    Examples
    --------
    >>> round(certain_threshold(0.1, 5), 3)
    0.55
    """
    others, kept = atoms * mu * largest, least - (atoms - 1) * mu * largest
    return (others + kept) / 2
