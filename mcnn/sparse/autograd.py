r"""The product of a layer of paths with a batch, at a cost in proportion to its edges.

A layer with edges :math:`e=(j_e\to i_e)` and weights :math:`w_e` needs three sums,

.. math::

   y_i=\sum_{e:\,i_e=i}w_ex_{j_e},\qquad
   \frac{\partial}{\partial x_j}=\sum_{e:\,j_e=j}w_e\,\delta_{i_e},\qquad
   \frac{\partial}{\partial w_e}=\langle x_{j_e},\delta_{i_e}\rangle ,

where :math:`x_j` and :math:`\delta_i` are rows of numbers, one an example of the batch.
With the examples innermost, activations [units, batch], each edge reads and adds whole rows, and
the first two sums are what PyTorch's ``embedding_bag`` computes, over edges sorted by output and
by input.
The third is PyTorch's ``sampled_addmm``.
Faster forms take over where the machine has them, see :mod:`mcnn.sparse.ops`.

Where most of all edges are there, a matrix with zeros in it is faster: :data:`DENSE_FROM`.

Source: slides "Sampling Paths through Networks": cost bounded by the number of paths times depth.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mcnn.sparse.ops import finished, unfinished

DENSE_FROM = 0.6  # share of all edges from which a matrix with zeros in it is faster on a CPU


class Edges(NamedTuple):
    """Edges of a layer, sorted by output and within it by input; all int32.

    Parameters
    ----------
    inputs, outputs
        [edges], the units that an edge joins.
    starts
        [outputs + 1], where the edges of each output begin.
    order
        [edges], the numbers of the edges, sorted by input.
    outputs_by_input
        [edges], the outputs in that order.
    starts_by_input
        [inputs + 1], where the edges of each input begin in it.
    """

    inputs: Tensor
    outputs: Tensor
    starts: Tensor
    order: Tensor
    outputs_by_input: Tensor
    starts_by_input: Tensor


def edges_of_paths(
    paths: Tensor, in_features: int, out_features: int, merge: bool = True
) -> tuple[Edges, Tensor]:
    """Sort the edges that paths take through a layer.

    Parameters
    ----------
    paths
        Integers, [2, paths]: the input and the output of each.
    in_features, out_features
        Units of the layer.
    merge
        Whether paths on the same edge share it, or each has an edge of its own.

    Returns
    -------
    Edges
    Tensor
        int64 [paths], the edge of each path.

    Raises
    ------
    ValueError
        If the shape is another, or a unit is not one of the layer's.
    """
    if paths.dim() != 2 or len(paths) != 2 or paths.shape[1] == 0:
        raise ValueError(f"paths must be [2, paths], at least one, got {list(paths.shape)}")
    for units, name, n in zip(
        paths, ("inputs", "outputs"), (in_features, out_features), strict=True
    ):
        low, high = int(units.min()), int(units.max())
        if low < 0 or high >= n:
            raise ValueError(f"{name} of paths must be in 0 ... {n - 1}, got {low} ... {high}")
    key = paths[1].long() * in_features + paths[0]  # [paths]
    if merge:
        key, edge_of_path = key.unique(return_inverse=True)  # [edges], sorted
    else:
        key, sorted_paths = key.sort(stable=True)
        edge_of_path = torch.empty_like(sorted_paths)
        edge_of_path[sorted_paths] = torch.arange(len(key), device=key.device)
    outputs = (key // in_features).int()
    inputs = (key % in_features).int()
    order = inputs.sort(stable=True).indices  # [edges]
    edges = Edges(
        inputs,
        outputs,
        _starts(outputs, out_features),
        order.int(),
        outputs[order],
        _starts(inputs, in_features),
    )
    return edges, edge_of_path


def _starts(units: Tensor, n: int) -> Tensor:
    starts = torch.zeros(n + 1, dtype=torch.int32, device=units.device)
    torch.cumsum(torch.bincount(units, minlength=n), 0, dtype=torch.int32, out=starts[1:])
    return starts


def product(
    x: Tensor, weight: Tensor, edges: Edges, bias: Tensor | None = None, relu: bool = False
) -> Tensor:
    """Multiply a batch by a sparse layer.

    Parameters
    ----------
    x
        [inputs, batch], floating point.
    weight
        [edges], the type of ``x``.
    edges
        From :func:`edges_of_paths`.
    bias
        [outputs], added to the sums.
    relu
        Whether negative results become zero.

    Returns
    -------
    Tensor
        [outputs, batch]; derivatives with respect to ``x`` and ``weight`` cost as much again each.
        There are no second ones: :func:`dense_product` has those.

    Raises
    ------
    ValueError
        If the shapes do not fit the edges.
    TypeError
        If the types of ``x`` and ``weight`` differ, unless autocast lets them: then the sums are of
        the type of ``weight``.

    Examples
    --------
    >>> edges, _ = edges_of_paths(torch.tensor([[0, 1, 1], [0, 0, 1]]), 2, 2)
    >>> product(torch.tensor([[1.0], [10.0]]), torch.tensor([1.0, 2.0, 3.0]), edges)
    tensor([[21.],
            [30.]])
    """
    shape = len(edges.starts_by_input) - 1, len(edges.starts) - 1, len(edges.inputs)
    x = fitted(x, weight, bias, *shape)
    return _Product.apply(x, weight, bias, relu, *edges)


def fitted(
    x: Tensor, weight: Tensor, bias: Tensor | None, inputs: int, outputs: int, edges: int
) -> Tensor:
    """Return ``x``, in the type of ``weight`` where autocast is on.

    Raises
    ------
    ValueError
        Unless ``x`` is [inputs, batch], ``weight`` [edges] and ``bias``, if any, [outputs].
    TypeError
        Unless they are of the same type.
    """
    if x.dim() != 2 or x.shape[0] != inputs or weight.shape != (edges,):
        raise ValueError(
            f"x must be [{inputs}, batch] and weight [{edges}], got {list(x.shape)} and "
            f"{list(weight.shape)}"
        )
    if bias is not None and bias.shape != (outputs,):
        raise ValueError(f"bias must be [{outputs}], got {list(bias.shape)}")
    if bias is not None and bias.dtype != weight.dtype:
        raise TypeError(
            f"bias and weight must be of one type, got {bias.dtype} and {weight.dtype}: call .to()"
        )
    if x.dtype != weight.dtype:
        if not torch.is_autocast_enabled(x.device.type):
            raise TypeError(
                f"x and weight must be of one type, got {x.dtype} and {weight.dtype}: call .to()"
            )
        x = x.to(weight.dtype)
    return x


def dense_product(
    x: Tensor, weight: Tensor, edges: Edges, bias: Tensor | None = None, relu: bool = False
) -> Tensor:
    """As :func:`product`, through a matrix that has a zero where there is no edge."""
    return finished(dense_matrix(weight, edges, len(x)) @ x, bias, relu)


def dense_matrix(weight: Tensor, edges: Edges, in_features: int) -> Tensor:
    """Return weights [edges, ...] as a matrix, [outputs, inputs, ...]; those of one edge add up."""
    outputs = edges.starts.shape[0] - 1
    matrix = weight.new_zeros(outputs * in_features, *weight.shape[1:])
    place = edges.outputs.long() * in_features + edges.inputs  # [edges]
    return matrix.index_add(0, place, weight).view(outputs, in_features, *weight.shape[1:])


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool, *edges: Tensor
    ) -> Tensor:
        inputs, _, starts, *_ = edges
        y = torch.ops.mcnn.path_sum(x, weight, inputs, starts, bias, relu)
        ctx.save_for_backward(x, weight, y if relu else None, *edges)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, y, *edges = ctx.saved_tensors
        inputs, outputs, starts, order, outputs_by_input, starts_by_input = edges
        of_x, of_weight, of_bias = ctx.needs_input_grad[:3]
        grad, dbias = unfinished(grad, y, of_bias)
        dx = dw = None
        if of_x and of_weight:
            dx, dw = torch.ops.mcnn.path_grads(x, grad, weight, *edges)
        elif of_x:
            sorted_weight = weight.index_select(0, order)  # [edges]
            dx = torch.ops.mcnn.path_sum(grad, sorted_weight, outputs_by_input, starts_by_input)
        elif of_weight:
            dw = torch.ops.mcnn.path_dot(x, grad, inputs, outputs, starts)
        return dx, dw, dbias, *[None] * 7
