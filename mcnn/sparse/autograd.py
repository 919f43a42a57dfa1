r"""The product of a sparse layer with a batch, and its derivatives, at the cost of its edges.

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
Faster backends take over where the machine has them, see :mod:`mcnn.sparse.ops`.

The map is bilinear, so that derivatives of the sums are the same sums again: there are derivatives
of any order.
Transformations (``torch.func``, forward mode) look inside of operators and find PyTorch's own, at
the cost of a number for each edge and example.

Where the layer falls into complete blocks, small matrices are faster (:func:`block_product`, from
blocks of :data:`BLOCKS_FROM` units on), and where most of all edges are there, a matrix with zeros
in it (:func:`dense_product`, from a share of :data:`DENSE_FROM` on).

Source: slides "Sampling Paths through Networks": cost bounded by the number of paths times depth.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

import mcnn.sparse.ops  # noqa: F401  registers the operators
from mcnn.sparse.backends import torch as torch_backend
from mcnn.sparse.backends.torch import epilogue
from mcnn.sparse.structure import Blocks, Edges, check_operands, dense_matrix, turned

DENSE_FROM = 0.6  # share of all edges from which a matrix with zeros in it is faster on a CPU
BLOCKS_FROM = 16  # units of a block from which small matrices beat single edges on a CPU


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
        From :func:`mcnn.sparse.structure.edges_of_paths`.
    bias
        [outputs], added to the sums.
    relu
        Whether negative results become zero.

    Returns
    -------
    Tensor
        [outputs, batch]; derivatives with respect to ``x`` and ``weight`` cost as much again each.

    Raises
    ------
    ValueError
        If the shapes do not fit the edges.
    TypeError
        If the types of ``x`` and ``weight`` differ, unless autocast lets them: then the sums are of
        the type of ``weight``.

    Examples
    --------
    >>> from mcnn.sparse.structure import edges_of_paths
    >>> edges, _ = edges_of_paths(torch.tensor([[0, 1, 1], [0, 0, 1]]), 2, 2)
    >>> product(torch.tensor([[1.0], [10.0]]), torch.tensor([1.0, 2.0, 3.0]), edges)
    tensor([[21.],
            [30.]])
    """
    shape = len(edges.starts_by_input) - 1, len(edges.starts) - 1, len(edges.inputs)
    x = check_operands(x, weight, bias, *shape)
    if is_transformed():
        return epilogue(torch_backend.sum_composed(x, weight, edges), bias, relu)
    return _EdgeProduct.apply(x, weight, bias, relu, *edges)


def block_product(
    x: Tensor, weight: Tensor, blocks: Blocks, bias: Tensor | None = None, relu: bool = False
) -> Tensor:
    """As :func:`product`, for a layer that falls into blocks.

    Parameters
    ----------
    x
        [inputs, batch].
    weight
        [edges], sorted by output and within it by input.
    blocks
        From :func:`mcnn.sparse.structure.find_blocks`.
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
        As :func:`product` does.
    """
    inputs, outputs, edges = len(blocks.inputs), len(blocks.outputs), len(weight)
    k_in, k_out = edges // outputs, edges // inputs
    whole = k_in * outputs == k_out * inputs == edges > 0
    if not whole or inputs % k_in or outputs % k_out:
        raise ValueError(f"weight must be [edges], equally many in each block, got {edges}")
    x = check_operands(x, weight, bias, inputs, outputs, edges)
    if is_transformed():
        places = (blocks.inputs, blocks.outputs, blocks.output_places)
        return epilogue(torch_backend.sum_blocks(x, weight, *places), bias, relu)
    return _BlockProduct.apply(x, weight, bias, relu, *blocks)


def dense_product(
    x: Tensor, weight: Tensor, edges: Edges, bias: Tensor | None = None, relu: bool = False
) -> Tensor:
    """As :func:`product`, through a matrix that has a zero where there is no edge."""
    shape = len(edges.starts_by_input) - 1, len(edges.starts) - 1, len(edges.inputs)
    x = check_operands(x, weight, bias, *shape)
    return epilogue(dense_matrix(weight, edges, len(x)) @ x, bias, relu)


