r"""Counting jittered and systematic samples in one pass over each row, compiled on first use.

PyTorch's operators touch every weight a dozen times; a loop in C does all of it while the row stays
in the cache.
It performs the operations of :mod:`mcnn.density.counts` one by one in the same order, so the counts
are the same.
What makes it fast is that nothing in it waits: a compiler turns all of its loops into vector
instructions but for the partial sums, which are those of integers and take a clock cycle each.

The loop is compiled when the first large tensor comes, see :mod:`mcnn.native`.
Where there is no compiler, :func:`available` is False and PyTorch's operators serve.
"""

import ctypes
import functools
from pathlib import Path

import torch
from torch import Tensor

from mcnn import native

METHODS = ("systematic", "jittered")
SMALLEST = 1 << 20  # weights: fewer are done before a compiler has started

_ARGUMENTS = (
    *(ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_int),
    *(ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p),
)


@functools.cache
def _library() -> ctypes.CDLL | None:
    # Without contraction a * b + c stays two operations with two roundings, as in PyTorch.
    return native.library(
        Path(__file__).with_name("counts.c"), {"scan": _ARGUMENTS}, contract=False
    )


def available() -> bool:
    """Return whether the loop could be compiled on this machine."""
    return _library() is not None


def supports(weight: Tensor, method: str, order: str) -> bool:
    """Return whether the loop can count for these weights."""
    return (
        weight.device.type == "cpu"
        and weight.dtype != torch.float64
        and weight.numel() >= SMALLEST
        and method in METHODS
        and order == "stored"
        and available()
    )


def signed_counts(w: Tensor, samples: int, method: str, seed: int) -> Tensor:
    """Count as :func:`mcnn.density.sample_counts` does, with ``torch.get_num_threads()`` threads.

    Parameters
    ----------
    w
        [rows, n] on the CPU, float32 or narrower.
    samples
        S, per row.
    method
        One of :data:`METHODS`.
    seed
        An integer.

    Returns
    -------
    Tensor
        int32 [rows, n].

    Raises
    ------
    ValueError
        If a weight is NaN or infinite.
    """
    w = w.float().contiguous()
    rows, n = w.shape
    counts = native.empty((rows, n), torch.int32)
    threads = min(torch.get_num_threads(), rows)

    def scan(first: int, last: int) -> int:
        spare = torch.empty(2 * n + n // 2 + 2, dtype=torch.float64)
        return _library().scan(
            *(w[first:].data_ptr(), last - first, n, samples, method == "jittered", seed, first),
            *(53 - n.bit_length(), spare.data_ptr(), counts[first:].data_ptr()),
        )

    if any(native.in_parallel(scan, [rows * t // threads for t in range(threads + 1)])):
        raise ValueError("weight holds NaN or infinity: a density needs finite weights")
    return counts
