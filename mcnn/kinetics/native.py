"""The loops of :mod:`mcnn.kinetics` in C; without a compiler operators do the same.

They are compiled when they are first needed, see :mod:`mcnn.native`.
"""

import ctypes
import functools
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mcnn import native

if TYPE_CHECKING:
    from mcnn.kinetics.network import Network

_POINTER, _INT, _WORD = ctypes.c_void_p, ctypes.c_int64, ctypes.c_uint64
_ARGUMENTS = {
    "ssa": (*[_INT] * 5, *[_POINTER] * 5, _WORD, _INT, *[_POINTER] * 3),
    "hop": (_POINTER, _POINTER, *[_INT] * 3, _WORD),
}


@functools.cache
def _library() -> ctypes.CDLL | None:
    loaded = native.library(Path(__file__).with_name("loops.c"), _ARGUMENTS, contract=False)
    if loaded is not None:
        loaded.ssa.restype = ctypes.c_int64
    return loaded


def available() -> bool:
    """Return whether the loops could be compiled on this machine."""
    return _library() is not None


def ssa(
    network: "Network", start: Tensor, t: Tensor, runs: int, seed: int, max_events: int
) -> tuple[Tensor, int]:
    """Run the direct method; returns counts [runs, times, species] and the most events of a run.

    Runs are spread over PyTorch's threads, which changes no bit.
    """
    counts = torch.empty(runs, len(t), len(start), dtype=torch.int64)
    reactants, changes = network.reactants.contiguous(), network.changes.contiguous()
    rates, loop = network.scaled, _library().ssa

    def run(first: int, last: int) -> int:
        x, cumulative = torch.empty_like(start), torch.empty_like(rates)
        arrays = (reactants, changes, rates, start, t)
        return loop(
            *(first, last, len(start), len(rates), len(t)),
            *(a.data_ptr() for a in arrays),
            *(seed, max_events),
            *(a.data_ptr() for a in (x, cumulative, counts)),
        )

    threads = min(torch.get_num_threads(), runs)
    bounds = [runs * k // threads for k in range(threads + 1)]
    return counts, max(native.in_parallel(run, bounds))


def hop(state: Tensor, step: int, kinds: int, seed: int) -> Tensor:
    """Let every particle of a ring hop once, int32 [sites]."""
    after = torch.empty_like(state)
    _library().hop(state.data_ptr(), after.data_ptr(), len(state), step, kinds, seed)
    return after
