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

from mcnn.paths.product import Edges

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
        From :func:`mcnn.paths.product.edges_of_paths`.

    Returns
    -------
    Blocks or None
        All blocks have the same shape, every unit is in one, and there are several.

    Examples
    --------
    >>> from mcnn.paths import sample_paths
    >>> from mcnn.paths.product import edges_of_paths
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


def block_product(x: Tensor, weight: Tensor, blocks: Blocks) -> Tensor:
    """As :func:`mcnn.paths.product.product`, for a layer that falls into blocks.

    Parameters
    ----------
    x
        [inputs, batch].
    weight
        [edges], sorted by output and within it by input.
    blocks
        From :func:`find_blocks`.

    Returns
    -------
    Tensor
        [outputs, batch].
    """
    k_in = len(weight) // len(blocks.outputs)
    k_out = len(weight) // len(blocks.inputs)
    # [outputs, k_in] -> [blocks, k_out, k_in]
    w = _Permute.apply(weight.view(-1, k_in), blocks.outputs, blocks.output_places)
    gathered = _Permute.apply(x, blocks.inputs, blocks.input_places).view(-1, k_in, x.shape[1])
    y = torch.bmm(w.view(-1, k_out, k_in), gathered)  # [blocks, k_out, batch]
    return _Permute.apply(y.view(-1, x.shape[1]), blocks.output_places, blocks.outputs)


class _Permute(torch.autograd.Function):
    """Rows in another order; unlike that of index_select, the derivative is a gather, too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(order, places)
        return x.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        order, places = ctx.saved_tensors
        return _Permute.apply(grad, places, order), None, None