def is_transformed() -> bool:
    """Return whether ``torch.func`` or forward-mode differentiation looks at what is computed."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


class _EdgeProduct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool, *edges: Tensor
    ) -> Tensor:
        inputs, _, starts, *_ = edges
        y = torch.ops.mcnn.path_sum(x, weight, inputs, starts, bias, relu)
        ctx.save_for_backward(x, weight, y if relu else None, *edges)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, y, *edges = ctx.saved_tensors
        needs_dx, needs_dw, needs_dbias = ctx.needs_input_grad[:3]
        grad, dbias = epilogue_backward(grad, y, needs_dbias)
        if _goes_on():
            layer = Edges(*edges)
            dx = _product_turned(grad, weight, layer) if needs_dx else None
            dw = _EdgeDot.apply(x, grad, *edges) if needs_dw else None
            return dx, dw, dbias, *[None] * 7
        inputs, outputs, starts, order, outputs_by_input, starts_by_input = edges
        dx = dw = None
        if needs_dx and needs_dw:
            dx, dw = torch.ops.mcnn.path_grads(x, grad, weight, *edges)
        elif needs_dx:
            sorted_weight = weight.index_select(0, order)  # [edges]
            dx = torch.ops.mcnn.path_sum(grad, sorted_weight, outputs_by_input, starts_by_input)
        elif needs_dw:
            dw = torch.ops.mcnn.path_dot(x, grad, inputs, outputs, starts)
        return dx, dw, dbias, *[None] * 7


class _EdgeDot(torch.autograd.Function):
    """The inner products of two rows, for each edge: what is bilinear, too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grad: Tensor, *edges: Tensor) -> Tensor:
        inputs, outputs, starts, *_ = edges
        ctx.save_for_backward(x, grad, *edges)
        return torch.ops.mcnn.path_dot(x, grad, inputs, outputs, starts)

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        x, grad, *edges = ctx.saved_tensors
        layer, (needs_dx, needs_dgrad) = Edges(*edges), ctx.needs_input_grad[:2]
        weight = weight.contiguous()
        dx = _product_turned(grad, weight, layer) if needs_dx else None
        dgrad = _EdgeProduct.apply(x, weight, None, False, *edges) if needs_dgrad else None
        return dx, dgrad, *[None] * 6


def _product_turned(grad: Tensor, weight: Tensor, edges: Edges) -> Tensor:
    """Multiply by the layer the other way: [outputs, batch] to [inputs, batch]."""
    sorted_weight = weight.index_select(0, edges.order)  # [edges]
    return _EdgeProduct.apply(grad, sorted_weight, None, False, *turned(edges))


class _BlockProduct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool, *blocks: Tensor
    ) -> Tensor:
        y = torch.ops.mcnn.path_blocks(x, weight, *blocks, bias, relu)
        ctx.save_for_backward(x, weight, y if relu else None, *blocks)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, y, *blocks = ctx.saved_tensors
        grad, dbias = epilogue_backward(grad, y, ctx.needs_input_grad[2])
        if _goes_on():  # through operators of PyTorch's, which have derivatives
            dx, dw = torch_backend.block_gradients(x, grad, weight, *blocks)
        else:
            dx, dw = torch.ops.mcnn.path_block_grads(x, grad, weight, *blocks)
        return dx, dw, dbias, *[None] * 5


def _goes_on() -> bool:
    """Return whether a backward pass will itself be differentiated (``create_graph``)."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def epilogue_backward(
    grad: Tensor, y: Tensor | None, needs_dbias: bool
) -> tuple[Tensor, Tensor | None]:
    """Go back through :func:`mcnn.sparse.backends.torch.epilogue`.

    Parameters
    ----------
    grad
        [outputs, batch].
    y
        Its results, if they were rectified.
    needs_dbias
        Whether there is a bias that needs a gradient.

    Returns
    -------
    Tensor
        [outputs, batch], the gradient with respect to the sums.
    Tensor or None
        [outputs], that with respect to the bias.
    """
    if y is not None and _goes_on():
        grad = torch.ops.aten.threshold_backward(grad, y.detach(), 0)
    elif y is not None:
        grad, dbias = torch.ops.mcnn.path_rectified(grad, y)
        return grad, dbias if needs_dbias else None
    return grad, grad.sum(1) if needs_dbias else None
