r"""In what order stochastic gradient descent sees its samples.

The gradient of a batch is an estimate of the gradient over all n images: an average over a sample.
Independent samples see some images twice and miss :math:`1/e` of them in an epoch; a permutation
sees each once, so that its errors cancel over the epoch.
If similar images are neighbours in a list, sorted by class, say, an order can do more: a
low-discrepancy sequence :math:`\xi_k` picks image :math:`\lfloor\xi_k n\rfloor` of the sorted list,
and every stretch of it, in particular every batch, is a sample of all parts of the list.

=================  ================================================================================
``replacement``    n independent numbers: images come again, others do not come at all
``shuffled``       another pseudo-random permutation in each epoch
``once``           one pseudo-random permutation for all epochs
``lfsr``           the states of a shift register, which visits each number once: a permutation
                   that needs no memory
``sobol``          along a scrambled Sobol' (here: van der Corput) sequence
``lattice``        in steps of about n divided by the golden ratio
``sorted``         the list as it is: what all the others avoid
=================  ================================================================================
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mcnn.checks import as_count
from mcnn.errors import unknown
from mcnn.partition.lfsr import STRIDE, TAPS, states
from mcnn.randomness.source import numbers, substream
from mcnn.sampling import hash_bits, uniforms

_GOLDEN = 0.6180339887498949


def epoch_order(n: int, method: str = "shuffled", seed: int = 0, epoch: int = 0) -> Tensor:
    """Return which places of a list of n samples are visited in an epoch, one after the other.

    Parameters
    ----------
    n
        Number of samples, at least 1.
    method
        One of :data:`ORDERS`.
    seed
        Of all epochs.
    epoch
        Counted from zero.

    Returns
    -------
    Tensor
        int64 [n] in 0 ... n - 1; a permutation but for ``replacement``.

    Raises
    ------
    ValueError
        For an unknown method, or fewer than one sample.

    Examples
    --------
    >>> epoch_order(8, "sobol", seed=2).view(2, 4).div(2, rounding_mode="floor").sort().values
    tensor([[0, 1, 2, 3],
            [0, 1, 2, 3]])
    """
    if method not in ORDERS:
        raise unknown("order", method, ORDERS)
    n = as_count("n", n)
    return ORDERS[method](n, substream(seed, 0 if method == "once" else epoch))


def _replacement(n: int, seed: int) -> Tensor:
    return (uniforms(seed, torch.arange(n)) * n).long()


def _shuffled(n: int, seed: int) -> Tensor:
    return hash_bits(seed, torch.arange(n)).argsort(stable=True)


def _lfsr(n: int, seed: int) -> Tensor:
    width = next((w for w in TAPS if (1 << w) > n and w < 64), None)
    if width is None:
        raise ValueError(f"the register has numbers up to 2**32 - 1, got n = {n}")
    period = (1 << width) - 1
    # Any first state but zero; states beyond n are passed over.
    visited = states(1 + seed % period, period, width, STRIDE)
    return visited[visited <= n] - 1


def _sobol(n: int, seed: int) -> Tensor:
    # The n first points of the sequence, by rank: a permutation for every n.
    return numbers(n, 1, "sobol", seed)[:, 0].argsort(stable=True).argsort()


def _lattice(n: int, seed: int) -> Tensor:
    step = max(1, round(n * _GOLDEN))
    while math.gcd(step, n) > 1:  # or some places would not be visited
        step += 1
    return (torch.arange(n) * step + seed % n) % n


def _sorted(n: int, seed: int) -> Tensor:
    return torch.arange(n)


ORDERS: dict[str, Callable[[int, int], Tensor]] = {
    "replacement": _replacement,
    "shuffled": _shuffled,
    "once": _shuffled,
    "lfsr": _lfsr,
    "sobol": _sobol,
    "lattice": _lattice,
    "sorted": _sorted,
}
