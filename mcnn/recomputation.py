"""What a layer that takes turns does when activation checkpointing runs it again.

``torch.utils.checkpoint`` keeps no activations but computes them once more in the backward pass.
A layer whose calls differ, such as a partition, must then do what it did the first time, and must
not count the second run as another step.
So what it did is noted with the segment that is checkpointed, call by call, and goes away with it;
the second run looks it up.

Segments are found on Python's stack, where PyTorch's own functions hold them.
Other implementations of checkpointing, versions of PyTorch that do it in another way, and graphs
whose compiler recomputes, are noticed, since a layer is then called in a backward pass without a
segment: that is an error.
"""

import inspect
import sys
from collections.abc import Callable
from types import CodeType, FrameType

import torch
from torch import Tensor
from torch.utils import checkpoint

from mcnn.errors import UsageError


def repeated(layer: torch.nn.Module, state: Tensor) -> Tensor | None:
    """Return the state that a layer is to begin with if it repeats a call, else None.

    Parameters
    ----------
    layer
        That is called.
    state
        What it begins with otherwise; a copy is noted if the call may be repeated.

    Returns
    -------
    Tensor or None
        A copy, for the call to change.

    Raises
    ------
    UsageError
        In a backward pass that is no recomputation of PyTorch's, or one of something else than what
        was computed.
    """
    if torch.compiler.is_compiling():  # the operators of a compiled graph refuse by themselves
        return None
    first, again = _segments(sys._getframe(1))
    if again is None:
        refuse_in_backward(type(layer).__name__)
        before = state.clone() if first else None
    else:
        before = _next(layer, again, torch._C._current_graph_task_id())
    for segment in first:
        _notes(segment, layer)[0].append(before)
    return None if again is None else before.clone()


def refuse_in_backward(name: str) -> None:
    """Raise if a layer takes a turn in a backward pass, which would be another one."""
    if torch._C._current_graph_task_id() != -1:
        raise UsageError(
            f"{name} is called in a backward pass, and which step that repeats cannot be told: "
            "checkpoint with torch.utils.checkpoint.checkpoint and do not compile that, or keep "
            "the layer out of checkpointed segments"
        )


def _next(layer: torch.nn.Module, segment: object, task: int) -> Tensor:
    states, done = _notes(segment, layer)
    number = done.get(task, 0)  # of the call, in this run
    if number >= len(states):
        raise UsageError(
            f"{type(layer).__name__} is called more often in the recomputation of a checkpointed "
            f"segment than in its first pass, which called it {len(states)} times"
        )
    done[task] = number + 1
    return states[number]


def _notes(segment: object, layer: torch.nn.Module) -> tuple[list[Tensor], dict[int, int]]:
    """Return the states of a layer in a segment, and how many each backward pass has repeated."""
    notes = segment.__dict__.setdefault("_mcnn_states", {})
    return notes.setdefault(id(layer), ([], {}))


def _segments(frame: FrameType | None) -> tuple[list[object], object | None]:
    """Return the segments that run for the first time, and the one that is recomputed, if any.

    Beyond a recomputation nothing runs for the first time: it is the backward pass.
    """
    first = []
    while frame is not None:
        find = _FIRST.get(id(frame.f_code))
        if find is not None and (segment := find(frame)) is not None:
            first.append(segment)
        find = _AGAIN.get(id(frame.f_code))
        if find is not None and (segment := find(frame)) is not None:
            return first, segment
        frame = frame.f_back
    return first, None


def _of_context(frame: FrameType) -> object | None:
    return frame.f_locals.get("ctx")


def _of_generator(frame: FrameType) -> object | None:
    suspended = getattr(frame.f_locals.get("gen"), "gi_frame", None)
    return None if suspended is None else suspended.f_locals.get("new_frame")


def _of_hook(frame: FrameType) -> object | None:
    return frame.f_locals.get("frame")


def _inner(function: Callable, name: str) -> CodeType:
    """Return the code of a function that is defined inside of another."""
    codes = (c for c in function.__code__.co_consts if isinstance(c, CodeType))
    return next((c for c in codes if c.co_name == name), function.__code__)


# The functions of PyTorch's checkpointing that call layers, and where they hold the segment.
_FIRST = {
    id(checkpoint.CheckpointFunction.forward.__code__): _of_context,
    id(inspect.unwrap(checkpoint.checkpoint).__code__): _of_generator,
}
_AGAIN = {
    id(checkpoint.CheckpointFunction.backward.__code__): _of_context,
    id(_inner(checkpoint._checkpoint_hook.__init__, "unpack_hook")): _of_hook,
}
