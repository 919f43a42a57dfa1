r"""Points whose error can be averaged: nested scrambling of Sobol' points, and the tent transform.

:func:`mcnn.sampling.points` scrambles Sobol' points by random linear matrices and a shift, which is
cheap.
Their mean square error is that of nested scrambling, but for smooth integrands it is made by a few
bad matrices among many good ones, so that an average over a handful of scramblings nearly always
misses it [3]_.

*Nested uniform scrambling* [1]_ flips digit k of a coordinate by a random bit that depends on the k
digits before it, a binary tree of random bits for each dimension.
All :math:`2^m` leading digits are scrambled at once here: level after level, a permutation of k
digits becomes one of k + 1, in :math:`O(2^m)` altogether.
The first :math:`2^m` Sobol' points have one coordinate in each interval of length :math:`2^{-m}`,
where the rest of the tree is used once: any uniform number will do.

The *tent transform* :math:`1-|2x-1|`, also called the baker's transform, folds an integrand so that
its values at both ends of the unit interval agree.
A shifted lattice then has errors as if it were periodic [2]_.

Source: slide "Learning integral operator kernels" of A. Keller's talk: "relates to high-dimensional
integro-approximation".

References
----------
.. [1] A. B. Owen: Randomly permuted (t,m,s)-nets and (t,s)-sequences. Monte Carlo and Quasi-Monte
   Carlo Methods in Scientific Computing, 1995.
.. [2] F. J. Hickernell: Obtaining O(N^(-2+ε)) convergence for lattice quadrature rules. Monte Carlo
   and Quasi-Monte Carlo Methods 2000, 2002.
.. [3] A. B. Owen: Variance with alternative scramblings of digital nets. ACM TOMACS 13, 2003.
"""

from functools import cache

import torch
from torch import Tensor

from mcnn.checks import as_count
from mcnn.sampling import as_seed, fold_in, hash_bits, points

_BITS = 32  # random digits after the scrambled ones; with 20 of these a float64 holds all
_MOST = 20
_DIMENSION = 1 << 40  # numbers of random bits that a dimension has for its own


def nested_sobol(n: int, d: int, seed: int | torch.Generator = 0) -> Tensor:
    """Return the first n Sobol' points, scrambled digit by digit (Owen's scrambling).

    Parameters
    ----------
    n
        Number of points, a power of two up to 2**20.
    d
        Dimension.
    seed
        Of the scrambling; each point is uniform by itself.

    Returns
    -------
    Tensor
        [n, d] float64 in [0, 1).

    Raises
    ------
    ValueError
        If n is no power of two in that range.

    Examples
    --------
    >>> x = nested_sobol(8, 2, seed=1)
    >>> (x * 8).long().sort(0).values.T.tolist()  # one in each eighth
    [[0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3, 4, 5, 6, 7]]
    """
    n, d = as_count("n", n, 0), as_count("d", d)
    if n < 1 or n & (n - 1) or n > 1 << _MOST:
        raise ValueError(f"n must be a power of two from 1 to 2**{_MOST}, got {n}")
    seed = as_seed(seed)
    digits = n.bit_length() - 1
    own = torch.arange(d).unsqueeze(1) * _DIMENSION  # [d, 1]
    leading = nested_permutations(digits, d, seed).gather(1, _plain(n, d))  # [d, n]
    rest = hash_bits(fold_in(seed, 1), own + leading) & ((1 << _BITS) - 1)
    return ((leading << _BITS) + rest).T.double() * 2.0 ** -(digits + _BITS)


def nested_permutations(digits: int, d: int, seed: int) -> Tensor:
    """Return nested uniform permutations of all numbers of some binary digits.

    Parameters
    ----------
    digits
        m; there are 2**m numbers.
    d
        Number of permutations, one for each dimension.
    seed
        From :func:`mcnn.sampling.as_seed`.

    Returns
    -------
    Tensor
        int64 [d, 2**m]: numbers that agree in k leading digits do so afterwards.

    Examples
    --------
    >>> nested_permutations(2, 1, seed=3).tolist()
    [[1, 0, 2, 3]]
    """
    own = torch.arange(d).unsqueeze(1) * _DIMENSION  # [d, 1]
    places = torch.zeros(d, 1, dtype=torch.int64)
    for k in range(digits):
        nodes = torch.arange(1 << k, 2 << k)  # [2**k]: of the tree, numbered as in a heap
        flip = hash_bits(seed, own + nodes) & 1  # [d, 2**k]
        places = torch.stack([2 * places + flip, 2 * places + 1 - flip], -1).view(d, -1)
    return places


def tent(x: Tensor) -> Tensor:
    """Fold points of the unit cube by the tent transform, coordinate by coordinate.

    Examples
    --------
    >>> tent(torch.tensor([0.0, 0.25, 0.5, 0.75])).tolist()
    [0.0, 0.5, 1.0, 0.5]
    """
    return 1 - (2 * x - 1).abs()


@cache
def _plain(n: int, d: int) -> Tensor:
    """Return the leading digits of the first n Sobol' points, int64 [d, n]."""
    x = points(n, d, "sobol-plain", dtype=torch.float64)
    return (x * n).long().T.contiguous()
