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

import torch
from torch import Tensor

from mcnn import native

METHODS = ("systematic", "jittered")
SMALLEST = 1 << 20  # weights: fewer are done before a compiler has started

_SOURCE = r"""
#include <math.h>
#include <stdint.h>
#include <string.h>

/* SplitMix64: mcnn.sampling.uniforms */
static uint64_t mix(uint64_t z) {
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static double uniform(uint64_t key, uint64_t index) {
    return (double)(int64_t)(mix(index * 0x9E3779B97F4A7C15u + key) >> 11) * 0x1p-53;
}

/* How many samples lie below the edges; u is a number, a table, or computed for each stratum. */
#define BELOW(u)                                             \
    for (int64_t i = 0; i < n; i++) {                        \
        double y = (double)edge[i] * s / total;              \
        y = y > s || edge[i] == sum ? s : y;                 \
        int32_t k = (int32_t)y;                              \
        below[i] = k + (u < y - (double)k);                  \
    }

/* Count for rows of n weights, of which w holds the bits; 1 if a weight is not finite. */
int scan(const int32_t *restrict w, int64_t rows, int64_t n, int64_t samples, int jittered,
         uint64_t seed, uint64_t first, int bits, double *restrict spare, int32_t *restrict out) {
    const uint64_t key = mix(seed);
    const double s = (double)samples;
    int64_t *restrict edge = (int64_t *)spare;
    double *restrict table = spare + n;
    int32_t *restrict below = (int32_t *)(table + n) + 1;
    below[-1] = 0;
    for (uint64_t row = first; row < first + (uint64_t)rows; row++, w += n, out += n) {
        int32_t top = 0;  /* the bits of magnitudes are in order */
        for (int64_t i = 0; i < n; i++) {
            int32_t magnitude = w[i] & 0x7FFFFFFF;
            top = magnitude > top ? magnitude : top;
        }
        if (top >= 0x7F800000) return 1;
        if (top == 0) { memset(out, 0, 4 * n); continue; }

        float largest;
        memcpy(&largest, &top, 4);
        int exponent;
        frexp(largest, &exponent);
        const double scale = ldexp(1, bits - exponent);
        for (int64_t i = 0; i < n; i++) {
            float weight;
            memcpy(&weight, &w[i], 4);
            /* Adding 2**52 rounds to integers, which the low bits of the sum then are. */
            double x = fabs((double)weight * scale) + 0x1p52;
            memcpy(&edge[i], &x, 8);
            edge[i] -= 0x4330000000000000;
        }
        int64_t sum = 0;
        for (int64_t i = 0; i < n; i++) edge[i] = sum += edge[i];

        const double total = (double)sum;
        const uint64_t start = row * (uint64_t)samples;
        if (!jittered) {
            const double offset = uniform(key, row);
            BELOW(offset)
        } else if (samples < n) {  /* fewer strata than edges: each offset is computed once */
            for (int64_t k = 0; k < samples; k++) table[k] = uniform(key, start + (uint64_t)k);
            table[samples] = 1;
            BELOW(table[k])
        } else {
            BELOW(uniform(key, start + (uint64_t)k))
        }
        for (int64_t i = 0; i < n; i++) {
            int32_t count = below[i] - below[i - 1], sign = w[i] >> 31;  /* 0 or -1 */
            out[i] = (count ^ sign) - sign;
        }
    }
    return 0;
}
"""
_ARGUMENTS = (
    *(ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_int),
    *(ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p),
)


@functools.cache
def _library() -> ctypes.CDLL | None:
    # Without contraction a * b + c stays two operations with two roundings, as in PyTorch.
    return native.library(_SOURCE, {"scan": _ARGUMENTS}, contract=False)


def available() -> bool:
    """Return whether the loop could be compiled on this machine."""
    return _library() is not None


def serves(weight: Tensor, method: str, order: str) -> bool:
    """Return whether the loop counts for these weights."""
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
