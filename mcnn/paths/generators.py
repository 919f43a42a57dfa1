r"""Sampling paths: one unit of every layer, from the inputs to the outputs.

A path is a point of the unit cube with one dimension a layer: :math:`\lfloor x_l n_l\rfloor` is its
unit in layer :math:`l`.
How the points are chosen decides how evenly units and edges are used.

=================  ==============================================================================
``uniform``        random walk: every unit independent
``pixel``          the inputs take turns at starting a path, the rest is random
``backward``       the outputs take turns at starting a path, which walks back to the inputs
``bidirectional``  half a path walks forward from the inputs in turn, half backward from the
                   outputs in turn, in random pairs, and an edge joins the two
``permutation``    in all layers the units take turns, in random orders
``sobol``          as ``permutation``, the orders by the points of a scrambled Sobol' sequence
``lattice``        as ``permutation``, the orders by the points of a shifted lattice sequence
=================  ==============================================================================

*Units take turns* means: path numbers :math:`kn_l,\ldots,(k+1)n_l-1` visit every unit of the layer
once, for each :math:`k`.
The unit of a path is the rank of its coordinate among those of the other paths of the block, plus a
random number of the layer, modulo :math:`n_l`: so each path visits each unit with equal
probability.
For the Sobol' sequence and a power of two :math:`\lfloor x_ln_l\rfloor` does as much and is taken
as it is; for other widths that formula would visit some units twice before others once.

Everything is computed with integers: a coordinate in single precision may round up to the next
unit.

Source: slides "Sampling Paths through Networks" of A. Keller's talk; [1]_ for the lattice.

References
----------
.. [1] F. J. Hickernell, H. S. Hong, P. L'Écuyer, C. Lemieux: Extensible lattice sequences for
   quasi-Monte Carlo quadrature. SIAM J. Sci. Comput. 22, 2000.
"""

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import NamedTuple

import torch
from torch import Tensor

from mcnn.errors import unknown
from mcnn.paths.sobol import BITS, integers, scrambled, sobol_dimensions
from mcnn.sampling import _GENERATOR as LATTICE
from mcnn.sampling import as_seed, fold_in, hash_bits

_CHUNK = 1 << 22  # paths worked on at once: bounds the memory beside the result
_WORD = 1 << 32


class _Layer(NamedTuple):
    """What a method knows when it chooses units of a layer."""

    number: int
    layers: int
    units: int
    key: int  # of the layer's own random numbers
    dimension: int
    device: torch.device


Source = Callable[[_Layer, int, int], Tensor]  # (layer, start, count) -> int64 [count]


def sample_paths(
    widths: Sequence[int],
    paths: int,
    method: str = "sobol",
    seed: int | torch.Generator = 0,
    device: torch.device | str = "cpu",
    *,
    start: int = 0,
    dimensions: Sequence[int] | None = None,
) -> Tensor:
    """Sample paths through a network of fully connected layers.

    Parameters
    ----------
    widths
        Units of each layer, inputs first, at least two layers.
    paths
        Number of paths.
    method
        One of :data:`METHODS`, see the table above.
    seed
        An integer, or a generator, which is advanced by one draw.
        The same seed gives the same paths on every device.
    device
        Of the result.
    start
        Number of the first path.
        Path i does not depend on how many there are: more paths of the same seed continue the
        fewer, and a large set may be sampled piece by piece.
    dimensions
        Of the Sobol' sequence, one for each layer, counted from zero; by default those that
        :func:`sobol_dimensions` chooses.

    Returns
    -------
    Tensor
        int32, [layers, paths]: entry [l, p] is the unit of layer l on path p.

    Raises
    ------
    TypeError
        If widths, ``paths`` or ``start`` are not integers.
    ValueError
        For fewer than two layers, a width or number of paths out of range, an unknown method, or
        dimensions that fit neither the widths nor the method.

    Notes
    -----
    Source: slides "Sampling Paths through Networks".

    Examples
    --------
    >>> sample_paths([4, 2, 4], paths=4, method="permutation", seed=1).sort(1).values
    tensor([[0, 1, 2, 3],
            [0, 0, 1, 1],
            [0, 1, 2, 3]], dtype=torch.int32)
    """
    widths = tuple(widths)
    _check(widths, paths, method, start)
    widths, paths, start = tuple(map(int, widths)), int(paths), int(start)
    source = METHODS[method]
    if dimensions is None:
        dimensions = sobol_dimensions(widths) if method == "sobol" else range(len(widths))
    elif method != "sobol":
        raise ValueError(f"dimensions are of the method 'sobol', not of {method!r}")
    if len(dimensions) != len(widths):
        raise ValueError(f"{len(widths)} layers need as many dimensions, got {len(dimensions)}")
    seed = as_seed(seed)
    device = torch.device(device)
    result = torch.empty(len(widths), paths, dtype=torch.int32, device=device)
    for number, units in enumerate(widths):
        key, dimension = fold_in(seed, number), dimensions[number]
        layer = _Layer(number, len(widths), units, key, dimension, device)
        step = max(_CHUNK, units)
        for first in range(0, paths, step):
            part = result[number, first : first + step]
            part.copy_(source(layer, start + first, len(part)))
    return result


