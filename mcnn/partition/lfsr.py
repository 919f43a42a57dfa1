"""Random numbers from a linear feedback shift register.

A register of w bits shifts by one, and the bit that falls out flips the bits at its *taps*: that
is a Galois register.
Read the bits as a polynomial over {0, 1}, and a tick multiplies it by x, modulo the polynomial of
the taps.
If that polynomial is *primitive*, the register runs through all 2**w - 1 states but zero before it
repeats: its length is maximal.

**Numbers.** One tick moves the bits by one place, so neighbouring states are nearly the same
number.
Random numbers are the states :data:`STRIDE` ticks apart, more than the register is long.
The stride is no power of two, for squaring maps the roots of the polynomial to one another, and
states 2**k ticks apart would obey the same sum of three or four terms as the bits do.

**Many at once.** The state k ticks ahead is a product with x**k.
The register therefore jumps: from the first m numbers all of the next m follow by one product, and
n numbers take log2 n of them, each a few table look-ups on whole tensors.
In the same way it jumps to any place of the sequence, so that the place is all there is to store.

Taps are those of P. Alfke, Efficient shift registers, LFSR counters, and long pseudo-random
sequence generators, Xilinx application note XAPP 052, 1996.
"""

import functools

import torch
from torch import Tensor

from mcnn.sampling import hash_bits

TAPS: dict[int, tuple[int, ...]] = {
    4: (4, 3),
    8: (8, 6, 5, 4),
    16: (16, 15, 13, 4),
    32: (32, 22, 2, 1),
    64: (64, 63, 61, 60),
}
"""Width of a register: the powers of x, beside 1, of its primitive polynomial."""

STRIDE = 67
"""Ticks between two numbers: prime to 2**w - 1, so that the period stays what it is."""


def tick(state: int, width: int = 64) -> int:
    """Return the next state of the register: shift left, and flip the taps if a bit falls out.

    Parameters
    ----------
    state
        In 1 ... 2**width - 1.
    width
        Bits of the register, one of :data:`TAPS`.

    Examples
    --------
    >>> state, seen = 1, []
    >>> for _ in range(15):
    ...     seen.append(state)
    ...     state = tick(state, 4)
    >>> seen
    [1, 2, 4, 8, 9, 11, 15, 7, 14, 5, 10, 13, 3, 6, 12]
    """
    shifted = state << 1
    return shifted ^ _polynomial(width) if shifted >> width else shifted


def multiply(a: int, b: int, width: int = 64) -> int:
    """Return the product of two states as polynomials, modulo that of the taps."""
    taps, product = _polynomial(width), 0
    while b:
        if b & 1:
            product ^= a
        a, b = a << 1, b >> 1
        if a >> width:  # a tick, written out: this is the loop that jumps spend their time in
            a ^= taps
    return product


def states(
    first: int,
    n: int,
    width: int = 64,
    stride: int = 1,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return n states of the register, ``stride`` ticks apart.

    Parameters
    ----------
    first
        The first of them, in 1 ... 2**width - 1.
    n
        How many.
    width
        Bits of the register, one of :data:`TAPS`.
    stride
        Ticks from one to the next, at least 1.
    device
        Of the result.

    Returns
    -------
    Tensor
        [n], int64; the bit 63 of a register of 64 is the sign.

    Raises
    ------
    ValueError
        For a width without taps, a first state that the register does not have (zero never leaves
        itself), a negative n, or a stride below one.

    Examples
    --------
    >>> states(1, 5, width=4).tolist()
    [1, 2, 4, 8, 9]
    """
    if width not in TAPS:
        raise ValueError(f"width must be one of {', '.join(map(str, TAPS))}; got {width}")
    if not 0 < first < 1 << width:
        raise ValueError(f"first must be in 1 ... 2**{width} - 1, got {first}")
    if n < 0 or stride < 1:
        raise ValueError(f"n must be at least 0 and stride at least 1, got {n} and {stride}")
    register = torch.tensor([_signed(first)], device=device)
    level = 0
    while len(register) < n:  # twice as many each time
        table = _table(width, stride, level, register.device)
        register = torch.cat([register, _times(register[: n - len(register)], table)])
        level += 1
    return register[:n]


def lfsr_bits(seed: int, start: int, n: int, device: torch.device | str = "cpu") -> Tensor:
    """Return n numbers of 64 bits from the register, without those before ``start``.

    Parameters
    ----------
    seed
        Where on its one long cycle the register begins.
        Two seeds give two places: sequences of 10**12 numbers overlap with probability 10**-7.
    start
        The first number's place in the sequence of the seed.
    n
        How many.
    device
        Of the result; the numbers are the same on every device.

    Returns
    -------
    Tensor
        [n], int64, all different and none zero.

    Examples
    --------
    >>> lfsr_bits(7, 3, 2).equal(lfsr_bits(7, 0, 5)[3:])
    True
    """
    state = int(hash_bits(seed, torch.tensor(0))) % 2**64 or 1  # zero never leaves itself
    level = 0
    while start >> level:
        if start >> level & 1:
            state = multiply(state, _power(64, STRIDE, level))
        level += 1
    return states(state, n, 64, STRIDE, device)


@functools.cache
def _polynomial(width: int) -> int:
    return 1 | sum(1 << tap for tap in TAPS[width])


@functools.cache
def _power(width: int, stride: int, level: int) -> int:
    """Return x to the power ``stride * 2**level``."""
    if level:
        root = _power(width, stride, level - 1)
        return multiply(root, root, width)
    power = 1
    for _ in range(stride):
        power = tick(power, width)
    return power


@functools.cache
def _table(width: int, stride: int, level: int, device: torch.device) -> Tensor:
    """Return the products of that power with every byte at every place: [bytes, 256]."""
    column = _power(width, stride, level)  # times x**0, x**1, ...
    rows = []
    for _ in range((width + 7) // 8):
        row = [0]
        for _ in range(8):
            row += [product ^ column for product in row]
            column = tick(column, width)
        rows.append([_signed(product) for product in row])
    return torch.tensor(rows, device=device)


def _times(state: Tensor, table: Tensor) -> Tensor:
    """Multiply states [m] by the factor of the table: the sum of the products of their bytes."""
    places = torch.arange(len(table), device=state.device)
    bytes_ = state.unsqueeze(1) >> 8 * places & 255  # [m, places]
    products = table[places, bytes_]
    while products.shape[1] > 1:  # a sum modulo 2, by halves
        products = products[:, ::2] ^ products[:, 1::2]
    return products.squeeze(1)


def _signed(value: int) -> int:
    """Return 64 bits as int64 has them."""
    return value - (value >> 63 << 64)
