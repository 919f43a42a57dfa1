"""Random numbers and point sets that every idea of the book shares.

Two needs meet here.

**Numbers that do not depend on the device.**
A counter-based generator computes the i-th random number from a seed and i alone, by mixing their
bits.
There is no state, so a number can be had anywhere, in any order, without drawing those before it,
and integer arithmetic gives the same bits on every device.
:func:`uniforms` does this with the finaliser of SplitMix64 [1]_.

**Points that cover the cube better than random ones.**
:func:`points` offers the classical families by name.

=====================  ====================================================================
``random``             independent and uniform: error n^(-1/2) whatever the dimension
``jittered``           one point in each of n equal cells: n^(-1/2-1/d) for smooth integrands
``sobol``              Sobol' sequence; the seed scrambles digits (linear matrices and a shift)
``sobol-plain``        Sobol' sequence as it is; the seed is not used
``lattice``            rank-1 lattice, shifted by the seed
``van-der-corput``     radical inverse in base 2, rotated by the seed; one dimension
=====================  ====================================================================

References
----------
.. [1] G. L. Steele, D. Lea, C. H. Flood: Fast splittable pseudorandom number generators.
   OOPSLA 2014.
.. [2] D. Nuyens, F. Y. Kuo: embedded lattice rule with generating vector
   ``exod2_base2_m20`` (Cools, Kuo, Nuyens: Constructing embedded lattice rules for multivariate
   integration, SIAM J. Sci. Comput. 2006).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mcnn.errors import unknown

if TYPE_CHECKING:
    from scipy.stats import qmc

# Odd constants of SplitMix64, as signed 64-bit integers: products wrap around, as they should.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MIX1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX2 = 0x94D049BB133111EB - 2**64

_AT_ZERO = 0xD1B54A32D192ED03 - 2**64  # the input that takes the place of zero

_BITS = 53  # of a float64 mantissa: k / 2**53 is exact


def as_seed(seed: int | torch.Generator) -> int:
    """Return a seed as an integer; a generator is advanced by one draw.

    Raises
    ------
    TypeError
        For anything but an integer or a generator.
    ValueError
        For an integer outside 0 ... 2**63 - 1.
    """
    if isinstance(seed, torch.Generator):
        draw = torch.randint(2**63 - 1, (), generator=seed, device=seed.device)
        return int(draw)
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise TypeError(f"seed must be an int or a torch.Generator, got {type(seed).__name__}")
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed must be in 0 ... 2**63 - 1, got {seed}")
    return int(seed)


def hash_bits(seed: int, index: Tensor) -> Tensor:
    """Return 64 random bits for every index: SplitMix64's output number ``index``.

    Parameters
    ----------
    seed
        Key of the stream.
    index
        int64, any shape; which number of the stream.

    Returns
    -------
    Tensor
        int64, the shape and device of ``index``.
    """
    key = int(_mix(torch.tensor(seed)))  # neighbouring seeds must not give shifted streams
    z = index * _GOLDEN + key
    return _mix(torch.where(z == 0, _AT_ZERO, z))  # mixing has one fixed point: zero


def fold_in(seed: int, number: int) -> int:
    """Return a seed of its own for each number: of a layer, a stream, a repetition.

    Parameters
    ----------
    seed
        From :func:`as_seed`, or its complement ``~seed`` for a second family.
    number
        Which one.

    Examples
    --------
    >>> fold_in(7, 0) == fold_in(7, 1)
    False
    """
    # Without the exception for zero: a seed may be zero, and recorded seeds stay what they were.
    return int(_mix(torch.tensor(number) * _GOLDEN + _mix(torch.tensor(seed)))) & (2**63 - 1)


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * _MIX1
    z = (z ^ _shift(z, 27)) * _MIX2
    return z ^ _shift(z, 31)


def _shift(z: Tensor, bits: int) -> Tensor:
    """Shift right and fill with zeros; int64's own shift fills with the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def uniforms(seed: int, index: Tensor) -> Tensor:
    """Return uniform random numbers in [0, 1), the same on every device.

    Parameters
    ----------
    seed
        Key of the stream, from :func:`as_seed`.
    index
        int64, any shape; which numbers of the stream.

    Returns
    -------
    Tensor
        float64 multiples of 2**-53, the shape and device of ``index``.

    Examples
    --------
    >>> uniforms(7, torch.arange(3)).equal(uniforms(7, torch.arange(10))[:3])
    True
    """
    return _shift(hash_bits(seed, index), 64 - _BITS).double() * 2.0**-_BITS


