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
On a CPU with a C compiler the loops of :mod:`mcnn.paths.native` take over for layers of some size,
on a GPU with Triton the kernels of :mod:`mcnn.paths.fused`; :func:`backend` says which serve.

Where most of all edges are there, a matrix with zeros in it is faster: :data:`DENSE_FROM`.

Source: slides "Sampling Paths through Networks": cost bounded by the number of paths times depth.
"""

import warnings
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mcnn.paths import native

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

    Examples
    --------
    >>> edges, _ = edges_of_paths(torch.tensor([[0, 1, 1], [0, 0, 1]]), 2, 2)
    >>> product(torch.tensor([[1.0], [10.0]]), torch.tensor([1.0, 2.0, 3.0]), edges)
    tensor([[21.],
            [30.]])
    """
    check_shapes(x, weight, len(edges.starts_by_input) - 1, len(edges.inputs))
    return _Product.apply(x, weight, bias, relu, *edges)


def check_shapes(x: Tensor, weight: Tensor, inputs: int, edges: int) -> None:
    """Raise ValueError unless ``x`` is [inputs, batch] and ``weight`` [edges]."""
    if x.dim() != 2 or x.shape[0] != inputs or weight.shape != (edges,):
        raise ValueError(
            f"x must be [{inputs}, batch] and weight [{edges}], got {list(x.shape)} and "
            f"{list(weight.shape)}"
        )


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


