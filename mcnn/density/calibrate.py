r"""Inputs to calibrate with, and what of a network is measured on them anew.

A network whose weights were sampled has other activations than the one that was trained.
Some of what was lost comes back without training, by measuring on a few inputs:

- the means and variances of batch normalisation, :func:`reestimate_batch_norm`;
- the mean of a layer's outputs, which its bias can hold, :func:`correct_bias`. For the first layer
  this is a control variate: the correction
  :math:`\sum_j(w_j-\hat w_j)\,\mathbb{E}[a_j]` has mean zero where :math:`\hat w` is unbiased, and
  takes away the part of the error that is common to all inputs.

Models are run in eval mode, as they are used; their mode is put back.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Calibration = Tensor | tuple | Mapping[str, Any] | Iterable[Any]
Call = Callable[[nn.Module], Any]
"""Runs a model on one batch."""


def batches(data: Calibration, batch_size: int = 250) -> list[Call]:
    """Return how to run a model on each batch of calibration data.

    Parameters
    ----------
    data
        A tensor [m, ...]: inputs of the model, cut into batches. A tuple of tensors [m, ...]: its
        positional inputs. A dict of tensors: its keyword inputs. Anything else that can be gone
        through, such as a ``DataLoader``: batches, of which each is a tensor, a dict of keyword
        inputs, or a tuple or list whose first item is the input, as of images and labels.
    batch_size
        Of tensors that are cut.

    Raises
    ------
    TypeError
        For anything else.
    ValueError
        If there is no input.

    Examples
    --------
    >>> calls = batches(torch.ones(300, 2))
    >>> [len(call(nn.Linear(2, 1))) for call in calls]
    [250, 50]
    """
    if isinstance(data, Tensor):
        calls = [_call(part) for part in data.split(batch_size) if len(part)]
    elif isinstance(data, tuple):
        parts = [x.split(batch_size) if isinstance(x, Tensor) else None for x in data]
        if not parts or any(part is None for part in parts):
            raise TypeError("calibrate: a tuple must be of tensors, the model's positional inputs")
        calls = [_call(*batch) for batch in zip(*parts, strict=True) if len(batch[0])]
    elif isinstance(data, Mapping):
        calls = [_call(**part) for part in _cut(data, batch_size)]
    elif isinstance(data, Iterable) and not isinstance(data, str | bytes):
        calls = [_of_batch(batch) for batch in data]
    else:
        raise TypeError(
            "calibrate must be a tensor, a tuple or dict of tensors, or batches of these such as a "
            f"DataLoader, got {type(data).__name__}"
        )
    if not calls:
        raise ValueError("calibrate has no inputs: give some hundred of what the model will see")
    return calls


def _call(*args: Any, **kwargs: Any) -> Call:
    def call(model: nn.Module) -> Any:
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        move = lambda x: x.to(device) if isinstance(x, Tensor) else x  # noqa: E731
        return model(*map(move, args), **{name: move(x) for name, x in kwargs.items()})

    return call


def _of_batch(batch: Any) -> Call:
    if isinstance(batch, Tensor):
        return _call(batch)
    if isinstance(batch, Mapping):
        return _call(**batch)
    if isinstance(batch, Sequence) and len(batch) and isinstance(batch[0], Tensor):
        return _call(batch[0])
    raise TypeError(
        "calibrate: a batch must be a tensor, a dict of keyword inputs, or a tuple that starts "
        f"with the input, got {type(batch).__name__}"
    )


def _cut(data: Mapping[str, Any], batch_size: int) -> Iterator[dict[str, Any]]:
    """Yield parts of all tensors of a dict; what is no tensor goes with each."""
    lengths = {len(x) for x in data.values() if isinstance(x, Tensor)}
    if len(lengths) != 1:
        raise ValueError(f"calibrate: tensors of a dict must be of one length, got {lengths}")
    for start in range(0, lengths.pop(), batch_size):
        stop = start + batch_size
        yield {k: x[start:stop] if isinstance(x, Tensor) else x for k, x in data.items()}


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Run models in eval mode, without gradients and with every hook; put their modes back.

    Without PyTorch's fast path for transformers, which passes hooks by.
    """
    modes = [(module, module.training) for model in models for module in model.modules()]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        for model in models:
            model.eval()
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module, training in modes:
            module.training = training


def reestimate_batch_norm(model: nn.Module, calls: Sequence[Call]) -> int:
    """Measure means and variances of batch normalisation again, in place.

    Parameters
    ----------
    model
        Whatever has no running statistics is left as it is; nothing else is trained or changed.
    calls
        From :func:`batches`; each batch counts the same.

    Returns
    -------
    int
        The number of layers that were measured.

    Notes
    -----
    All of them at once, each with the statistics of the batch where it stands, as in training and
    as ``torch.optim.swa_utils.update_bn`` does it; dropout stays off.
    """
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not layers:
        return 0
    momenta = [layer.momentum for layer in layers]
    with evaluating(model):
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # a plain average over batches
            layer.train()
        try:
            for call in calls:
                call(model)
        finally:
            for layer, momentum in zip(layers, momenta, strict=True):
                layer.momentum = momentum
    return len(layers)


def seen(
    model: nn.Module, layer: nn.Module, call: Call, outputs: bool = False
) -> tuple[Tensor, ...]:
    """Return what comes into a layer, or out of it, when a model runs on one batch.

    Returns
    -------
    tuple of Tensor
        As many as the model uses the layer: one, as a rule.
    """
    found: list[Tensor] = []

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append(args[0] if args else kwargs["input"])

    def after(module: nn.Module, args: Any, out: Tensor) -> None:
        found.append(out)

    handle = (
        layer.register_forward_hook(after)
        if outputs
        else layer.register_forward_pre_hook(before, with_kwargs=True)
    )
    try:
        call(model)
    finally:
        handle.remove()
    return tuple(found)


def correct_bias(
    full: nn.Module, model: nn.Module, pair: tuple[nn.Module, nn.Module], calls: Sequence[Call]
) -> None:
    """Let the bias of a layer hold the mean difference of its outputs from the full network's.

    Parameters
    ----------
    full, model
        The network as it was, and the one whose layer has been changed.
    pair
        The layer in each of them, linear or convolutional, with a bias.
    calls
        From :func:`batches`.
    """
    total, number = 0.0, 0
    with evaluating(full, model):
        for call in calls:
            outs = (seen(full, pair[0], call, True), seen(model, pair[1], call, True))
            for wanted, got in zip(*outs, strict=True):
                difference = (wanted - got).double()
                if not isinstance(pair[1], nn.Linear):  # [b, c, ...] -> [b, ..., c]
                    difference = difference.movedim(1, -1)
                difference = difference.reshape(-1, difference.shape[-1])
                total = total + difference.sum(0)
                number += len(difference)
        if number:
            pair[1].bias.add_((total / number).to(pair[1].bias.dtype))
