r"""Integers in few bytes: packed in the fewest bits that hold their range, or at their entropy.

At its entropy, a sequence is coded by asymmetric numeral systems [1]_: a number :math:`x` takes in
a symbol with frequency :math:`f` of :math:`2^{14}` and cumulated frequency :math:`F` by

.. math:: x\mapsto\lfloor x/f\rfloor\,2^{14}+(x\bmod f)+F,

and gives off 16 bits whenever it would outgrow 32.
Many such numbers work side by side, so that each step is one of NumPy's.

References
----------
.. [1] J. Duda: Asymmetric numeral systems. arXiv:1311.2540.
"""

import numpy as np

_PRECISION = 14  # bits of a frequency
_TOTAL = 1 << _PRECISION
_LOW = 1 << 16  # a state is between this and 2**32
_PER_LANE = 4096  # symbols for each state: its 4 bytes are .008 bits a symbol


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Return whole numbers from 0 on in so many bits each, uint8.

    Examples
    --------
    >>> unpack(pack(np.array([3, 0, 1]), 2), 2, 3)
    array([3, 0, 1])
    """
    places = (codes[:, None] >> np.arange(bits)) & 1  # [n, bits]
    return np.packbits(places.astype(bool).ravel())


def unpack(packed: np.ndarray, bits: int, number: int) -> np.ndarray:
    """Return what :func:`pack` packed, int64 [number]."""
    places = np.unpackbits(packed, count=number * bits).reshape(number, bits).astype(np.int64)
    return places @ (1 << np.arange(bits, dtype=np.int64))


def frequencies(codes: np.ndarray) -> np.ndarray:
    """Return how often each whole number from 0 on occurs, in units of 2**-14, uint16.

    Whatever occurs has at least one unit, and all together have all of them.

    Raises
    ------
    ValueError
        If more different numbers occur than there are units.
    """
    counts = np.bincount(codes)
    if (counts > 0).sum() > _TOTAL // 2:
        raise ValueError(f"more than {_TOTAL // 2} different codes: store them packed")
    share = counts * (_TOTAL / len(codes))
    units = np.where(counts > 0, np.maximum(1, np.floor(share)), 0).astype(np.int64)
    while (left := _TOTAL - units.sum()) != 0:  # give or take where it matters least
        sign = 1 if left > 0 else -1
        can = (counts > 0) & ((units > 1) | (sign > 0))
        worth = np.where(can, sign * counts / np.maximum(units, 1), -np.inf)
        chosen = np.argsort(-worth)[: min(abs(left), int(can.sum()))]
        units[chosen] += sign
    return units.astype(np.uint16)


def encode(codes: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Return whole numbers at about their entropy, as uint16.

    Parameters
    ----------
    codes
        Whole numbers from 0 on, [n].
    units
        From :func:`frequencies`.

    Examples
    --------
    >>> codes = np.array([0] * 90 + [1] * 10)
    >>> units = frequencies(codes)
    >>> bool((decode(encode(codes, units), units, 100) == codes).all())
    True
    """
    if len(units) == 1:
        return np.zeros(0, np.uint16)  # nothing to say but how many
    units = units.astype(np.uint64)
    starts = np.cumsum(units) - units
    lanes = _lanes(len(codes))
    state = np.full(lanes, _LOW, np.uint64)
    given_off: list[np.ndarray] = []
    for begin in reversed(range(0, len(codes), lanes)):
        part = codes[begin : begin + lanes]
        f, start = units[part], starts[part]
        x = state[: len(part)]
        full = x >= f << np.uint64(32 - _PRECISION)
        given_off.append((x[full] & np.uint64(0xFFFF)).astype(np.uint16)[::-1])
        x = np.where(full, x >> np.uint64(16), x)
        state[: len(part)] = ((x // f) << np.uint64(_PRECISION)) + x % f + start
    words = np.concatenate(given_off)[::-1]
    return np.concatenate([state.astype("<u4").view("<u2"), words]).astype(np.uint16)


def decode(words: np.ndarray, units: np.ndarray, number: int) -> np.ndarray:
    """Return what :func:`encode` was given, int64 [number].

    Raises
    ------
    ValueError
        If the words are damaged.
    """
    if len(units) == 1:
        return np.zeros(number, np.int64)
    if int(units.astype(np.int64).sum()) != _TOTAL:
        raise ValueError("damaged: the frequencies do not add up")
    symbols = np.repeat(np.arange(len(units)), units)  # of each of the units
    units = units.astype(np.uint64)
    starts = np.cumsum(units) - units
    lanes = _lanes(number)
    words = np.ascontiguousarray(words, dtype="<u2")
    state = words[: 2 * lanes].view("<u4").astype(np.uint64)
    place = 2 * lanes
    out = np.empty(number, np.int64)
    for begin in range(0, number, lanes):
        x = state[: min(lanes, number - begin)]
        low = x & np.uint64(_TOTAL - 1)
        part = symbols[low.astype(np.int64)]
        x = units[part] * (x >> np.uint64(_PRECISION)) + low - starts[part]
        empty = x < _LOW
        taken = words[place : place + int(empty.sum())]
        if len(taken) < empty.sum():
            raise ValueError("damaged: it ends too early")
        x[empty] = (x[empty] << np.uint64(16)) | taken
        place += len(taken)
        state[: len(x)] = x
        out[begin : begin + len(x)] = part
    if place != len(words) or (state != _LOW).any():
        raise ValueError("damaged: it does not end where it began")
    return out


def _lanes(number: int) -> int:
    return max(1, min(1024, number // _PER_LANE))