def finished(y: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    """Add a bias [outputs] to sums [outputs, batch], and rectify, if asked."""
    y = y if bias is None else y + bias[:, None]
    return y.relu() if relu else y


def unfinished(grad: Tensor, y: Tensor | None, of_bias: bool) -> tuple[Tensor, Tensor | None]:
    """Go back through :func:`finished`.

    Parameters
    ----------
    grad
        [outputs, batch].
    y
        Its results, if they were rectified.
    of_bias
        Whether there is a bias that needs a gradient.

    Returns
    -------
    Tensor
        [outputs, batch], the gradient with respect to the sums.
    Tensor or None
        [outputs], that with respect to the bias.
    """
    if y is not None:
        grad, dbias = torch.ops.mcnn.path_rectified(grad, y)
        return grad, dbias if of_bias else None
    return grad, grad.sum(1) if of_bias else None


# --- the sums as operators, so that compilers take them as they are -------------------------------
# torch.library.custom_op would do the same, but imports the compiler when it is first called.

torch.library.define(
    "mcnn::path_sum",
    "(Tensor x, Tensor weight, Tensor index, Tensor starts, Tensor? bias=None, bool relu=False)"
    " -> Tensor",
)
torch.library.define(
    "mcnn::path_dot",
    "(Tensor x, Tensor grad, Tensor inputs, Tensor outputs, Tensor starts) -> Tensor",
)
torch.library.define(
    "mcnn::path_grads",
    "(Tensor x, Tensor grad, Tensor weight, Tensor inputs, Tensor outputs, Tensor starts, "
    "Tensor order, Tensor outputs_by_input, Tensor starts_by_input) -> (Tensor, Tensor)",
)
torch.library.define("mcnn::path_rectified", "(Tensor grad, Tensor y) -> (Tensor, Tensor)")


@torch.library.impl("mcnn::path_sum", "CompositeExplicitAutograd")
def _sum(
    x: Tensor,
    weight: Tensor,
    index: Tensor,
    starts: Tensor,
    bias: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    if native.serves(index.shape[0], x, weight):
        return native.sum_rows(x, weight, index, starts, bias, relu)
    if x.is_cuda and _fused() is not None:
        return _fused().sum_rows(x, weight, index, starts, bias, relu)
    return finished(torch_sum(x, weight, index, starts), bias, relu)


def torch_sum(x: Tensor, weight: Tensor, index: Tensor, starts: Tensor) -> Tensor:
    """Sum weighted rows by PyTorch's operators; see :func:`mcnn.paths.native.sum_rows`."""
    return F.embedding_bag(
        index,
        x.contiguous(),
        starts,
        mode="sum",
        per_sample_weights=weight.contiguous(),
        include_last_offset=True,
    )


@torch.library.register_fake("mcnn::path_sum")
def _(x: Tensor, weight: Tensor, index: Tensor, starts: Tensor, *_: Tensor | bool | None) -> Tensor:
    return x.new_empty(starts.shape[0] - 1, x.shape[1])


@torch.library.impl("mcnn::path_dot", "CompositeExplicitAutograd")
def _dot(x: Tensor, grad: Tensor, inputs: Tensor, outputs: Tensor, starts: Tensor) -> Tensor:
    if native.serves(inputs.shape[0], x, grad):
        return native.dot_rows(x, grad, inputs, starts)
    if x.is_cuda and _fused() is not None:
        return _fused().dot_rows(x, grad, inputs, outputs)
    return torch_dot(x, grad, inputs, outputs, starts)


def torch_dot(x: Tensor, grad: Tensor, inputs: Tensor, outputs: Tensor, starts: Tensor) -> Tensor:
    """Return the inner products by PyTorch's operators; see :func:`mcnn.paths.native.dot_rows`."""
    # A sparse matrix of PyTorch has no room for more edges, of duplicates, than units to join.
    fits = len(inputs) <= len(grad) * len(x)
    if fits and x.dtype in (torch.float32, torch.float64):
        silence_sparse_warning()
        zero = x.new_zeros(len(inputs))
        shape = (len(grad), len(x))
        where = torch.sparse_csr_tensor(starts, inputs, zero, shape, check_invariants=False)
        return torch.sparse.sampled_addmm(where, grad, x.T, beta=0).values()
    tile = max(1, _TILE // x.shape[1])
    wide = torch.promote_types(x.dtype, torch.float32)
    parts = [
        (x.index_select(0, j).to(wide) * grad.index_select(0, i)).sum(1)
        for j, i in zip(inputs.split(tile), outputs.split(tile), strict=True)
    ]
    return torch.cat(parts).to(x.dtype)


@torch.library.register_fake("mcnn::path_dot")
def _(x: Tensor, grad: Tensor, inputs: Tensor, outputs: Tensor, starts: Tensor) -> Tensor:
    return x.new_empty(inputs.shape[0])


@torch.library.impl("mcnn::path_grads", "CompositeExplicitAutograd")
def _grads(
    x: Tensor,
    grad: Tensor,
    weight: Tensor,
    inputs: Tensor,
    outputs: Tensor,
    starts: Tensor,
    order: Tensor,
    outputs_by_input: Tensor,
    starts_by_input: Tensor,
) -> tuple[Tensor, Tensor]:
    edges = weight.shape[0]
    if edges <= native.SCATTERED and native.serves(edges, x, weight):
        return native.gradients(x, grad, weight, order, outputs_by_input, starts_by_input)
    sorted_weight = weight.index_select(0, order)  # [edges]
    dx = torch.ops.mcnn.path_sum(grad, sorted_weight, outputs_by_input, starts_by_input)
    return dx, torch.ops.mcnn.path_dot(x, grad, inputs, outputs, starts)


@torch.library.register_fake("mcnn::path_grads")
def _(x: Tensor, grad: Tensor, weight: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


@torch.library.impl("mcnn::path_rectified", "CompositeExplicitAutograd")
def _rectified(grad: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    if native.serves(y.shape[0], y, grad):
        return native.rectified(grad, y)
    passed = torch.ops.aten.threshold_backward(grad, y, 0)
    return passed, passed.sum(1)


@torch.library.register_fake("mcnn::path_rectified")
def _(grad: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return y.new_empty(y.shape), y.new_empty(y.shape[0])


@cache
def _fused() -> ModuleType | None:
    """Import the kernels for GPUs, which takes a while: only where there is one to run them."""
    try:
        from mcnn.paths import fused
    except ImportError:
        warnings.warn(
            "Triton is missing: layers of paths on the GPU go through PyTorch's operators, which "
            "is slower; install triton",
            stacklevel=2,
        )
        return None
    return fused


def backend(device: torch.device | str) -> str:
    """Return what multiplies layers of some size on a device.

    Returns
    -------
    str
        ``"triton"`` on a GPU, if Triton is installed; ``"c"`` on a CPU, if there is a C compiler;
        else ``"torch"``.

    Examples
    --------
    >>> backend("cpu") in ("c", "torch"), backend("meta")
    (True, 'torch')
    """
    kind = torch.device(device).type
    if kind == "cuda" and _fused() is not None:
        return "triton"
    return "c" if kind == "cpu" and native.available() else "torch"


@cache
def silence_sparse_warning() -> None:
    """Let PyTorch say once, unheard, that its sparse matrices are new; the tests check them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.eye(1).to_sparse_csr()
