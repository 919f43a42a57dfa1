"""Throwing units into parts."""

import operator
import warnings
from collections.abc import Callable
from numbers import Real
from typing import SupportsIndex

import torch
from torch import Tensor

from mcnn.checks import as_count
from mcnn.errors import unknown
from mcnn.partition.lfsr import lfsr_bits
from mcnn.sampling import as_seed, hash_bits

MAX_PARTS = 256
"""A label is one byte."""


def part_labels(
    units: int,
    parts: int,
    *,
    balanced: bool = False,
    source: str = "lfsr",
    seed: int | torch.Generator = 0,
    start: int = 0,
    device: torch.device | str = "cpu",
) -> Tensor:
    r"""Throw every unit into one of P parts, at the cost of one random number each.

    Parameters
    ----------
    units
        How many, at least 1.
    parts
        P, 2 to :data:`MAX_PARTS`.
    balanced
        False: independently, :math:`p=\lfloor\xi P\rfloor`; a part may come out empty.
        True: the units are shuffled and dealt out, so that the sizes of parts differ by one at
        most (the first ones are the larger); with fewer units than parts the last parts are empty.
    source
        ``"lfsr"``: a shift register (:mod:`mcnn.partition.lfsr`); ``"counter"``: the counter-based
        generator of :mod:`mcnn.sampling`.
    seed
        An integer, or a generator, which is advanced by one draw.
    start
        Place of the first number in the sequence of the seed.
    device
        Of the result; the labels are the same on every device.

    Returns
    -------
    Tensor
        [units], uint8, in 0 ... P - 1.

    Raises
    ------
    TypeError
        If a count is no integer.
    ValueError
        For fewer than one unit or two parts, more than 256 parts, a negative start, or an unknown
        source.

    Notes
    -----
    Source: slide "Partition instead of Dropout".

    Examples
    --------
    >>> part_labels(9, 3, balanced=True).bincount().tolist()
    [3, 3, 3]
    """
    parts = check_parts(parts)
    check_choice("source", source, tuple(SOURCES))
    units, start = as_count("units", units), as_count("start", start, 0)
    bits = SOURCES[source](as_seed(seed), start, units, device)  # [units], int64
    if balanced:
        # No two numbers of a source are the same, so the order is that of no ties.
        labels = torch.empty(units, dtype=torch.uint8, device=device)
        dealt = torch.arange(units, device=device) % parts
        return labels.scatter_(0, bits.argsort(), dealt.to(torch.uint8))
    xi = bits >> 32 & 0xFFFFFFFF  # in integers, xi / 2**32 times P is rounded nowhere
    return (xi * parts >> 32).to(torch.uint8)


def _counter(seed: int, start: int, n: int, device: torch.device | str) -> Tensor:
    return hash_bits(seed, torch.arange(start, start + n, device=device))


SOURCES: dict[str, Callable[[int, int, int, torch.device | str], Tensor]] = {
    "lfsr": lfsr_bits,
    "counter": _counter,
}


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse what is not among the choices."""
    if value not in choices:
        raise unknown(name, value, choices)


def check_parts(parts: SupportsIndex) -> int:
    """Return a number of parts as an int, and refuse what is none."""
    if isinstance(parts, bool) or not isinstance(parts, SupportsIndex):
        raise TypeError(
            f"parts must be an int, got {parts!r}: P parts stand for dropout at a rate of 1/P"
        )
    parts = operator.index(parts)
    if parts < 2:
        raise ValueError(f"parts must be at least 2, got {parts}: one part would be every unit")
    if parts > MAX_PARTS:
        raise ValueError(f"parts must be at most {MAX_PARTS}, got {parts}: a label is one byte")
    return parts


def parts_of_rate(p: float) -> int:
    """Return P for a rate of dropout of 1/P, as written: .33 is a third.

    Raises
    ------
    ValueError
        If the rate is not within .01 of such a number; those beside it are named.

    Examples
    --------
    >>> parts_of_rate(0.5), parts_of_rate(0.33)
    (2, 3)
    """
    if isinstance(p, bool) or not isinstance(p, Real):
        raise TypeError(f"p must be a number, got {type(p).__name__}")
    if not 0 < p <= 0.51:
        raise ValueError(f"p must be a rate of 1/P in 1/256 ... 1/2, got {p}")
    parts = round(1 / p)
    if parts > MAX_PARTS or abs(p - 1 / parts) > 0.01:
        low = min(int(1 / p), MAX_PARTS)
        raise ValueError(
            f"partitions drop at rates of 1/P: p={p} is none; take p=1/{low} or p=1/{low + 1}"
        )
    return parts


def parts_or_rate(parts: int | None, p: float | None) -> int:
    """Return the number of parts, of which one of the two says it."""
    if (parts is None) == (p is None):
        raise TypeError("give either parts, P, or p, the rate 1/P")
    if parts is None:
        return parts_of_rate(p)
    return check_parts(parts)


def rate_read(layer: str, parts: int) -> float:
    """Return the rate 1/P to somebody who asks a partition for it, and say what that means.

    Warns
    -----
    UserWarning
        Who has the rate drops units without the layer.
    """
    warnings.warn(
        f"the rate p of a {layer} was read: what reads it, as attention does that hands it on to "
        "scaled_dot_product_attention, drops units by itself and at random; keep nn.Dropout there",
        stacklevel=3,
    )
    return 1 / parts


def saved_integers(state: Tensor) -> list[int]:
    """Return the integers of a saved state, also where it became floating point.

    Raises
    ------
    ValueError
        If they are none: those of averaged states.
    """
    if (state != state.round()).any():
        raise ValueError("the state of a partition is an average of others: take that of one")
    return [max(-(2**63), min(int(v), 2**63 - 1)) for v in state.tolist()]
