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

A batch that lies example by example, as ``nn.Linear`` has it, is turned to rows part by part, in
squares of sixteen by sixteen numbers that stay in registers, and so are the results.
The sums are the same to the last bit.

The loops are compiled when the first product of some size comes, see :mod:`mcnn.native`.
"""

import ctypes
import functools
import threading
from pathlib import Path

import torch
from torch import Tensor

from mcnn import native
from mcnn.sparse.structure import is_batch_first, laid_as

LANES = 16  # numbers in a vector: smaller batches are left to PyTorch
SMALLEST = 1 << 16  # multiplications: fewer are done before a compiler has started
SCATTERED = 1 << 18  # weights that stay in the cache while they are read and written out of order
_A_THREAD = 1 << 19  # multiplications that are worth another thread
_TILE = 128  # examples of the widest tile of the loops
_PART = 1 << 17  # numbers that are turned at a time, to stay in the cache until they are used
_KEPT = 1 << 20  # numbers of rows that are kept from call to call
_SUM, _ALL = 4, 15  # steps of the loops over parts


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("starts", "index", "order", "units", "others")),
        *((name, ctypes.c_int64) for name in ("here", "there", "packed")),
    )


class _Side(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("examples", "rows", "places")),
        ("units", ctypes.c_int64),
    )


_POINTER, _INT = ctypes.c_void_p, ctypes.c_int64
_ARGUMENTS = {
    "path_sum": (
        *(ctypes.POINTER(_Layer), *[_POINTER] * 3, ctypes.c_int),
        *(*[_INT] * 4, _POINTER),
    ),
    "path_grads": (
        *(ctypes.POINTER(_Layer), *[_POINTER] * 3, ctypes.c_int),
        *(*[_INT] * 4, *[_POINTER] * 2),
    ),
    "path_sum_turned": (
        *(ctypes.POINTER(_Layer), *[ctypes.POINTER(_Side)] * 2, *[_POINTER] * 2, ctypes.c_int),
        *(*[_INT] * 2, ctypes.c_int, *[_INT] * 2),
    ),
    "path_grads_turned": (
        *(ctypes.POINTER(_Layer), *[ctypes.POINTER(_Side)] * 3, *[_POINTER] * 2),
        *(*[_INT] * 2, ctypes.c_int, *[_INT] * 2),
    ),
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
    layer = _Layer(starts=starts.data_ptr(), index=index.data_ptr())
    bounds = _bounds(starts, len(index), x.shape[1])
    return _sums(layer, bounds, x, weight, bias, relu, len(starts) - 1)


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
    layer = _Layer(starts=starts.data_ptr(), index=inputs.data_ptr())
    bounds = _bounds(starts, len(inputs), x.shape[1])
    dw = native.empty(inputs.shape, x.dtype)
    _gradients(layer, bounds, grad, x, None, None, dw)
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
    layer = _Layer(starts=starts.data_ptr(), index=outputs.data_ptr(), order=order.data_ptr())
    bounds = _bounds(starts, len(weight), x.shape[1])
    dx, dw = _empty_as(x, len(x)), native.empty(weight.shape, x.dtype)
    _gradients(layer, bounds, x, grad, weight.contiguous(), dx, dw)
    return dx, dw


def sum_blocks(
    x: Tensor,
    weight: Tensor,
    inputs: Tensor,
    input_places: Tensor,
    outputs: Tensor,
    output_places: Tensor,
    bias: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """As :func:`sum_rows`, where the layer falls into complete blocks.

    Parameters
    ----------
    x, weight, bias, relu
        As there; the weights are sorted by output and within it by input.
    inputs, input_places, outputs, output_places
        int64 [inputs] and [outputs] each, see :class:`mcnn.sparse.structure.Blocks`.

    Returns
    -------
    Tensor
        float32 [outputs, batch].
    """
    layer = _blocks(outputs, inputs, weight)
    bounds = _block_bounds(layer, outputs, x.shape[1])
    places = input_places, output_places
    return _sums(layer, bounds, x, weight, bias, relu, len(outputs), places)


def block_gradients(
    x: Tensor,
    grad: Tensor,
    weight: Tensor,
    inputs: Tensor,
    input_places: Tensor,
    outputs: Tensor,
    output_places: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of :func:`sum_blocks` with respect to ``x`` and ``weight``.

    Parameters
    ----------
    x, weight, inputs, input_places, outputs, output_places
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
    layer = _blocks(inputs, outputs, weight)
    bounds = _block_bounds(layer, inputs, x.shape[1])
    dx, dw = _empty_as(x, len(x)), native.empty(weight.shape, x.dtype)
    places = input_places, output_places
    _gradients(layer, bounds, x, grad, weight.contiguous(), dx, dw, places)
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


def _sums(
    layer: _Layer,
    bounds: list[int],
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    relu: bool,
    outputs: int,
    places: tuple[Tensor | None, Tensor | None] = (None, None),
) -> Tensor:
    """Return the sums; of a batch that lies example by example, in the same way."""
    y = _empty_as(x, outputs)
    read = (weight.contiguous(), None if bias is None else bias.contiguous(), relu)
    if not is_batch_first(x):
        operands = (x.contiguous(), *read)  # a name keeps what is read
        _run("path_sum", layer, operands, bounds, x.shape, (y,))
        return y
    layer.packed = places[0] is not None
    inputs, batch = x.shape
    part = _part(bounds, batch, LANES if layer.packed else _TILE, inputs + outputs)
    rows = _rows(part, inputs, outputs)
    sides = _side(x, rows[0], places[0]), _side(y, rows[1], places[1])
    _run_turned("path_sum_turned", layer, sides, read, bounds, (batch, part), (0, 0, 1, 1))
    return y


def _gradients(
    layer: _Layer,
    bounds: list[int],
    x: Tensor,
    grad: Tensor,
    weight: Tensor | None,
    dx: Tensor | None,
    dw: Tensor,
    places: tuple[Tensor | None, Tensor | None] = (None, None),
) -> None:
    """Write the gradients with respect to ``x``, whose units own the edges, and to the weights."""
    if not is_batch_first(x):
        read = (x.contiguous(), grad.contiguous(), weight, False)
        _run("path_grads", layer, read, bounds, grad.shape, (dx, dw))
        return
    grad = laid_as(x, grad)
    layer.packed = places[0] is not None
    (own, batch), other = x.shape, grad.shape[0]
    part = _part(bounds, batch, _TILE, own + other)
    rows = _rows(part, own, other)
    result = _Side() if dx is None else _side(dx, rows[0], places[0])  # in place of the rows of x
    sides = _side(x, rows[0], places[0]), _side(grad, rows[1], places[1]), result
    _run_turned(
        "path_grads_turned", layer, sides, (weight, dw), bounds, (batch, part), (0, 1, 0, 0)
    )


def _empty_as(x: Tensor, units: int) -> Tensor:
    batch = x.shape[1]
    if not is_batch_first(x):
        return native.empty((units, batch), x.dtype)
    memory = native.empty((batch, units), x.dtype).untyped_storage()
    return x.new_empty(0).set_(memory, 0, (units, batch), (1, units))  # no view: see empty_as


def _part(bounds: list[int], batch: int, tile: int, units: int) -> int:
    """Return how many examples are turned at a time: all of them where threads share the units."""
    if len(bounds) > 2:
        return batch
    return min(batch, max(1, _PART // (units * tile)) * tile)


def _rows(part: int, *units: int) -> list[Tensor]:
    """Return memory for rows of units: the same again if it is small, for it is in the cache."""
    sizes = [n * (part + LANES) for n in units]  # the last part may be longer
    if sum(sizes) > _KEPT:
        return list(torch.empty(sum(sizes)).split(sizes))
    return list(_kept(threading.get_ident())[: sum(sizes)].split(sizes))


@functools.cache
def _kept(thread: int) -> Tensor:
    """Return memory of a thread, which overwrites it in every call."""
    return native.empty((_KEPT,), torch.float32)


def _side(x: Tensor, rows: Tensor, places: Tensor | None) -> _Side:
    """Return how the loops see a batch that lies example by example."""
    places = None if places is None else places.data_ptr()
    return _Side(x.data_ptr(), rows.data_ptr(), places, x.shape[0])


def _run_turned(
    name: str,
    layer: _Layer,
    sides: tuple[_Side, ...],
    operands: tuple[Tensor | bool | None, ...],
    bounds: list[int],
    sizes: tuple[int, int],
    counted: tuple[int, ...],
) -> None:
    """As :func:`_run`, for batches that lie example by example.

    Of the four steps, ``counted`` says of which side they go through the units.
    """
    loop = getattr(_library(), name)
    operands = [t.data_ptr() if isinstance(t, Tensor) else t for t in operands]
    arguments = (ctypes.byref(layer), *map(ctypes.byref, sides), *operands, *sizes)
    threads = len(bounds) - 1
    if threads == 1:
        loop(*arguments, _ALL, 0, 0)
        return
    for i, side in enumerate(counted):
        shares = [sides[side].units * t // threads for t in range(threads + 1)]
        run = functools.partial(loop, *arguments, 1 << i)
        native.in_parallel(run, bounds if 1 << i == _SUM else shares)


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
