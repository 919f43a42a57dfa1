"""Loops in C, compiled by the machine's own compiler when they are first needed.

PyTorch's operators each go through memory; a loop that does all that they do while a row stays in
the cache is often several times faster.
Such loops stand in C files beside the modules whose operators compute the same.
The compiler is ``cc``, or what the environment variable ``CC`` names, with arguments or without; it
takes less than a second.
Where there is none, or it fails, :func:`library` returns None and PyTorch's operators serve; who
has set ``CC`` is told that it did not.
"""

import ctypes
import functools
import mmap
import os
import shlex
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_FLAGS = ("-O3", "-std=gnu11", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-w")
_LARGE = 1 << 22  # bytes from which memory comes fresh from the system, page by page
_TOLD: dict[str, str] = {}  # what of CC did not serve, and why
_HUGE_PAGES = getattr(mmap, "MADV_HUGEPAGE", None)  # where there are any


def library(
    source: Path, arguments: Mapping[str, Sequence[Any]], *, contract: bool
) -> ctypes.CDLL | None:
    """Compile a C program and load it.

    Parameters
    ----------
    source
        The program, a file; its includes are looked for in the folder of the package.
    arguments
        From the name of a function to the types of its arguments; all return an int.
    contract
        Whether a product and a sum may become one operation, which rounds once.

    Returns
    -------
    CDLL or None
        None where that cannot be done.
    """
    chosen = os.environ.get("CC", "").strip()
    try:
        words = shlex.split(chosen or "cc")  # as make takes it: "ccache gcc"
    except ValueError as error:
        return _without(chosen, f"cannot be read: {error}")
    compiler = shutil.which(words[0]) if words else None
    if compiler is None:
        return _without(chosen, "names no program that is there")
    why = ""
    flags = (
        *_FLAGS,
        f"-I{Path(__file__).parent}",
        f"-ffp-contract={'fast' if contract else 'off'}",
    )
    for machine in (("-march=native",), ()):  # not every compiler knows its own machine
        try:
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                binary = Path(folder, "loops.so")
                command = [compiler, *words[1:], *flags, *machine, "-o", binary, source, "-lm"]
                subprocess.run(command, capture_output=True, check=True, timeout=60)
                loaded = ctypes.CDLL(str(binary))
        except subprocess.CalledProcessError as error:
            lines = error.stderr.decode(errors="replace").strip().splitlines()
            why = f"exits with status {error.returncode}: {(lines or ['no message'])[0][:200]}"
            continue
        except subprocess.TimeoutExpired:
            why = "takes longer than a minute"
            continue
        except OSError:
            why = "gives no library that can be loaded"
            continue
        for name, types in arguments.items():
            getattr(loaded, name).argtypes = types
        return loaded
    return _without(chosen, why)


def _without(chosen: str, why: str) -> None:
    """Warn once that the compiler of ``CC`` does not serve; where none was chosen, say nothing."""
    if chosen and chosen not in _TOLD:
        _TOLD[chosen] = why
        warnings.warn(
            f"CC={chosen!r} {why}. PyTorch's operators take the place of loops in C, which is "
            "slower: let CC name a C compiler, such as gcc, or unset it",
            RuntimeWarning,
            stacklevel=3,
        )


def in_parallel(work: Callable[[int, int], Any], bounds: Sequence[int]) -> list[Any]:
    """Call ``work(first, last)`` for each two neighbouring bounds, each in a thread of its own."""
    parts = list(pairwise(bounds))
    if len(parts) == 1:
        return [work(*parts[0])]
    return list(_pool(len(parts)).map(lambda part: work(*part), parts))


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "mcnn-native")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not survive a fork


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return memory to be overwritten, on the CPU; as ``torch.empty``, but in large pages.

    Fresh memory is handed out page by page as it is first touched, which can take longer than
    computing what is written there.
    Pages of 2 MiB instead of 4 KiB, where Linux gives them, leave a fraction of that.
    """
    memory = torch.empty(shape, dtype=dtype, device="cpu")
    size = memory.numel() * memory.element_size()
    if size >= _LARGE and _HUGE_PAGES is not None:
        first = -(-memory.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        _advise()(first, memory.data_ptr() + size - first, _HUGE_PAGES)  # a wish: may be refused
    return memory


@functools.cache
def _advise() -> Any:
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return advise
