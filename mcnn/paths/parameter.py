"""Other numbers for a parameter, of another length if need be: whoever holds it goes on holding it.

A layer that changes its edges could make a new parameter.
An optimiser that was built before would then train the old one, which nothing reads any more, and
nothing would say so; a frozen layer would thaw, and hooks would stay behind.
So the parameter stays, and what belongs to single edges follows them: gradients, and what
optimisers remember.
"""

import gc
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mcnn.errors import UsageError


@torch.no_grad()
def exchange(
    weight: nn.Parameter,
    values: Tensor,
    source: Tensor | None = None,
    optimizers: Sequence[Optimizer] | None = None,
) -> None:
    """Give a parameter other numbers in place.

    Parameters
    ----------
    weight
        [edges, ...].
    values
        [edges', ...], the type and device of ``weight``.
    source
        int64 [edges'], which of the old edges each one is, or -1 for a new one, whose gradient and
        state begin with zeros.
        None if they have nothing to do with each other: then there is no gradient, and optimisers
        forget what they remember.
    optimizers
        Those that may remember something; by default those of :func:`living_optimizers`.

    Raises
    ------
    UsageError
        If an optimiser remembers something that is not of single edges, or if the length changes
        while ``DistributedDataParallel`` waits for gradients of the old one; nothing is changed.
    """
    fitting = weight.shape == values.shape
    if not fitting and torch.distributed.is_available() and torch.distributed.is_initialized():
        _refuse_held(weight)
    living = living_optimizers() if optimizers is None else optimizers
    remembering = [o.state for o in living if weight in getattr(o, "state", ())]
    states = [(state, _followed(state[weight], weight, source)) for state in remembering]
    grad = None
    if source is not None and weight.grad is not None:
        grad = _rows(weight.grad, source)
    weight.grad = None
    if not fitting:
        other = torch.float32 if weight.dtype == torch.float64 else torch.float64
        # Autograd checks gradients against a length that it forgets with a change of type only.
        weight.data = values.to(other)
        weight.data = torch.empty_like(values)
    weight.copy_(values)  # in place: a backward pass through the old numbers is an error
    weight.grad = grad
    for state, followed in states:
        if followed is None:
            del state[weight]
        else:
            state[weight] = followed


def living_optimizers() -> list[Optimizer]:
    """Return all optimisers there are.

    Nobody lists them, so they are looked for among all objects of the process, which is slow, and
    done only when paths change.
    """
    return [o for o in gc.get_objects() if issubclass(type(o), Optimizer)]


def _followed(
    state: dict[str, object], weight: Tensor, source: Tensor | None
) -> dict[str, object] | None:
    """Return what an optimiser remembers, edge by edge, for the new edges."""
    if source is None or not state:
        return None
    followed = {}
    for name, value in state.items():
        tensor = isinstance(value, Tensor) and value.dim() > 0
        if tensor and len(value) == len(weight):
            followed[name] = _rows(value, source)
        elif tensor or isinstance(value, list | tuple | dict):
            raise UsageError(
                f"an optimiser remembers {name!r}, which does not belong to single edges: "
                "delete it before the paths change, and make another one after"
            )
        else:
            followed[name] = value
    return followed


def _rows(values: Tensor, source: Tensor) -> Tensor:
    """Return the rows of the old edges, zeros for new ones."""
    source = source.to(values.device)
    taken = values[source.clamp(min=0)]
    return taken.masked_fill_((source < 0).view(-1, *[1] * (values.dim() - 1)), 0)


def _refuse_held(weight: nn.Parameter) -> None:
    """Raise if something, such as ``DistributedDataParallel``, holds autograd's accumulator."""
    if not weight.requires_grad:
        return

    def marks() -> dict[str, object]:
        with torch.enable_grad():
            return weight.view_as(weight).grad_fn.next_functions[0][0].metadata

    marks()["mcnn"] = True  # lasts as long as somebody holds the accumulator
    if marks().pop("mcnn", False):
        raise UsageError(
            "the number of edges changes while something waits for gradients of the old ones: "
            "change paths before the network is wrapped in DistributedDataParallel, wrap it "
            "anew after, and delete losses that were computed before"
        )
