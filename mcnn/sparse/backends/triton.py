r"""Sparse layers on a GPU: Triton kernels that gather, multiply and sum in registers.

The sums are those of :mod:`mcnn.sparse.autograd`.
There, each is a chain of PyTorch's operators; here each is one kernel that reads an activation once
for every edge that needs it and writes every result once, so that nothing in between goes through
memory:

- :func:`sum_rows`, :math:`y_i=\sum_{e:i_e=i}w_ex_{j_e}`: a program owns an output and a tile of the
  batch and walks along the edges of the output.
  The gradient with respect to the inputs is the same kernel over the edges sorted by input: a sum
  of its own for every input, so that no two programs add to the same number;
- :func:`dot_rows`, :math:`\langle x_{j_e},\delta_{i_e}\rangle`: a program owns a few edges and
  walks along the batch.

For CUDA tensors the operators of :mod:`mcnn.sparse.ops` take both.
With ``TRITON_INTERPRET=1`` set before Python starts they also run, slowly, on the CPU: so they are
tested.

Source: slides "Sampling Paths through Networks": cost bounded by the number of paths times depth.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_TYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


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
        [inputs, batch], floating point.
    weight
        [edges], the type of ``x``.
    index
        int32 [edges], the row that each edge reads.
    starts
        int32 [outputs + 1], where the edges of each output begin.
    bias
        [outputs], added to the sums.
    relu
        Whether negative results become zero.

    Returns
    -------
    Tensor
        [outputs, batch], the type of ``x``; summed in float32, float64 in float64.

    Raises
    ------
    TypeError
        For a type that is not floating point, or differs between ``x`` and ``weight``.
    """
    _check_types(x, weight)
    x, weight = x.contiguous(), weight.contiguous()
    outputs, batch = len(starts) - 1, x.shape[1]
    y = x.new_empty(outputs, batch)
    if y.numel() == 0:
        return y
    tile = _tile(batch)
    grid = (outputs, triton.cdiv(batch, tile))
    _sum_rows[grid](
        x,
        weight,
        index,
        starts,
        weight if bias is None else bias.contiguous(),
        y,
        batch,
        has_bias=bias is not None,
        relu=relu,
        wide=x.dtype == torch.float64,
        tile=tile,
    )
    return y


def dot_rows(x: Tensor, grad: Tensor, inputs: Tensor, outputs: Tensor) -> Tensor:
    """Return for each edge the inner product of a row of ``x`` with a row of ``grad``.

    Parameters
    ----------
    x
        [inputs, batch], floating point.
    grad
        [outputs, batch], the type of ``x``.
    inputs, outputs
        int32 [edges], the two rows of each edge.

    Returns
    -------
    Tensor
        [edges], the type of ``x``; summed in float32, float64 in float64.

    Raises
    ------
    TypeError
        For a type that is not floating point, or differs between ``x`` and ``grad``.
    """
    _check_types(x, grad)
    x, grad = x.contiguous(), grad.contiguous()
    edges, batch = len(inputs), x.shape[1]
    dots = x.new_empty(edges)
    if edges == 0:
        return dots
    tile, group = min(_tile(batch), 64), 16
    _dot_rows[(triton.cdiv(edges, group),)](
        x,
        grad,
        inputs,
        outputs,
        dots,
        edges,
        batch,
        wide=x.dtype == torch.float64,
        group=group,
        tile=tile,
    )
    return dots


def _check_types(x: Tensor, other: Tensor) -> None:
    if x.dtype not in _TYPES or other.dtype != x.dtype:
        raise TypeError(f"both must be of one floating point type, got {x.dtype} and {other.dtype}")


def _tile(batch: int) -> int:
    return min(256, max(16, triton.next_power_of_2(batch)))


@triton.jit
def _sum_rows(
    x,  # [inputs, batch]
    weight,  # [edges]
    index,  # [edges]
    starts,  # [outputs + 1]
    bias,  # [outputs]
    y,  # [outputs, batch]
    batch,
    has_bias: tl.constexpr,
    relu: tl.constexpr,
    wide: tl.constexpr,
    tile: tl.constexpr,
):
    i = tl.program_id(0)
    columns = tl.program_id(1) * tile + tl.arange(0, tile)
    inside = columns < batch
    sums = tl.zeros([tile], tl.float64 if wide else tl.float32)
    for e in range(tl.load(starts + i), tl.load(starts + i + 1)):
        j = tl.load(index + e).to(tl.int64)  # rows times batch may exceed 32 bits
        row = tl.load(x + j * batch + columns, mask=inside, other=0.0)
        sums += tl.load(weight + e).to(sums.dtype) * row.to(sums.dtype)
    if has_bias:
        sums += tl.load(bias + i).to(sums.dtype)
    if relu:
        sums = tl.maximum(sums, 0.0)
    tl.store(y + i.to(tl.int64) * batch + columns, sums.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _dot_rows(
    x,  # [inputs, batch]
    grad,  # [outputs, batch]
    inputs,  # [edges]
    outputs,  # [edges]
    dots,  # [edges]
    edges,
    batch,
    wide: tl.constexpr,
    group: tl.constexpr,
    tile: tl.constexpr,
):
    e = tl.program_id(0).to(tl.int64) * group + tl.arange(0, group)
    real = e < edges
    j = tl.load(inputs + e, mask=real, other=0).to(tl.int64)[:, None]  # [group, 1]
    i = tl.load(outputs + e, mask=real, other=0).to(tl.int64)[:, None]
    sums = tl.zeros([group], tl.float64 if wide else tl.float32)
    for first in range(0, batch, tile):
        columns = first + tl.arange(0, tile)[None, :]  # [1, tile]
        inside = (columns < batch) & real[:, None]
        a = tl.load(x + j * batch + columns, mask=inside, other=0.0).to(sums.dtype)
        b = tl.load(grad + i * batch + columns, mask=inside, other=0.0).to(sums.dtype)
        sums += tl.sum(a * b, 1)
    tl.store(dots + e, sums.to(dots.dtype.element_ty), mask=real)
