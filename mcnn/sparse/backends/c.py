r"""Sparse layers on the CPU: loops in C that gather, multiply and sum in registers.

The sums are those of :mod:`mcnn.sparse.autograd`, and their order is that of PyTorch's
``embedding_bag``, so the first two come out the same to the last bit.
A loop owns a unit and a tile of the batch, whose numbers stay in vector registers while it walks
along the edges of the unit.
What it gains is the backward pass: an edge :math:`j\to i` needs the row :math:`\delta_i` for
:math:`\partial/\partial x_j` and once more for :math:`\partial/\partial w_e`, and here both take it
when it is there.
Sixteen of the inner products :math:`\partial/\partial w_e` are summed at a time: as many vectors
are transposed while they are added, instead of adding up the numbers within each.

Where the layer falls into complete blocks (:func:`mcnn.sparse.structure.find_blocks`), the same
loops visit its units block by block: the few rows that a block reads then stay in the cache nearest
to the processor, and no index of edges is read at all.

The loops are compiled when the first product of some size comes, see :mod:`mcnn.native`.
"""

import ctypes
import functools
from pathlib import Path

import torch
from torch import Tensor

from mcnn import native

LANES = 16  # numbers in a vector: smaller batches are left to PyTorch
SMALLEST = 1 << 16  # multiplications: fewer are done before a compiler has started
SCATTERED = 1 << 18  # weights that stay in the cache while they are read and written out of order
_A_THREAD = 1 << 19  # multiplications that are worth another thread


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("starts", "index", "order", "units", "others")),
        *((name, ctypes.c_int64) for name in ("here", "there")),
    )


_POINTER, _INT = ctypes.c_void_p, ctypes.c_int64
_ARGUMENTS = {
    "path_sum": (
        *(ctypes.POINTER(_Layer), *[_POINTER] * 3, ctypes.c_int),
        *(*[_INT] * 4, _POINTER),
    ),
    "path_grads": (ctypes.POINTER(_Layer), *[_POINTER] * 3, *[_INT] * 4, *[_POINTER] * 2),
    "path_rectified": (*[_POINTER] * 2, *[_INT] * 3, *[_POINTER] * 2),
}


@functools.cache
def _library() -> ctypes.CDLL | None:
    return native.library(Path(__file__).parents[1] / "csr.c", _ARGUMENTS, contract=True)


def available() -> bool:
    """Return whether the loops could be compiled on this machine."""
    return _library() is not None


def supports(edges: int, x: Tensor, other: Tensor) -> bool:
    """Return whether the loops take a batch ``x`` [units, batch] and what it meets."""
    return (
        x.device.type == "cpu"
        and x.dtype == other.dtype == torch.float32
        and x.shape[1] >= LANES
        and edges * x.shape[1] >= SMALLEST
        and available()
    )