def _check(widths: tuple[int, ...], paths: int, method: str, start: int) -> None:
    for name, value in (*(("width", n) for n in widths), ("paths", paths), ("start", start)):
        if isinstance(value, bool) or not isinstance(value, Integral):  # NumPy's, too
            raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if len(widths) < 2:
        raise ValueError(f"widths must name at least two layers, got {list(widths)}")
    if not all(1 <= n <= 1 << BITS for n in widths):
        raise ValueError(f"widths must be in 1 ... 2**{BITS}, got {list(widths)}")
    if paths < 1 or start < 0 or start + paths > 1 << BITS:
        raise ValueError(
            f"paths must be at least 1 and end before number 2**{BITS}, "
            f"got {paths} from number {start}"
        )
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    if method == "lattice" and len(widths) > len(LATTICE):
        raise ValueError(
            f"the lattice has {len(LATTICE)} dimensions, too few for {len(widths)} layers: "
            "use 'sobol' or 'permutation'"
        )


# --- units ----------------------------------------------------------------------------------------


def _numbers(layer: _Layer, start: int, count: int) -> Tensor:
    return torch.arange(start, start + count, device=layer.device)


def _random(layer: _Layer, start: int, count: int) -> Tensor:
    bits = hash_bits(layer.key, _numbers(layer, start, count)) & (_WORD - 1)
    return bits * layer.units >> 32  # floor(x n), x a multiple of 2**-32


def _in_turn(layer: _Layer, start: int, count: int) -> Tensor:
    return _numbers(layer, start, count) % layer.units


def _ranked(points: Source) -> Source:
    """Replace the points of each block of n, the width of the layer, by their ranks, rotated."""

    def ranks(layer: _Layer, start: int, count: int) -> Tensor:
        n = layer.units
        first = start // n * n
        end = -(-(start + count) // n) * n
        x = points(layer, first, end - first).view(-1, n)  # [blocks, n]
        order = x.argsort(dim=1, stable=True)  # [blocks, n]
        shift = int(hash_bits(layer.key, torch.tensor(-1))) % n
        units = ((torch.arange(n, device=layer.device) + shift) % n).expand_as(order)
        unit = torch.empty_like(order).scatter_(1, order, units)
        return unit.flatten()[start - first :][:count]

    return ranks


def _hashed(layer: _Layer, start: int, count: int) -> Tensor:
    return hash_bits(layer.key, _numbers(layer, start, count))


def _sobol(layer: _Layer, start: int, count: int) -> Tensor:
    numbers, shift = scrambled(layer.dimension, layer.key)
    return integers(numbers, shift, start, count, layer.device)


def _sobol_units(layer: _Layer, start: int, count: int) -> Tensor:
    if layer.units & (layer.units - 1) == 0:  # the leading digits are the ranks
        digits = layer.units.bit_length() - 1
        return _sobol(layer, start, count) >> (BITS - digits)
    return _ranked(_sobol)(layer, start, count)


def _lattice(layer: _Layer, start: int, count: int) -> Tensor:
    radical_inverse = _reversed(_numbers(layer, start, count))
    return (radical_inverse * LATTICE[layer.number] + layer.key) & (_WORD - 1)


def _reversed(x: Tensor) -> Tensor:
    """Reverse the 32 bits of integers."""
    for step, mask in ((1, 0x55555555), (2, 0x33333333), (4, 0x0F0F0F0F), (8, 0x00FF00FF)):
        x = (x >> step & mask) | (x & mask) << step
    return x >> 16 | (x & 0xFFFF) << 16


def _first(layer: _Layer) -> bool:
    return layer.number == 0


def _last(layer: _Layer) -> bool:
    return layer.number == layer.layers - 1


def _pixel(layer: _Layer, start: int, count: int) -> Tensor:
    return (_in_turn if _first(layer) else _random)(layer, start, count)


def _backward(layer: _Layer, start: int, count: int) -> Tensor:
    return (_in_turn if _last(layer) else _random)(layer, start, count)


def _bidirectional(layer: _Layer, start: int, count: int) -> Tensor:
    # Both ends in plain turns would pair input i with output i modulo their common divisor.
    source = _in_turn if _first(layer) else _ranked(_hashed) if _last(layer) else _random
    return source(layer, start, count)


# The order is that of numbers in checkpoints: append.
METHODS: dict[str, Source] = {
    "uniform": _random,
    "pixel": _pixel,
    "backward": _backward,
    "bidirectional": _bidirectional,
    "permutation": _ranked(_hashed),
    "sobol": _sobol_units,
    "lattice": _ranked(_lattice),
}
