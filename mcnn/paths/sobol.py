r"""Sobol' paths: which dimensions to take, and what graph they make.

Bit :math:`k` of the number of a path adds the direction number :math:`v_{l,k}` of layer :math:`l`,
modulo two, and the leading digits of the sum are the unit.
So all that a power of two of paths does to layers of powers of two is linear algebra over the
field of two elements.
Let :math:`A_l` be the digits of layer :math:`l` as a matrix with a row a digit and a column a bit
of the number of the path, and :math:`K_l` its kernel.
Then

- :math:`2^{\operatorname{rank}(A_l; A_{l+1})}` edges between two layers are distinct;
- two paths share a unit of layer :math:`l` if their numbers differ by an element of :math:`K_l`, so
  the network falls into :math:`2^{r-\dim(K_0+\cdots+K_L)}` components that never meet;
- :math:`2^{\dim(K_0+\cdots+K_l)-\dim K_l}` units of layer :math:`l` are reached from an input.

Scrambling multiplies every :math:`A_l` from the left by an invertible matrix and changes none of
the three: a bad choice of dimensions stays bad.
The first dimensions in order are such a choice, and :func:`sobol_dimensions` makes a better one.

Source: slides "Sampling Paths through Networks"; direction numbers of S. Joe and F. Y. Kuo
(SIAM J. Sci. Comput. 30, 2008), as PyTorch has them.
"""

from collections.abc import Iterable, Sequence
from functools import cache, partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from mcnn.sampling import hash_bits

BITS = 30  # of a direction number, and so the most bits of the number of a path
_SPARE = 24  # dimensions to choose from beyond one a layer
_LOW = 12  # bits of the number of a path that one table holds


class SobolNetwork(NamedTuple):
    """What the paths of Sobol' dimensions make of layers of powers of two.

    Parameters
    ----------
    edges
        Distinct edges between neighbouring layers, one number a pair.
    components
        Parts of the network that no path connects.
    reached
        Units of each layer that paths reach from one input; the same number for every input.
    """

    edges: tuple[int, ...]
    components: int
    reached: tuple[int, ...]


def sobol_network(digits: Sequence[int], bits: int, dimensions: Sequence[int]) -> SobolNetwork:
    """Return what :math:`2^{bits}` Sobol' paths connect, without making one of them.

    Parameters
    ----------
    digits
        Of each layer: it has ``2**digits`` units.
    bits
        There are ``2**bits`` paths.
    dimensions
        Of the Sobol' sequence, one for each layer, counted from zero.

    Returns
    -------
    SobolNetwork
        Counts that are exact for every scrambling.

    Raises
    ------
    ValueError
        If the lengths differ, or a number is out of range.

    Examples
    --------
    Eight paths a unit and four layers of 1024: the first four dimensions leave four networks.

    >>> sobol_network([10] * 4, 13, range(4)).components
    4
    >>> sobol_network([10] * 4, 13, sobol_dimensions([1024] * 4)).components
    2
    """
    if len(digits) != len(dimensions) or not digits:
        raise ValueError(f"{len(digits)} layers and {len(dimensions)} dimensions: one for each")
    if not 0 <= bits <= BITS or not all(0 <= m <= BITS for m in digits):
        raise ValueError(f"bits and digits must be in 0 ... {BITS}, got {bits} and {list(digits)}")
    layers = [_rows(d, m, bits) for d, m in zip(dimensions, digits, strict=True)]
    edges = tuple(1 << _rank(a + b) for a, b in pairwise(layers))
    seen: list[int] = []
    reached = []
    for rows in layers:
        kernel = _kernel(rows, bits)
        seen = _basis(seen + kernel)
        reached.append(1 << (len(seen) - len(kernel)))
    return SobolNetwork(edges, 1 << (bits - len(seen)), tuple(reached))


def sobol_dimensions(widths: Sequence[int]) -> tuple[int, ...]:
    """Choose a Sobol' dimension for each layer.

    Layer after layer, the dimension is taken that leaves the fewest units out of reach of an input
    and the fewest edges hit twice, added up over all numbers of paths that are powers of two, so
    that a network keeps its dimensions when it grows.
    Widths count as the next power of two.

    Parameters
    ----------
    widths
        Units of each layer.

    Returns
    -------
    tuple of int
        Different dimensions, counted from zero.

    Raises
    ------
    ValueError
        For a width that is not in 1 ... 2**30.

    Examples
    --------
    >>> sobol_dimensions([256, 256, 256])
    (0, 1, 2)
    """
    if not widths or not all(1 <= n <= 1 << BITS for n in widths):
        raise ValueError(f"widths must be in 1 ... 2**{BITS}, got {list(widths)}")
    return _choose(tuple((n - 1).bit_length() for n in widths))