def points(
    n: int,
    d: int,
    method: str = "random",
    seed: int | torch.Generator = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return n points of the d-dimensional unit cube.

    Parameters
    ----------
    n
        Number of points; ``jittered`` needs an exact d-th power.
    d
        Dimension.
    method
        One of :data:`METHODS`, see the table above.
    seed
        Randomises the points; every point of a randomised set is uniform by itself, but for
        ``jittered``, where each is uniform in its own cell.
    device, dtype
        Of the result.

    Returns
    -------
    Tensor
        [n, d] in [0, 1).

    Raises
    ------
    ValueError
        For an unknown method, a size below one, a dimension that the method does not have, or a
        number of jittered points that is no d-th power.

    Examples
    --------
    >>> points(4, 1, "jittered", seed=1).mul(4).long().flatten().tolist()
    [0, 1, 2, 3]
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    for name, value in (("n", n), ("d", d)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    x = torch.as_tensor(METHODS[method](n, d, as_seed(seed)), dtype=torch.float64)
    return _rounded_down(x, dtype).to(device)


def _rounded_down(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Round numbers in [0, 1) to a narrower type; upwards they would reach the next cell, or 1."""
    y = x.to(dtype)
    if dtype == x.dtype:
        return y
    bits = {2: torch.int16, 4: torch.int32}[dtype.itemsize]
    # The bits of positive numbers are in the order of the numbers: one less is the next below.
    return (y.view(bits) - (y.double() > x).to(bits)).view(dtype)


def _random(n: int, d: int, seed: int) -> Tensor:
    return uniforms(seed, torch.arange(n * d)).view(n, d)


def _jittered(n: int, d: int, seed: int) -> Tensor:
    side = round(n ** (1 / d))
    if side**d != n:
        raise ValueError(
            f"jittered points fill a grid: n must be a power m**{d}, got {n}; "
            f"nearest: {side**d} or {(side + 1) ** d}"
        )
    axes = [torch.arange(side)] * d
    cells = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).view(n, d)
    return (cells + _random(n, d, seed)) / side


def _sobol(n: int, d: int, seed: int) -> np.ndarray:
    from scipy.stats import qmc  # takes as long as half of PyTorch

    rng = np.random.default_rng(seed)
    return _sobol_points(n, qmc.Sobol(d, scramble=True, bits=_BITS, rng=rng))


def _sobol_plain(n: int, d: int, seed: int) -> np.ndarray:
    from scipy.stats import qmc

    return _sobol_points(n, qmc.Sobol(d, scramble=False, bits=_BITS))


def _sobol_points(n: int, engine: "qmc.Sobol") -> np.ndarray:
    # Powers of two are what the sequence is balanced for; SciPy warns of other sizes, but any
    # prefix of the sequence is a legal and often useful request.
    whole = 1 << (n - 1).bit_length()
    return engine.random(whole)[:n]


def _lattice(n: int, d: int, seed: int) -> Tensor:
    if d > len(_GENERATOR):
        raise ValueError(f"the lattice has {len(_GENERATOR)} dimensions, got d = {d}")
    i = torch.arange(n).unsqueeze(1)  # [n, 1]
    shift = uniforms(seed, torch.arange(d))  # [d]
    z = torch.tensor(_GENERATOR[:d])  # [d]
    return ((i * z % n).double() / n + shift) % 1


def _van_der_corput(n: int, d: int, seed: int) -> Tensor:
    if d != 1:
        raise ValueError(f"the van der Corput sequence has one dimension, got d = {d}; use sobol")
    from scipy.stats import qmc

    x = torch.from_numpy(qmc.Halton(1, scramble=False).random(n))  # [n, 1], base 2
    return (x + uniforms(seed, torch.arange(1))) % 1


# Generating vector of an embedded lattice rule, good for n = 2**10 ... 2**20 [2]_.
# fmt: off
_GENERATOR = (
    1, 182667, 469891, 498753, 110745, 446247, 250185, 118627, 245333, 283199,
    408519, 391023, 246327, 126539, 399185, 461527, 300343, 69681, 516695, 436179,
)
# fmt: on

METHODS: dict[str, Callable[[int, int, int], Tensor | np.ndarray]] = {
    "random": _random,
    "jittered": _jittered,
    "sobol": _sobol,
    "sobol-plain": _sobol_plain,
    "lattice": _lattice,
    "van-der-corput": _van_der_corput,
}
