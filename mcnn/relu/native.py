"""Max pooling by ReLUs on the CPU: a loop in C that does the sums of a plane in the cache.

It does the operations of :mod:`mcnn.relu.pool` in their order, exact form, and sums gradients in
the order in which PyTorch does where it differentiates them: the bits are the same.
No intermediate result is kept: the backward pass computes them again from the input.

The loop is compiled when it is first needed, see :mod:`mcnn.native`.
"""

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from mcnn import native

TAPS = 32  # of an axis, at most
_A_THREAD = 1 << 17  # numbers that are worth another thread


class Windows(Protocol):
    """Windows along an axis, undilated."""

    @property
    def size(self) -> int:
        """Places of the axis."""

    @property
    def kernel(self) -> int:
        """Taps of a window."""

    @property
    def stride(self) -> int:
        """Places from window to window."""

    @property
    def padding(self) -> int:
        """Places of the first window before the axis begins."""

    @property
    def outputs(self) -> int:
        """Windows."""


class _Axis(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_int64) for name in ("size", "kernel", "stride", "padding", "outputs")
    )


_POINTER, _INT, _AXIS = ctypes.c_void_p, ctypes.c_int64, ctypes.POINTER(_Axis)
_ARGUMENTS = {
    "pool": (_POINTER, _INT, _INT, _AXIS, _AXIS, _POINTER),
    "pool_back": (_POINTER, _POINTER, _INT, _INT, _AXIS, _AXIS, _POINTER),
}


@functools.cache
def _library() -> ctypes.CDLL | None:
    return native.library(Path(__file__).with_name("pool.c"), _ARGUMENTS, contract=False)


def available() -> bool:
    """Return whether the loop could be compiled on this machine."""
    return _library() is not None


def pool(x: Tensor, height: Windows, width: Windows) -> Tensor:
    """Pool as :func:`mcnn.relu.max_pool2d` does.

    Parameters
    ----------
    x
        float32 [..., height, width] on the CPU, contiguous.
    height, width
        Windows of both axes, of at most :data:`TAPS` taps.

    Returns
    -------
    Tensor
        [..., outputs, outputs].

    Raises
    ------
    MemoryError
        If there is none for a plane.
    """
    y = native.empty((*x.shape[:-2], height.outputs, width.outputs), x.dtype)
    _for_planes(_library().pool, (x,), height, width, y)
    return y


def pool_back(x: Tensor, gradient: Tensor, height: Windows, width: Windows) -> Tensor:
    """Return the gradient of the input from that of the output.

    Parameters
    ----------
    x, height, width
        As for :func:`pool`.
    gradient
        float32, the shape of the output.

    Returns
    -------
    Tensor
        The shape of ``x``.

    Raises
    ------
    MemoryError
        If there is none for a plane.
    """
    gradient = gradient.resolve_neg().contiguous()
    found = native.empty(x.shape, x.dtype)
    _for_planes(_library().pool_back, (x, gradient), height, width, found)
    return found


def _for_planes(
    loop: Callable[..., int], inputs: tuple[Tensor, ...], height: Windows, width: Windows, y: Tensor
) -> None:
    x = inputs[0]
    axes = [ctypes.byref(_axis(windows)) for windows in (height, width)]
    pointers = [tensor.data_ptr() for tensor in inputs]

    def run(first: int, last: int) -> Any:
        return loop(*pointers, first, last, *axes, y.data_ptr())

    planes = x.numel() // (height.size * width.size)
    threads = max(1, min(torch.get_num_threads(), planes, x.numel() // _A_THREAD))
    if any(native.in_parallel(run, [planes * t // threads for t in range(threads + 1)])):
        raise MemoryError(
            f"no memory to pool a plane of {height.size} x {width.size}; take smaller images"
        )


def _axis(windows: Windows) -> _Axis:
    return _Axis(*(getattr(windows, name) for name, _ in _Axis._fields_))
