r"""Numbers in [0, 1) by the name of what makes them, so that one can be exchanged for another.

=============  ====================================================================================
``random``     pseudo-random: the counter-based generator of :mod:`mcnn.sampling`
``lfsr``       pseudo-random: the shift register of :mod:`mcnn.partition.lfsr`
``sobol``      Sobol' sequence, its digits scrambled by the seed
``lattice``    rank-1 lattice, shifted by random numbers; a new shift for each block
=============  ====================================================================================

A number from any of them is uniform by itself.
What differs is how the numbers of a block lie to each other: of n points each coordinate alone
takes every n-th part of the unit interval about once if they are Sobol' points or a lattice, and
leaves gaps and clusters if they are pseudo-random.

A network asks for more dimensions than tables of lattices have.
Where that of :mod:`mcnn.sampling` does not reach (powers of two from 1024 points on, 20
dimensions), the lattice is one of Korobov's [1]_: for a prime p the point i has the coordinates

.. math:: \{i a^j / p\},\qquad j = 0, 1, \ldots, d-1,

and a is the best of some candidates for all pairs of coordinates: of those it minimises the mean
of the worst case error :math:`P_2` [2]_.

References
----------
.. [1] N. M. Korobov: The approximate computation of multiple integrals. Dokl. Akad. Nauk SSSR,
   1959.
.. [2] I. H. Sloan, S. Joe: Lattice methods for multiple integration. Oxford, 1994.
"""

import functools

import torch
from torch import Tensor

from mcnn.checks import as_count
from mcnn.errors import unknown
from mcnn.partition.lfsr import lfsr_bits
from mcnn.sampling import METHODS, as_seed, fold_in, points, uniforms

SOURCES = ("random", "lfsr", "sobol", "lattice")

_BITS = 53  # of a float64 mantissa
_TABLE, _SMALLEST = 20, 1024  # dimensions and number of points that mcnn.sampling's lattice is for
_CANDIDATES = 48
_GOLDEN = 0.6180339887498949


class Stream:
    """Points of the unit cube, a block at a time.

    A pseudo-random stream and a Sobol' sequence go on where the last block ended; of a lattice
    every block is the whole lattice, shifted anew.

    Parameters
    ----------
    source
        One of :data:`SOURCES`.
    d
        Dimension of the points, at least 1.
    seed
        An integer, or a generator, which is advanced by one draw.

    Raises
    ------
    ValueError
        For an unknown source or a dimension below one.

    Examples
    --------
    >>> stream = Stream("sobol", d=1, seed=3)
    >>> stream.draw(4).mul(4).long().flatten().sort().values.tolist()
    [0, 1, 2, 3]
    """

    def __init__(self, source: str, d: int, seed: int | torch.Generator = 0) -> None:
        if source not in SOURCES:
            raise unknown("source", source, SOURCES)
        d = as_count("d", d)
        self.source, self.d, self.seed = source, d, as_seed(seed)
        self._drawn = 0  # numbers, or for a lattice blocks
        self._engine = None
        if source == "sobol":
            from scipy.stats import qmc  # takes as long as half of PyTorch

            self._engine = qmc.Sobol(d, bits=_BITS, rng=self.seed)

    def draw(self, n: int) -> Tensor:
        """Return the next n points, float64 [n, d], on the CPU.

        Raises
        ------
        ValueError
            If n is below one.
        """
        n = as_count("n", n)
        if self.source == "sobol":
            return self._sobol(n)
        if self.source == "lattice":
            shift = uniforms(self.seed, self._drawn * self.d + torch.arange(self.d))  # [d]
            self._drawn += 1
            return (_lattice(n, self.d) + shift) % 1
        start, self._drawn = self._drawn, self._drawn + n * self.d
        if self.source == "lfsr":
            return _unit(lfsr_bits(self.seed, start, n * self.d)).view(n, self.d)
        return uniforms(self.seed, torch.arange(start, start + n * self.d)).view(n, self.d)

    def state(self) -> Tensor:
        """Return the place in the stream, int64 [1], or [1 + d] of a Sobol' sequence."""
        drawn = torch.tensor([self._drawn], device="cpu")
        if self._engine is None:
            return drawn
        # SciPy could only count up to the place; with the last digits there is nothing to count.
        return torch.cat([drawn, torch.from_numpy(self._engine._quasi.astype("int64"))])

    def resume(self, state: Tensor) -> None:
        """Go on from where :meth:`state` was asked for, in a stream made alike."""
        self._drawn = int(state[0])
        if self._engine is not None:
            self._engine.num_generated = self._drawn
            self._engine._quasi[:] = state[1:].numpy()

    def _sobol(self, n: int) -> Tensor:
        # SciPy warns if the first block is no power of two; one point alone is.
        first = [] if self._drawn else [torch.from_numpy(self._engine.random(1))]
        rest = n - len(first)
        self._drawn += n
        return torch.cat([*first, torch.from_numpy(self._engine.random(rest))])