def sum_rows(
    x: Tensor,
    weight: Tensor,
    index: Tensor,
    starts: Tensor,
    bias: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """Sum weighted rows: output i adds up ``weight[e] * x[index[e]]`` over its edges.

    Parameters
    ----------
    x
        float32 [inputs, batch].
    weight
        float32 [edges].
    index
        int32 [edges], the row that each edge reads.
    starts
        int32 [outputs + 1], where the edges of each output begin.
    bias
        float32 [outputs], added to the sums.
    relu
        Whether negative results become zero.

    Returns
    -------
    Tensor
        float32 [outputs, batch].
    """
    x, weight = x.contiguous(), weight.contiguous()
    layer = _Layer(starts=starts.data_ptr(), index=index.data_ptr())
    y = native.empty((len(starts) - 1, x.shape[1]), x.dtype)
    read = (x, weight, None if bias is None else bias.contiguous(), relu)
    _run("path_sum", layer, read, _bounds(starts, len(index), x.shape[1]), x.shape, (y,))
    return y


def dot_rows(x: Tensor, grad: Tensor, inputs: Tensor, starts: Tensor) -> Tensor:
    """Return for each edge the inner product of a row of ``x`` with a row of ``grad``.

    Parameters
    ----------
    x
        float32 [inputs, batch].
    grad
        float32 [outputs, batch].
    inputs
        int32 [edges], the input of each edge, sorted by output.
    starts
        int32 [outputs + 1], where the edges of each output begin.

    Returns
    -------
    Tensor
        float32 [edges].
    """
    x, grad = x.contiguous(), grad.contiguous()
    layer = _Layer(starts=starts.data_ptr(), index=inputs.data_ptr())
    dw = native.empty(inputs.shape, x.dtype)
    bounds = _bounds(starts, len(inputs), x.shape[1])
    _run("path_grads", layer, (grad, x, None), bounds, x.shape, (None, dw))
    return dw


def gradients(
    x: Tensor, grad: Tensor, weight: Tensor, order: Tensor, outputs: Tensor, starts: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradients of :func:`sum_rows` with respect to ``x`` and ``weight`` in one pass.

    Parameters
    ----------
    x, weight
        As there; at most :data:`SCATTERED` weights, or two passes are faster.
    grad
        float32 [outputs, batch], the gradient with respect to the result.
    order
        int32 [edges], the numbers of the edges, sorted by input.
    outputs
        int32 [edges], their outputs in that order.
    starts
        int32 [inputs + 1], where the edges of each input begin in it.

    Returns
    -------
    Tensor
        float32 [inputs, batch].
    Tensor
        float32 [edges].
    """
    x, grad, weight = x.contiguous(), grad.contiguous(), weight.contiguous()
    layer = _Layer(starts=starts.data_ptr(), index=outputs.data_ptr(), order=order.data_ptr())
    dx, dw = native.empty(x.shape, x.dtype), native.empty(weight.shape, x.dtype)
    bounds = _bounds(starts, len(weight), x.shape[1])
    _run("path_grads", layer, (x, grad, weight), bounds, grad.shape, (dx, dw))
    return dx, dw


def sum_blocks(
    x: Tensor,
    weight: Tensor,
    inputs: Tensor,
    outputs: Tensor,
    bias: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """As :func:`sum_rows`, where the layer falls into complete blocks.

    Parameters
    ----------
    x, weight, bias, relu
        As there; the weights are sorted by output and within it by input.
    inputs, outputs
        int64 [inputs] and [outputs], block after block, see :class:`mcnn.sparse.structure.Blocks`.

    Returns
    -------
    Tensor
        float32 [outputs, batch].
    """
    x, weight = x.contiguous(), weight.contiguous()
    layer = _blocks(outputs, inputs, weight)
    y = native.empty((len(outputs), x.shape[1]), x.dtype)
    bounds = _block_bounds(layer, outputs, x.shape[1])
    read = (x, weight, None if bias is None else bias.contiguous(), relu)
    _run("path_sum", layer, read, bounds, x.shape, (y,))
    return y


def block_gradients(
    x: Tensor, grad: Tensor, weight: Tensor, inputs: Tensor, outputs: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradients of :func:`sum_blocks` with respect to ``x`` and ``weight``.

    Parameters
    ----------
    x, weight, inputs, outputs
        As there.
    grad
        float32 [outputs, batch], the gradient with respect to the result.

    Returns
    -------
    Tensor
        float32 [inputs, batch].
    Tensor
        float32 [edges].
    """
    x, grad, weight = x.contiguous(), grad.contiguous(), weight.contiguous()
    layer = _blocks(inputs, outputs, weight)
    dx, dw = native.empty(x.shape, x.dtype), native.empty(weight.shape, x.dtype)
    bounds = _block_bounds(layer, inputs, x.shape[1])
    _run("path_grads", layer, (x, grad, weight), bounds, grad.shape, (dx, dw))
    return dx, dw


def rectified(grad: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Go back through a rectifier: ``grad`` where its result is positive, and the sums of rows.

    Parameters
    ----------
    grad, y
        float32 [outputs, batch], the gradient with respect to the result, and the result.

    Returns
    -------
    Tensor
        float32 [outputs, batch].
    Tensor
        float32 [outputs].
    """
    grad, y = grad.contiguous(), y.contiguous()
    units, batch = y.shape
    passed, sums = native.empty(y.shape, y.dtype), native.empty((units,), y.dtype)
    loop = _library().path_rectified
    from_to = (passed.data_ptr(), sums.data_ptr())

    def run(first: int, last: int) -> None:
        loop(grad.data_ptr(), y.data_ptr(), first, last, batch, *from_to)

    threads = max(1, min(torch.get_num_threads(), units * batch // _A_THREAD))
    native.in_parallel(run, [units * t // threads for t in range(threads + 1)])
    return passed, sums


def _blocks(units: Tensor, others: Tensor, weight: Tensor) -> _Layer:
    here, there = len(weight) // len(others), len(weight) // len(units)
    return _Layer(units=units.data_ptr(), others=others.data_ptr(), here=here, there=there)


def _run(
    name: str,
    layer: _Layer,
    read: tuple[Tensor | bool | None, ...],
    bounds: list[int],
    shape: torch.Size,
    written: tuple[Tensor | None, ...],
) -> None:
    """Call a loop for each range of units; ``shape`` is that of the rows that edges read."""
    loop, layer = getattr(_library(), name), ctypes.byref(layer)
    read, written = (
        [t.data_ptr() if isinstance(t, Tensor) else t for t in many] for many in (read, written)
    )

    def run(first: int, last: int) -> None:
        loop(layer, *read, first, last, *shape, *written)

    native.in_parallel(run, bounds)


def _bounds(starts: Tensor, edges: int, batch: int) -> list[int]:
    """Divide units among threads, by their edges."""
    units = len(starts) - 1
    threads = min(torch.get_num_threads(), edges * batch // _A_THREAD)
    if threads < 2:
        return [0, units]
    shares = torch.arange(1, threads) * edges // threads
    return [0, *torch.searchsorted(starts, shares.int()).tolist(), units]


def _block_bounds(layer: _Layer, units: Tensor, batch: int) -> list[int]:
    """Divide blocks among threads."""
    blocks = len(units) // layer.here
    threads = min(torch.get_num_threads(), blocks, len(units) * layer.there * batch // _A_THREAD)
    threads = max(threads, 1)
    return [blocks * t // threads * layer.here for t in range(threads + 1)]