@cache
def _choose(digits: tuple[int, ...]) -> tuple[int, ...]:
    sizes = range(1, min(BITS, 2 * max(digits)) + 1)  # more paths would repeat all edges
    chosen: list[int] = []
    seen: dict[int, list[int]] = {r: [] for r in sizes}
    for _ in digits:
        candidates = (d for d in range(len(digits) + _SPARE) if d not in chosen)
        best = min(candidates, key=partial(_flaws, digits=digits, chosen=chosen, seen=seen))
        rows = {r: _rows(best, digits[len(chosen)], r) for r in sizes}
        seen = {r: _basis(seen[r] + _kernel(rows[r], r)) for r in sizes}
        chosen.append(best)
    return tuple(chosen)


def _flaws(
    dimension: int, digits: tuple[int, ...], chosen: list[int], seen: dict[int, list[int]]
) -> int:
    """Count the binary orders of magnitude that reach and distinct edges fall short of."""
    if not chosen:
        return 0
    before, m = digits[len(chosen) - 1], digits[len(chosen)]
    flaws = 0
    for r, basis in seen.items():
        rows = _rows(dimension, m, r)
        kernel = _kernel(rows, r)
        flaws += min(r, len(basis) + len(kernel)) - len(_basis(basis + kernel))
        flaws += min(r, before + m) - _rank(_rows(chosen[-1], before, r) + rows)
    return flaws


# --- matrices over the field of two elements: a row is an int, bit k is column k ------------------


@cache
def _rows(dimension: int, digits: int, bits: int) -> tuple[int, ...]:
    """Return the leading digits of a dimension as functions of the bits of the path's number."""
    numbers = directions([dimension])[0, :bits].tolist()
    return tuple(
        sum((v >> (BITS - 1 - row) & 1) << k for k, v in enumerate(numbers))
        for row in range(digits)
    )


def _basis(rows: Iterable[int]) -> list[int]:
    basis: dict[int, int] = {}  # by leading bit
    for row in rows:
        while row and row.bit_length() in basis:
            row ^= basis[row.bit_length()]
        if row:
            basis[row.bit_length()] = row
    return list(basis.values())


def _rank(rows: Iterable[int]) -> int:
    return len(_basis(rows))


def _kernel(rows: Sequence[int], bits: int) -> list[int]:
    """Return a basis of the vectors that all rows map to zero."""
    # Column k with a mark: eliminating the columns leaves the marks of those that cancel.
    columns = [
        sum((row >> k & 1) << (BITS + i) for i, row in enumerate(rows)) | 1 << k
        for k in range(bits)
    ]
    return [x for x in _basis(columns) if x < 1 << BITS]


# --- points ---------------------------------------------------------------------------------------


def directions(dimensions: Sequence[int]) -> Tensor:
    """Return the direction numbers of some dimensions: int64, [dimensions, BITS]."""
    engine = _engine(1 << max(dimensions).bit_length())
    return engine.sobolstate[list(dimensions)]


@cache
def _engine(dimensions: int) -> torch.quasirandom.SobolEngine:
    return torch.quasirandom.SobolEngine(min(dimensions, torch.quasirandom.SobolEngine.MAXDIM))


def scrambled(dimension: int, seed: int) -> tuple[Tensor, int]:
    """Scramble a dimension by a random matrix and a random shift of its digits.

    Parameters
    ----------
    dimension
        Counted from zero.
    seed
        The matrix is lower triangular, with ones on its diagonal.

    Returns
    -------
    tuple
        Direction numbers, int64 [BITS], and the shift.
    """
    draws = hash_bits(seed, torch.arange(BITS + 1)) & ((1 << BITS) - 1)
    places = torch.arange(BITS)  # of a digit; the last one leads
    rows = 1 << places | draws[:BITS] & -(2 << places)  # leading digits change those behind
    odd = directions([dimension])[0] & rows[:, None]  # [BITS, BITS]: digit, bit of the number
    for half in (16, 8, 4, 2, 1):
        odd = odd ^ odd >> half
    return ((odd & 1) << places[:, None]).sum(0), int(draws[BITS])


def integers(numbers: Tensor, shift: int, start: int, count: int, device: torch.device) -> Tensor:
    """Return Sobol' points as integers.

    Parameters
    ----------
    numbers, shift
        From :func:`scrambled`.
    start, count
        Which points; point i adds the direction numbers of the bits of i itself, not of its Gray
        code, so that blocks of powers of two hold the same points in another order.
    device
        Of the result.

    Returns
    -------
    Tensor
        int64 [count], in 0 ... 2**BITS - 1.
    """
    numbers = numbers.to(device)
    first, last = start >> _LOW, (start + count - 1) >> _LOW
    high = _combine(torch.arange(first, last + 1, device=device), numbers[_LOW:])
    low = _combine(torch.arange(1 << _LOW, device=device), numbers[:_LOW]) ^ shift
    whole = (high[:, None] ^ low).flatten()  # every combination: [blocks, 2**_LOW]
    skip = start - (first << _LOW)
    return whole[skip : skip + count]


def _combine(index: Tensor, numbers: Tensor) -> Tensor:
    result = torch.zeros_like(index)
    for k, number in enumerate(numbers.tolist()):
        result ^= (index >> k & 1) * number
    return result
