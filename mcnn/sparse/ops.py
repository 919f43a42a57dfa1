"""The sums over edges as operators: each goes to the fastest form that the machine has.

=============================  ==================================================================
``mcnn::path_sum``             weighted rows, added up for each output; also back to the inputs
``mcnn::path_dot``             the inner product of two rows, for each edge
``mcnn::path_grads``           both gradients of a layer in one pass
``mcnn::path_rectified``       back through a rectifier
=============================  ==================================================================

On a CPU with a C compiler the loops of :mod:`mcnn.sparse.backends.c` serve, for layers of some
size; on a GPU with Triton the kernels of :mod:`mcnn.sparse.backends.triton`; else PyTorch's own
operators.
As operators of their own, compilers take them as they are.
"""

import warnings
from functools import cache
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional as F

from mcnn.sparse.backends import c

_TILE = 1 << 18  # numbers that a tile of the general form of inner products holds

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
    if c.serves(index.shape[0], x, weight):
        return c.sum_rows(x, weight, index, starts, bias, relu)
    if x.is_cuda and _fused() is not None:
        return _fused().sum_rows(x, weight, index, starts, bias, relu)
    return finished(torch_sum(x, weight, index, starts), bias, relu)


def torch_sum(x: Tensor, weight: Tensor, index: Tensor, starts: Tensor) -> Tensor:
    """Sum weighted rows by PyTorch's operators; see :func:`mcnn.sparse.backends.c.sum_rows`."""
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
    if c.serves(inputs.shape[0], x, grad):
        return c.dot_rows(x, grad, inputs, starts)
    if x.is_cuda and _fused() is not None:
        return _fused().dot_rows(x, grad, inputs, outputs)
    return torch_dot(x, grad, inputs, outputs, starts)


def torch_dot(x: Tensor, grad: Tensor, inputs: Tensor, outputs: Tensor, starts: Tensor) -> Tensor:
    """Return the inner products by PyTorch's operators; see ``dot_rows`` of the loops in C."""
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
    if edges <= c.SCATTERED and c.serves(edges, x, weight):
        return c.gradients(x, grad, weight, order, outputs_by_input, starts_by_input)
    sorted_weight = weight.index_select(0, order)  # [edges]
    dx = torch.ops.mcnn.path_sum(grad, sorted_weight, outputs_by_input, starts_by_input)
    return dx, torch.ops.mcnn.path_dot(x, grad, inputs, outputs, starts)


@torch.library.register_fake("mcnn::path_grads")
def _(x: Tensor, grad: Tensor, weight: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


@torch.library.impl("mcnn::path_rectified", "CompositeExplicitAutograd")
def _rectified(grad: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    if c.serves(y.shape[0], y, grad):
        return c.rectified(grad, y)
    passed = torch.ops.aten.threshold_backward(grad, y, 0)
    return passed, passed.sum(1)


@torch.library.register_fake("mcnn::path_rectified")
def _(grad: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return y.new_empty(y.shape), y.new_empty(y.shape[0])


@cache
def _fused() -> ModuleType | None:
    """Import the kernels for GPUs, which takes a while: only where there is one to run them."""
    try:
        from mcnn.sparse.backends import triton
    except ImportError:
        warnings.warn(
            "Triton is missing: layers of paths on the GPU go through PyTorch's operators, which "
            "is slower; install triton",
            stacklevel=2,
        )
        return None
    return triton


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
    return "c" if kind == "cpu" and c.available() else "torch"


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


@cache
def silence_sparse_warning() -> None:
    """Let PyTorch say once, unheard, that its sparse matrices are new; the tests check them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.eye(1).to_sparse_csr()
