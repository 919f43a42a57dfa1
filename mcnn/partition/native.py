"""Hashed partitions on the CPU: a loop in C that hashes between reading an element and writing it.

It computes the numbers of :mod:`mcnn.partition.hashed`, bit for bit, those of the cycle and of each
example and unit included: to do so again takes less time than to keep them.

The loop is compiled when it is first needed, see :mod:`mcnn.native`.
"""

import ctypes
import functools
from pathlib import Path

import torch
from torch import Tensor

from mcnn import native

_A_THREAD = 1 << 19  # elements that are worth another thread

_POINTER, _INT = ctypes.c_void_p, ctypes.c_int64
_ARGUMENTS = (_POINTER, *[_INT] * 4, *[ctypes.c_uint64] * 2, _POINTER, _POINTER)


@functools.cache
def _library() -> ctypes.CDLL | None:
    return native.library(
        Path(__file__).with_name("hashed.c"), {"drop": _ARGUMENTS}, contract=False
    )


def available() -> bool:
    """Return whether the loop could be compiled on this machine."""
    return _library() is not None


def drop(x: Tensor, parts: int, step: int, seed: int) -> Tensor:
    """Drop elements as :func:`mcnn.partition.drop_part` does.

    Parameters
    ----------
    x
        float32 [b, ...] on the CPU.
    parts, step, seed
        As there.

    Returns
    -------
    Tensor
        The shape of ``x``.
    """
    x = x.contiguous()
    y = native.empty(x.shape, x.dtype)
    examples, units = x.shape[0], x.shape[1:].numel()
    loop = _library().drop

    def run(first: int, last: int) -> None:
        keys = torch.empty(units, dtype=torch.int32, device="cpu")
        numbers = (first, last, units, parts, step, seed)
        loop(x.data_ptr(), *numbers, keys.data_ptr(), y.data_ptr())

    threads = max(1, min(torch.get_num_threads(), examples, x.numel() // _A_THREAD))
    native.in_parallel(run, [examples * t // threads for t in range(threads + 1)])
    return y
