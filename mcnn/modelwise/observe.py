"""Running a model to look at what passes through it, and leaving the model as it was."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mcnn.checks import as_count

Batches = Tensor | Mapping[str, Any] | tuple[Any, ...] | Iterable[Any]
Call = Callable[[nn.Module, Any], Any]


@contextmanager
def observing(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode for a look at its activations, and put all back.

    Batch statistics, partitions and other state of training stay as they are, and so do the random
    generators of PyTorch.
    Encoder layers go through their modules one by one: their fast path for inference would pass
    hooks by.

    Parameters
    ----------
    model
        Any module.
    """
    modes = {module: module.training for module in model.modules()}
    fast = torch.backends.mha.get_fastpath_enabled()
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    try:
        model.eval()
        torch.backends.mha.set_fastpath_enabled(False)
        with torch.random.fork_rng(devices=list(devices)), torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module, mode in modes.items():
            module.training = mode


def run_batches(
    model: nn.Module, inputs: Batches, batch_size: int = 250, call: Call | None = None
) -> int:
    """Call a model on all inputs and return the number of calls.

    Parameters
    ----------
    model
        Called as it is; see :func:`observing`.
    inputs
        A tensor [m, ...]: m inputs, taken ``batch_size`` at a time.
        A dictionary: a batch, passed by name.
        A tuple: a batch, passed by position; if the model takes one input, what follows it is taken
        for a label and left out.
        A list, ``DataLoader`` or any other iterable: of batches, each a tensor, a dictionary, or a
        tuple or list as above.
    batch_size
        Of a tensor.
    call
        What to do with the model and a batch instead, such as
        ``lambda model, batch: model.encode(batch[0])``.

    Raises
    ------
    ValueError
        If there are no inputs.
    TypeError
        If it is not clear which members of a tuple are inputs of the model.

    Notes
    -----
    Tensors are moved to the device of the model's parameters.
    """
    device = next((p.device for p in model.parameters()), None)
    calls = 0
    for batch in _batches(inputs, batch_size):
        moved = _moved(batch, device)
        if call is not None:
            call(model, moved)
        elif isinstance(moved, Mapping):
            model(**moved)
        elif isinstance(moved, (tuple, list)):
            model(*_arguments(model, moved))
        elif isinstance(moved, np.ndarray | np.generic | int | float | str | bytes):
            kind = type(moved).__name__
            raise TypeError(
                f"a batch must be a tensor, or hold some, got {kind}: give torch.as_tensor(...), "
                "or a function of model and batch as call"
            )
        else:
            model(moved)
        calls += 1
    if not calls:
        raise ValueError("inputs is empty: give some inputs of the model to calibrate with")
    return calls


def _batches(inputs: Batches, batch_size: int) -> Iterable[Any]:
    if isinstance(inputs, Tensor):
        return inputs.split(as_count("batch_size", batch_size)) if len(inputs) else ()
    if isinstance(inputs, (Mapping, tuple)):
        return (inputs,) if len(inputs) else ()
    if not isinstance(inputs, Iterable):
        kind = type(inputs).__name__
        raise TypeError(f"inputs must be a tensor, a dict, a tuple or batches of them, got {kind}")
    return inputs


def _arguments(model: nn.Module, batch: tuple[Any, ...] | list[Any]) -> list[Any]:
    """Return the members of a batch that the model takes."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    takes = [p for p in inspect.signature(model.forward).parameters.values() if p.kind in kinds]
    needs = sum(p.default is p.empty for p in takes)
    if len(batch) == 1 or len(batch) == needs:
        return list(batch)
    if len(takes) == 1:
        return list(batch[:1])  # an input and its label
    names = ", ".join(p.name for p in takes)
    raise TypeError(
        f"a batch has {len(batch)} members, and the model takes {names}: give dictionaries, which "
        "say what is what, or a function of model and batch as call"
    )


def _moved(batch: Any, device: torch.device | None) -> Any:
    if isinstance(batch, Tensor):
        return batch if device is None else batch.to(device)
    if isinstance(batch, Mapping):
        return {key: _moved(value, device) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)) and not hasattr(batch, "_fields"):
        return type(batch)(_moved(value, device) for value in batch)
    return batch
