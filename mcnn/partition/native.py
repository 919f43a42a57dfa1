"""Hashed partitions on the CPU: a loop in C that hashes between reading an element and writing it.

It computes the numbers of :mod:`mcnn.partition.hashed`, bit for bit, those of the cycle and of each
example and unit included: to do so again takes less time than to keep them.

The loop is compiled when it is first needed, see :mod:`mcnn.native`.
"""

import ctypes
import functools

import torch
from torch import Tensor

from mcnn import native

_A_THREAD = 1 << 19  # elements that are worth another thread

_SOURCE = r"""
#include <stdint.h>

/* SplitMix64: mcnn.sampling.hash_bits */
static uint64_t mix(uint64_t z) {
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static inline uint32_t hash(uint32_t z) {
    z = (z ^ z >> 16) * 0x7FEB352Du;
    z = (z ^ z >> 15) * 0x846CA68Bu;
    return z ^ z >> 16;
}

static inline uint32_t key(uint32_t number, uint64_t word) {
    return hash(hash(number ^ (uint32_t)(word >> 32)) ^ (uint32_t)word ^ 0x80000000u);
}

/* Drop part step % parts of cycle step / parts from the examples first ... last - 1. */
int drop(const float *restrict x, int64_t first, int64_t last, int64_t units, int64_t parts,
         uint64_t step, uint64_t seed, uint32_t *restrict keys, float *restrict y) {
    const uint64_t cycle = step / parts, part = step % parts, all = (uint64_t)1 << 32;
    const uint64_t from = 2 * cycle * 0x9E3779B97F4A7C15u + mix(seed);
    const uint64_t word = mix(from + 0x9E3779B97F4A7C15u);
    const uint64_t low = (part * all + parts - 1) / parts;
    const uint64_t high = ((part + 1) * all + parts - 1) / parts;
    /* The least bits, 2**31 as they are signed, stand for 0. */
    const uint32_t lowest = (uint32_t)low - 0x80000000u, span = (uint32_t)(high - 1 - low);
    const float scale = (double)parts / (double)(parts - 1);
    for (int64_t i = 0; i < units; i++) keys[i] = key((uint32_t)i, word);
    for (int64_t j = first; j < last; j++) {
        const uint32_t example = key((uint32_t)j, mix(from));
        const float *restrict from_row = x + j * units;
        float *restrict to_row = y + j * units;
        for (int64_t i = 0; i < units; i++)
            to_row[i] = hash(example ^ keys[i]) - lowest <= span ? 0 : from_row[i] * scale;
    }
    return 0;
}
"""
_POINTER, _INT = ctypes.c_void_p, ctypes.c_int64
_ARGUMENTS = (_POINTER, *[_INT] * 4, *[ctypes.c_uint64] * 2, _POINTER, _POINTER)


@functools.cache
def _library() -> ctypes.CDLL | None:
    return native.library(_SOURCE, {"drop": _ARGUMENTS}, contract=False)


def available() -> bool:
    """Return whether the loop could be compiled on this machine."""
    return _library() is not None


def drop(x: Tensor, parts: int, step: int, seed: int) -> Tensor:
    """Drop elements as :func:`mcnn.partition.hashed.drop_part` does.

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
