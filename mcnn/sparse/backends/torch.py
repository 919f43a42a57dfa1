"""Sparse layers by PyTorch's own operators: for every device, type and size.

Functions of the same names in :mod:`mcnn.sparse.backends.c` compute the same.
"""

import warnings
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from mcnn.sparse.structure import Edges, autocasts

_TILE = 1 << 18  # numbers that a tile of the general form of inner products holds


def sum_rows(x: Tensor, weight: Tensor, index: Tensor, starts: Tensor) -> Tensor:
    """Sum weighted rows: [outputs, batch]; see :func:`mcnn.sparse.backends.c.sum_rows`."""
    if x.shape[1] == 0:
        return x.new_empty(len(starts) - 1, 0)
    # With a last stride of one also where the batch is a single column: else a slow path is taken.
    x = x.flatten().view(x.shape)
    return F.embedding_bag(
        index,
        x,
        starts,
        mode="sum",
        per_sample_weights=weight.contiguous(),
        include_last_offset=True,
    )


def sum_composed(x: Tensor, weight: Tensor, edges: Edges) -> Tensor:
    """As :func:`sum_rows`, by operators that all transformations know; holds [edges, batch]."""
    taken = x.index_select(0, edges.inputs) * weight[:, None]  # [edges, batch]
    return x.new_zeros(len(edges.starts) - 1, x.shape[1]).index_add(0, edges.outputs, taken)


def dot_rows(x: Tensor, grad: Tensor, inputs: Tensor, outputs: Tensor, starts: Tensor) -> Tensor:
    """Return the inner product of two rows for each edge: [edges]."""
    if x.shape[1] == 0:
        return x.new_zeros(len(inputs))
    # A sparse matrix of PyTorch has no room for more edges, of duplicates, than units to join.
    fits = len(inputs) <= len(grad) * len(x)
    if fits and x.dtype in (torch.float32, torch.float64):
        silence_sparse_warning()
        zero = x.new_zeros(len(inputs))
        shape = (len(grad), len(x))
        pattern = torch.sparse_csr_tensor(starts, inputs, zero, shape, check_invariants=False)
        return torch.sparse.sampled_addmm(pattern, grad, x.T, beta=0).values()
    tile = max(1, _TILE // max(1, x.shape[1]))
    wide = torch.promote_types(x.dtype, torch.float32)
    dots = [
        (x.index_select(0, j).to(wide) * grad.index_select(0, i)).sum(1)
        for j, i in zip(inputs.split(tile), outputs.split(tile), strict=True)
    ]
    return torch.cat(dots).to(x.dtype)


def sum_blocks(
    x: Tensor, weight: Tensor, inputs: Tensor, outputs: Tensor, output_places: Tensor
) -> Tensor:
    """As :func:`sum_rows`, where the layer falls into complete blocks."""
    with _as_given(x):  # the other backends ignore autocast, too
        y = torch.bmm(_matrices(weight, inputs, outputs), _rows(x, inputs, weight, outputs))
    return y.flatten(0, 1).index_select(0, output_places)  # [outputs, batch]


def block_gradients(
    x: Tensor,
    grad: Tensor,
    weight: Tensor,
    inputs: Tensor,
    input_places: Tensor,
    outputs: Tensor,
    output_places: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of :func:`sum_blocks` with respect to ``x`` and ``weight``."""
    delta = _rows(grad, outputs, weight, inputs)  # [blocks, k_out, batch]
    with _as_given(x):
        dx = torch.bmm(_matrices(weight, inputs, outputs).mT, delta)  # [blocks, k_in, batch]
        dw = torch.bmm(delta, _rows(x, inputs, weight, outputs).mT)  # [blocks, k_out, k_in]
    return (
        dx.flatten(0, 1).index_select(0, input_places),
        dw.flatten(0, 1).index_select(0, output_places).flatten(),
    )


def _as_given(x: Tensor) -> AbstractContextManager[None]:
    """Return a context without autocast, where the device has one."""
    if autocasts(x.device):
        return torch.autocast(x.device.type, enabled=False)
    return nullcontext()


def _rows(x: Tensor, units: Tensor, weight: Tensor, others: Tensor) -> Tensor:
    """Gather the rows of the units of each block: [blocks, k, batch]."""
    k = len(weight) // len(others)
    return x.index_select(0, units).view(len(units) // k, k, x.shape[1])


def _matrices(weight: Tensor, inputs: Tensor, outputs: Tensor) -> Tensor:
    """Return weights [edges] as matrices, [blocks, k_out, k_in]."""
    k_in, k_out = len(weight) // len(outputs), len(weight) // len(inputs)
    return weight.view(-1, k_in).index_select(0, outputs).view(-1, k_out, k_in)


def epilogue(y: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    """Add a bias [outputs] to sums [outputs, batch], and rectify, if asked."""
    y = y if bias is None else y + bias[:, None]
    return y.relu() if relu else y


def rectified(grad: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Go back through a rectifier with the result ``y``; also return the sums of the rows."""
    passed = torch.ops.aten.threshold_backward(grad, y, 0)
    return passed, passed.sum(1)


@cache
def silence_sparse_warning() -> None:
    """Let PyTorch warn once, unheard, that sparse matrices are in beta; the tests check them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.eye(1).to_sparse_csr()
