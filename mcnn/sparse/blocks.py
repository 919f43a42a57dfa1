r"""Layers that fall into small complete layers: multiply block by block.

Between two layers of :math:`n` units, :math:`n` a power of two, :math:`nk` Sobol' paths of a power
of two :math:`k` are :math:`n/k` complete layers of :math:`k` inputs and :math:`k` outputs each,
with no edge between them: the units of a block are those that paths visit whose numbers differ by
elements of the two kernels of :mod:`mcnn.paths.sobol`.
Gathering the inputs of the blocks once, and scattering the outputs once, leaves products of small
full matrices, and each activation is read once instead of once an edge.

The structure is found in the edges themselves, whatever they come from.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mcnn.sparse.autograd import Edges, fitted
from mcnn.sparse.backends import c
from mcnn.sparse.ops import finished, unfinished

BLOCKS_FROM = 16  # units of a block from which small matrices beat single edges on a CPU


class Blocks(NamedTuple):
    """Where the units of a layer stand in its blocks; all int64.

    Parameters
    ----------
    inputs
        [in_features], the input at each place; the first block comes first.
    input_places
        [in_features], the place of each input.
    outputs, output_places
        [out_features], the same of outputs.
    """

    inputs: Tensor
    input_places: Tensor
    outputs: Tensor
    output_places: Tensor


def find_blocks(edges: Edges) -> Blocks | None:
    """Return the blocks that a layer falls into, or None if it does not.

    Parameters
    ----------
    edges
        From :func:`mcnn.sparse.autograd.edges_of_paths`.

    Returns
    -------
    Blocks or None
        All blocks have the same shape, every unit is in one, and there are several.

    Examples
    --------
    >>> from mcnn.paths import sample_paths
    >>> from mcnn.sparse.autograd import edges_of_paths
    >>> edges, _ = edges_of_paths(sample_paths([8, 8], 16), 8, 8)
    >>> sorted(find_blocks(edges).inputs.view(4, 2).sort(1).values.tolist())
    [[0, 4], [1, 5], [2, 6], [3, 7]]
    """
    fan_in, fan_out = edges.starts.diff(), edges.starts_by_input.diff()
    k_in, k_out = int(fan_in[0]), int(fan_out[0])
    if not (k_in and k_out) or (fan_in != k_in).any() or (fan_out != k_out).any():
        return None
    if len(fan_in) % k_out or len(fan_in) == k_out:
        return None
    rows = edges.inputs.view(len(fan_in), k_in)  # the inputs of each output, sorted
    outputs = rows[:, 0].sort(stable=True).indices  # [out_features]
    blocks = rows[outputs].view(-1, k_out, k_in)
    if (blocks != blocks[:, :1]).any() or (rows[:, 1:] == rows[:, :-1]).any():
        return None
    inputs = blocks[:, 0].flatten().long()  # [in_features]
    return Blocks(inputs, _inverse(inputs), outputs, _inverse(outputs))


def _inverse(order: Tensor) -> Tensor:
    places = torch.arange(len(order), device=order.device)
    return torch.empty_like(order).scatter_(0, order, places)


def block_product(
    x: Tensor, weight: Tensor, blocks: Blocks, bias: Tensor | None = None, relu: bool = False
) -> Tensor:
    """As :func:`mcnn.sparse.autograd.product`, for a layer that falls into blocks.

    Parameters
    ----------
    x
        [inputs, batch].
    weight
        [edges], sorted by output and within it by input.
    blocks
        From :func:`find_blocks`.
    bias
        [outputs], added to the sums.
    relu
        Whether negative results become zero.

    Returns
    -------
    Tensor
        [outputs, batch].

    Raises
    ------
    ValueError
        If the shapes do not fit the blocks.
    TypeError
        As :func:`mcnn.sparse.autograd.product` does.
    """
    inputs, outputs, edges = len(blocks.inputs), len(blocks.outputs), len(weight)
    k_in, k_out = edges // outputs, edges // inputs
    whole = k_in * outputs == k_out * inputs == edges > 0
    if not whole or inputs % k_in or outputs % k_out:
        raise ValueError(f"weight must be [edges], equally many in each block, got {edges}")
    x = fitted(x, weight, bias, inputs, outputs, edges)
    return _Product.apply(x, weight, bias, relu, *blocks)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool, *blocks: Tensor
    ) -> Tensor:
        y = torch.ops.mcnn.path_blocks(x, weight, *blocks, bias, relu)
        ctx.save_for_backward(x, weight, y if relu else None, *blocks)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, y, *blocks = ctx.saved_tensors
        grad, dbias = unfinished(grad, y, ctx.needs_input_grad[2])
        dx, dw = torch.ops.mcnn.path_block_grads(x, grad, weight, *blocks)
        return dx, dw, dbias, *[None] * 5


# Operators as in mcnn.sparse.ops.
_BLOCKS = "Tensor inputs, Tensor input_places, Tensor outputs, Tensor output_places"
torch.library.define(
    "mcnn::path_blocks",
    f"(Tensor x, Tensor weight, {_BLOCKS}, Tensor? bias=None, bool relu=False) -> Tensor",
)
torch.library.define(
    "mcnn::path_block_grads",
    f"(Tensor x, Tensor grad, Tensor weight, {_BLOCKS}) -> (Tensor, Tensor)",
)


@torch.library.impl("mcnn::path_blocks", "CompositeExplicitAutograd")
def _product(
    x: Tensor,
    weight: Tensor,
    inputs: Tensor,
    input_places: Tensor,
    outputs: Tensor,
    output_places: Tensor,
    bias: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    if c.serves(weight.shape[0], x, weight):
        return c.sum_blocks(x, weight, inputs, outputs, bias, relu)
    with torch.autocast(x.device.type, enabled=False):  # as where other forms serve
        y = torch.bmm(_matrices(weight, inputs, outputs), _rows(x, inputs, weight, outputs))
    y = y.flatten(0, 1).index_select(0, output_places)  # [outputs, batch]
    return finished(y, bias, relu)


@torch.library.register_fake("mcnn::path_blocks")
def _(
    x: Tensor,
    weight: Tensor,
    inputs: Tensor,
    input_places: Tensor,
    outputs: Tensor,
    *_: Tensor | bool | None,
) -> Tensor:
    return x.new_empty(outputs.shape[0], x.shape[1])


@torch.library.impl("mcnn::path_block_grads", "CompositeExplicitAutograd")
def _grads(
    x: Tensor,
    grad: Tensor,
    weight: Tensor,
    inputs: Tensor,
    input_places: Tensor,
    outputs: Tensor,
    output_places: Tensor,
) -> tuple[Tensor, Tensor]:
    if c.serves(weight.shape[0], x, weight):
        return c.block_gradients(x, grad, weight, inputs, outputs)
    delta = _rows(grad, outputs, weight, inputs)  # [blocks, k_out, batch]
    dx = torch.bmm(_matrices(weight, inputs, outputs).mT, delta)  # [blocks, k_in, batch]
    dw = torch.bmm(delta, _rows(x, inputs, weight, outputs).mT)  # [blocks, k_out, k_in]
    return (
        dx.flatten(0, 1).index_select(0, input_places),
        dw.flatten(0, 1).index_select(0, output_places).flatten(),
    )


@torch.library.register_fake("mcnn::path_block_grads")
def _(x: Tensor, grad: Tensor, weight: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


def _rows(x: Tensor, units: Tensor, weight: Tensor, others: Tensor) -> Tensor:
    """Gather the rows of the units of each block: [blocks, k, batch]."""
    return x.index_select(0, units).view(-1, len(weight) // len(others), x.shape[1])


def _matrices(weight: Tensor, inputs: Tensor, outputs: Tensor) -> Tensor:
    """Return weights [edges] as matrices, [blocks, k_out, k_in]."""
    k_in, k_out = len(weight) // len(outputs), len(weight) // len(inputs)
    return weight.view(-1, k_in).index_select(0, outputs).view(-1, k_out, k_in)