def numbers(n: int, d: int, source: str = "random", seed: int | torch.Generator = 0) -> Tensor:
    """Return n points of the d-dimensional unit cube.

    Parameters
    ----------
    n, d
        Number of points and dimension.
    source
        One of :data:`SOURCES`, or another method of :func:`mcnn.sampling.points`.
    seed
        Randomises the points.

    Returns
    -------
    Tensor
        float64 [n, d] in [0, 1), on the CPU.

    Raises
    ------
    ValueError
        As :class:`Stream` and :func:`mcnn.sampling.points` do.
    """
    if source not in SOURCES and source in METHODS:
        return points(n, d, source, seed, dtype=torch.float64)
    return Stream(source, d, seed).draw(n)


def normals(n: int, d: int, source: str = "random", seed: int | torch.Generator = 0) -> Tensor:
    r"""Return n points with independent standard normal coordinates, :math:`\Phi^{-1}(\xi)`.

    The inverse of the distribution function keeps the order of the numbers, so points that are
    spread evenly over the cube are spread evenly over the normal distribution.

    Parameters
    ----------
    n, d, source, seed
        As in :func:`numbers`.

    Returns
    -------
    Tensor
        float64 [n, d], finite.
    """
    tiny = 2.0 ** -(_BITS + 1)  # zero would become minus infinity
    return torch.special.ndtri(numbers(n, d, source, seed).clamp(tiny, 1 - 2.0**-_BITS))


def substream(seed: int, index: int) -> int:
    """Return a seed of its own for each index: neighbours have nothing in common.

    Examples
    --------
    >>> substream(1, 0) == substream(0, 1)
    False
    """
    return fold_in(as_seed(seed), index)


@functools.lru_cache(32)
def _lattice(n: int, d: int) -> Tensor:
    """Return a rank-1 lattice with its first point at the origin, float64 [n, d].

    From 2**10 points on, powers of two in up to 20 dimensions have the generating vector of
    :mod:`mcnn.sampling`, which was built for them; with fewer points some of its coordinates
    coincide. All others are the first n points of Korobov's lattice with the next prime number of
    points that leaves room for d coordinates: there are (p - 1) / 2, up to reflection.
    """
    if d <= _TABLE and n >= _SMALLEST and n & (n - 1) == 0:
        x = points(n, d, "lattice", 0, dtype=torch.float64)
        return ((x - x[0]) * n).round() % n / n  # the seed's shift taken off again
    p = _prime(max(n, 2 * d + 1))
    i = torch.arange(p)
    best, least = None, float("inf")
    for candidate in range(_CANDIDATES):
        a = int(2 + (candidate * _GOLDEN % 1) * (p - 3))  # spread over 2 ... p - 2
        z = torch.tensor([pow(a, j, p) for j in range(d)])
        if len(set(torch.minimum(z, p - z).tolist())) < d:
            continue  # two coordinates would be equal, or reflections of each other
        x = (i.unsqueeze(1) * z % p).double() / p  # [p, d]
        kernel = x * x - x + 1 / 6  # the second Bernoulli polynomial
        pairs = float((kernel.sum(1).square() - kernel.square().sum(1)).mean())
        if pairs < least:
            best, least = x, pairs
    if best is None:
        raise ValueError(f"no lattice of {n} points with {d} different coordinates was found")
    return best[:n]


def _prime(n: int) -> int:
    """Return the smallest prime number that is not below n."""
    while any(n % k == 0 for k in range(2, int(n**0.5) + 1)):
        n += 1
    return n


def _unit(bits: Tensor) -> Tensor:
    """Return 64 bits as a number in [0, 1): the upper ones."""
    shifted = (bits >> 64 - _BITS) & ((1 << _BITS) - 1)
    return shifted.double() * 2.0**-_BITS
