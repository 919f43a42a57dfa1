r"""Particles that hop on a ring and vanish where they meet.

In each unit of time every particle hops one site to the left or to the right.
One kind, A + A → 0: where two arrive, both vanish.
Two kinds, A + B → 0: an A and a B that arrive at one site vanish, and a site may hold many of one
kind.
A particle can only react with one that it meets, so the density is not what the mean field says,
1/t: one kind thins out as :math:`t^{-1/2}`, the time that neighbours need to find each other, and
two kinds as :math:`t^{-1/4}`, for in a stretch of length :math:`\sqrt t` the kind that happened to
be more at the start is left.

All particles begin on every second site, so that those that approach each other meet; *sites*
below are those that can be occupied at one time.

Source: U. C. Täuber, as in :mod:`mcnn.kinetics`; D. Toussaint, F. Wilczek, Particle-antiparticle
annihilation in diffusive motion, J. Chem. Phys. 78, 1983.
"""

import operator
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from mcnn.errors import UsageError
from mcnn.kinetics import native
from mcnn.sampling import as_seed, fold_in, hash_bits, uniforms

_BITS = 62  # of a random number, one for each particle of a site: a sign bit is in no one's way
_KINDS = (1, 2)


def lattice(
    kinds: int,
    sites: int,
    times: Sequence[int],
    density: float = 1.0,
    seed: int | torch.Generator = 0,
) -> Iterator[Tensor]:
    """Yield the state of a ring at given times.

    Parameters
    ----------
    kinds
        1 for A + A → 0, 2 for A + B → 0.
    sites
        Length of the ring, at least 2.
    times
        Whole units of time, increasing, from 0.
    density
        Particles per site at the start, above 0 and at most 1: each site holds one with that
        probability, of either kind alike.
    seed
        An integer, or a generator, which is advanced by one draw.

    Yields
    ------
    Tensor
        int32 [sites]: the number of particles, that of B as a negative number. It is overwritten
        by nothing, and not to be changed.

    Raises
    ------
    UsageError
        For any other number of kinds, sites, times or density.

    Examples
    --------
    >>> [int(state.abs().sum()) for state in lattice(1, 1000, [0, 100], seed=1)]
    [1000, 52]
    """
    if kinds not in _KINDS:
        raise UsageError(f"kinds must be 1 (A + A) or 2 (A + B), got {kinds!r}")
    sites = operator.index(sites)
    if sites < 2:
        raise UsageError(f"a ring needs at least 2 sites, got {sites}")
    if not 0 < density <= 1:
        raise UsageError(f"density must be above 0 and at most 1, got {density}")
    given = [float(t) for t in times]  # of a tensor or an array, too
    ascending = all(a < b for a, b in pairwise(given))
    if not (ascending and all(t.is_integer() and t >= 0 for t in given)):
        raise UsageError("times must be whole numbers from 0, each larger than the last")
    return _states(kinds, sites, [int(t) for t in given], density, as_seed(seed))


def _states(
    kinds: int, sites: int, times: list[int], density: float, seed: int
) -> Iterator[Tensor]:
    start, hops = fold_in(seed, 0), fold_in(seed, 1)
    u = uniforms(start, torch.arange(sites))
    sign = 1 if kinds == 1 else torch.where(u < density / 2, 1, -1)
    state = ((u < density) * sign).to(torch.int32)  # [sites]
    work = native.hop if native.available() else _hop
    now = 0
    for time in times:
        while now < time:
            state = work(state, now, kinds, hops)
            now += 1
        yield state


def _hop(state: Tensor, step: int, kinds: int, seed: int) -> Tensor:
    """Let every particle hop once; what the loop in C does, by operators."""
    number, sites = state.abs(), len(state)
    index = step * sites + torch.arange(sites)
    right = torch.zeros_like(number)
    for word in range(-(-int(number.max()) // _BITS)):  # one word, but for a crowd
        bits = hash_bits(seed + word, index)
        here = (number - word * _BITS).clamp(min=0, max=_BITS)
        for particle in range(int(here.max())):
            right += ((bits >> particle) & 1).to(torch.int32) * (here > particle)
    sign = state.sign()
    to_right, to_left = sign * right, sign * (number - right)
    # From site 2i to 2i + 1, or to 2i - 1, which is number i - 1; at odd times the other way.
    after = to_right.roll(1) + to_left if step % 2 else to_right + to_left.roll(-1)
    return after % 2 if kinds == 1 else after
