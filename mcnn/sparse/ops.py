"""The sums over edges as operators: each goes to the fastest backend that the machine has.

==========================  =====================================================================
``mcnn::path_sum``          weighted rows, added up for each output; also back to the inputs
``mcnn::path_dot``          the inner product of two rows, for each edge
``mcnn::path_grads``        both gradients of a layer in one pass
``mcnn::path_blocks``       as ``path_sum``, for a layer that falls into complete blocks
``mcnn::path_block_grads``  both of its gradients
``mcnn::path_rectified``    back through a rectifier
==========================  =====================================================================

On a CPU with a C compiler these are the loops of :mod:`mcnn.sparse.backends.c`, for layers of some
size; on a GPU with Triton the kernels of :mod:`mcnn.sparse.backends.triton`; else PyTorch's own
operators, :mod:`mcnn.sparse.backends.torch`.
Results [units, batch] lie in memory as the batch does that they are made of: unit by unit, or
example by example, which only the loops in C take as it is.
All are opaque custom ops for ``torch.compile``, with the shapes of their results registered.
"""

import warnings
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from mcnn.sparse.backends import c
from mcnn.sparse.backends import torch as torch_backend
from mcnn.sparse.structure import empty_as, is_batch_first, laid_as

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
_BLOCKS = "Tensor inputs, Tensor input_places, Tensor outputs, Tensor output_places"
torch.library.define(
    "mcnn::path_blocks",
    f"(Tensor x, Tensor weight, {_BLOCKS}, Tensor? bias=None, bool relu=False) -> Tensor",
)
torch.library.define(
    "mcnn::path_block_grads",
    f"(Tensor x, Tensor grad, Tensor weight, {_BLOCKS}) -> (Tensor, Tensor)",
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
    if c.supports(index.shape[0], x, weight):
        return c.sum_rows(x, weight, index, starts, bias, relu)
    if x.is_cuda and _triton() is not None:
        y = _triton().sum_rows(x, weight, index, starts, bias, relu)
    else:
        y = torch_backend.epilogue(torch_backend.sum_rows(x, weight, index, starts), bias, relu)
    return laid_as(x, y)


@torch.library.register_fake("mcnn::path_sum")
def _(x: Tensor, weight: Tensor, index: Tensor, starts: Tensor, *_: Tensor | bool | None) -> Tensor:
    return empty_as(x, starts.shape[0] - 1)


@torch.library.impl("mcnn::path_dot", "CompositeExplicitAutograd")
def _dot(x: Tensor, grad: Tensor, inputs: Tensor, outputs: Tensor, starts: Tensor) -> Tensor:
    if c.supports(inputs.shape[0], x, grad):
        return c.dot_rows(x, grad, inputs, starts)
    if x.is_cuda and _triton() is not None:
        return _triton().dot_rows(x, grad, inputs, outputs)
    return torch_backend.dot_rows(x, grad, inputs, outputs, starts)


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
    if edges <= c.SCATTERED and c.supports(edges, x, weight):
        return c.gradients(x, grad, weight, order, outputs_by_input, starts_by_input)
    sorted_weight, grad = weight.index_select(0, order), laid_as(x, grad)  # [edges]
    dx = torch.ops.mcnn.path_sum(grad, sorted_weight, outputs_by_input, starts_by_input)
    return dx, torch.ops.mcnn.path_dot(x, grad, inputs, outputs, starts)


@torch.library.register_fake("mcnn::path_grads")
def _(x: Tensor, grad: Tensor, weight: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
    return empty_as(x, x.shape[0]), weight.new_empty(weight.shape)


@torch.library.impl("mcnn::path_blocks", "CompositeExplicitAutograd")
def _blocks(
    x: Tensor,
    weight: Tensor,
    inputs: Tensor,
    input_places: Tensor,
    outputs: Tensor,
    output_places: Tensor,
    bias: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    if c.supports(weight.shape[0], x, weight):
        places = (inputs, input_places, outputs, output_places)
        return c.sum_blocks(x, weight, *places, bias, relu)
    y = torch_backend.sum_blocks(x, weight, inputs, outputs, output_places)
    return laid_as(x, torch_backend.epilogue(y, bias, relu))


@torch.library.register_fake("mcnn::path_blocks")
def _(
    x: Tensor,
    weight: Tensor,
    inputs: Tensor,
    input_places: Tensor,
    outputs: Tensor,
    *_: Tensor | bool | None,
) -> Tensor:
    return empty_as(x, outputs.shape[0])


@torch.library.impl("mcnn::path_block_grads", "CompositeExplicitAutograd")
def _block_grads(
    x: Tensor,
    grad: Tensor,
    weight: Tensor,
    inputs: Tensor,
    input_places: Tensor,
    outputs: Tensor,
    output_places: Tensor,
) -> tuple[Tensor, Tensor]:
    places = (inputs, input_places, outputs, output_places)
    if c.supports(weight.shape[0], x, weight):
        return c.block_gradients(x, grad, weight, *places)
    dx, dw = torch_backend.block_gradients(x, grad, weight, *places)
    return laid_as(x, dx), dw


@torch.library.register_fake("mcnn::path_block_grads")
def _(x: Tensor, grad: Tensor, weight: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
    return empty_as(x, x.shape[0]), weight.new_empty(weight.shape)


@torch.library.impl("mcnn::path_rectified", "CompositeExplicitAutograd")
def _rectified(grad: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    if c.supports(y.shape[0], y, grad) and not is_batch_first(y):
        return c.rectified(grad, y)
    passed, sums = torch_backend.rectified(grad, y)
    return laid_as(y, passed), sums


@torch.library.register_fake("mcnn::path_rectified")
def _(grad: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return empty_as(y, y.shape[0]), y.new_empty(y.shape[0])


@cache
def _triton() -> ModuleType | None:
    """Import the kernels for GPUs, which takes a while: only where there is one to run them."""
    try:
        from mcnn.sparse.backends import triton
    except ImportError:
        warnings.warn(
            "Triton is missing: sparse layers on the GPU go through PyTorch's operators, which is "
            "slower; install triton",
            stacklevel=2,
        )
        return None
    return triton


def backend(device: torch.device | str) -> str:
    """Return what multiplies sparse layers of some size on a device.

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
    if kind == "cuda" and _triton() is not None:
        return "triton"
    return "c" if kind == "cpu" and c.available() else "torch"
