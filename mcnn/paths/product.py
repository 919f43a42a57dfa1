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

Where most of all edges are there, a matrix with zeros in it is faster: :data:`DENSE_FROM`.

Source: slides "Sampling Paths through Networks": cost bounded by the number of paths times depth.
"""

import warnings
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

DENSE_FROM = 0.4  # share of all edges from which a matrix with zeros in it is faster on a CPU
_TILE = 1 << 18  # numbers that a tile of the general form of the third sum holds


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


def product(x: Tensor, weight: Tensor, edges: Edges) -> Tensor:
    """Multiply a batch by a sparse layer.

    Parameters
    ----------
    x
        [inputs, batch], floating point.
    weight
        [edges], the type of ``x``.
    edges
        From :func:`edges_of_paths`.

    Returns
    -------
    Tensor
        [outputs, batch]; derivatives with respect to ``x`` and ``weight`` cost as much again each.

    Examples
    --------
    >>> edges, _ = edges_of_paths(torch.tensor([[0, 1, 1], [0, 0, 1]]), 2, 2)
    >>> product(torch.tensor([[1.0], [10.0]]), torch.tensor([1.0, 2.0, 3.0]), edges)
    tensor([[21.],
            [30.]])
    """
    return torch.ops.mcnn.path_product(x, weight, *edges)


def dense_product(x: Tensor, weight: Tensor, edges: Edges) -> Tensor:
    """As :func:`product`, through a matrix that has a zero where there is no edge."""
    return dense_matrix(weight, edges, len(x)) @ x


def dense_matrix(weight: Tensor, edges: Edges, in_features: int) -> Tensor:
    """Return weights [edges, ...] as a matrix, [outputs, inputs, ...]; those of one edge add up."""
    matrix = weight.new_zeros(len(edges.starts) - 1, in_features, *weight.shape[1:])
    return matrix.index_put((edges.outputs, edges.inputs), weight, accumulate=True)


# --- the three sums as operators, so that compilers take them as they are -------------------------
# torch.library.custom_op would do the same, but imports the compiler when it is first called.

torch.library.define(
    "mcnn::path_product",
    "(Tensor x, Tensor weight, Tensor inputs, Tensor outputs, Tensor starts, Tensor order, "
    "Tensor outputs_by_input, Tensor starts_by_input) -> Tensor",
)
torch.library.define(
    "mcnn::path_sum", "(Tensor x, Tensor weight, Tensor index, Tensor starts) -> Tensor"
)
torch.library.define(
    "mcnn::path_dot",
    "(Tensor x, Tensor grad, Tensor inputs, Tensor outputs, Tensor starts) -> Tensor",
)


@torch.library.impl("mcnn::path_product", "CompositeExplicitAutograd")
def _product(
    x: Tensor, weight: Tensor, inputs: Tensor, outputs: Tensor, starts: Tensor, *_: Tensor
) -> Tensor:
    return torch.ops.mcnn.path_sum(x, weight, inputs, starts)


@torch.library.register_fake("mcnn::path_product")
def _(
    x: Tensor, weight: Tensor, inputs: Tensor, outputs: Tensor, starts: Tensor, *_: Tensor
) -> Tensor:
    return x.new_empty(starts.shape[0] - 1, x.shape[1])


def _setup(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, *edges = ctx.saved_tensors
    dx = dw = None
    if ctx.needs_input_grad[0]:
        _, _, _, order, outputs_by_input, starts_by_input = edges
        sorted_weight = weight.index_select(0, order)  # [edges]
        dx = torch.ops.mcnn.path_sum(grad, sorted_weight, outputs_by_input, starts_by_input)
    if ctx.needs_input_grad[1]:
        inputs, outputs, starts, *_ = edges
        dw = torch.ops.mcnn.path_dot(x, grad, inputs, outputs, starts)
    return dx, dw, *[None] * 6


torch.library.register_autograd("mcnn::path_product", _backward, setup_context=_setup)


@torch.library.impl("mcnn::path_sum", "CompositeExplicitAutograd")
def _sum(x: Tensor, weight: Tensor, index: Tensor, starts: Tensor) -> Tensor:
    return F.embedding_bag(
        index,
        x.contiguous(),
        starts,
        mode="sum",
        per_sample_weights=weight.contiguous(),
        include_last_offset=True,
    )


@torch.library.register_fake("mcnn::path_sum")
def _(x: Tensor, weight: Tensor, index: Tensor, starts: Tensor) -> Tensor:
    return x.new_empty(starts.shape[0] - 1, x.shape[1])


@torch.library.impl("mcnn::path_dot", "CompositeExplicitAutograd")
def _dot(x: Tensor, grad: Tensor, inputs: Tensor, outputs: Tensor, starts: Tensor) -> Tensor:
    if x.dtype in (torch.float32, torch.float64):
        silence_sparse_warning()
        zero = x.new_zeros(len(inputs))
        shape = (len(grad), len(x))
        where = torch.sparse_csr_tensor(starts, inputs, zero, shape, check_invariants=False)
        return torch.sparse.sampled_addmm(where, grad, x.T, beta=0).values()
    tile = max(1, _TILE // x.shape[1])
    parts = [
        (x.index_select(0, j).float() * grad.index_select(0, i)).sum(1)
        for j, i in zip(inputs.split(tile), outputs.split(tile), strict=True)
    ]
    return torch.cat(parts).to(x.dtype)


@torch.library.register_fake("mcnn::path_dot")
def _(x: Tensor, grad: Tensor, inputs: Tensor, outputs: Tensor, starts: Tensor) -> Tensor:
    return x.new_empty(inputs.shape[0])


@cache
def silence_sparse_warning() -> None:
    """Let PyTorch say once, unheard, that its sparse matrices are new; the tests check them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.eye(1).to_sparse_csr()
