r"""Inputs to calibrate with, and what of a network is measured on them anew.

A network whose weights were sampled has other activations than the one that was trained.
Some of what was lost comes back without training, by measuring on a few inputs:

- the means and variances of batch normalisation, :func:`reestimate_batch_norm`;
- the mean of a layer's outputs, which its bias can hold, :func:`correct_bias`. For the first layer
  this is a control variate: the correction
  :math:`\sum_j(w_j-\hat w_j)\,\mathbb{E}[a_j]` has mean zero where :math:`\hat w` is unbiased, and
  takes away the part of the error that is common to all inputs.

Models are run in eval mode, as they are used; their mode is put back.
A model is never changed but for what is said here.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mcnn.checks import as_count
from mcnn.modelwise import KINDS, Batches, Layer, observing, run_batches

Call = Callable[[nn.Module], Any]
"""Runs a model on one batch and returns what it returns."""


def batches(data: Batches, batch_size: int = 250) -> list[Call]:
    """Return how to run a model on each batch of calibration data.

    Parameters
    ----------
    data
        As in :func:`mcnn.modelwise.run_batches`: a tensor, a tuple or dict of them, or batches of
        these, such as a ``DataLoader``.
    batch_size
        Of a tensor that is cut.

    Raises
    ------
    TypeError, ValueError
        For what is none of these, has no inputs, or holds NaN or infinity.

    Examples
    --------
    >>> import torch
    >>> calls = batches(torch.ones(300, 2))
    >>> [len(call(nn.Linear(2, 1))) for call in calls]
    [250, 50]
    """
    if isinstance(data, Tensor):
        parts = [part for part in data.split(as_count("batch_size", batch_size)) if len(part)]
    elif isinstance(data, Mapping | tuple):
        parts = [data] if len(data) else []
    else:
        try:
            with torch.random.fork_rng(devices=[]):  # a DataLoader draws a seed of it
                parts = list(data)
        except TypeError:
            raise TypeError(
                "calibrate must be a tensor, a dict, a tuple or batches of them such as a "
                f"DataLoader, got {type(data).__name__}"
            ) from None
    if not parts:
        raise ValueError("calibrate has no inputs: give some hundred of what the model will see")
    for part in parts:
        _check_finite(part)
    return [_call(part) for part in parts]


def _check_finite(batch: Any) -> None:
    if isinstance(batch, Tensor):
        if batch.is_floating_point() and not torch.isfinite(batch).all():
            raise ValueError("calibrate holds NaN or infinity: means over it would, too")
    elif isinstance(batch, Mapping):
        _check_finite(tuple(batch.values()))
    elif isinstance(batch, tuple | list):
        for part in batch:
            _check_finite(part)


def _call(batch: Any) -> Call:
    def call(model: nn.Module) -> Any:
        out: list[Any] = []
        handle = model.register_forward_hook(lambda module, args, result: out.append(result))
        try:
            run_batches(model, [batch])
        finally:
            handle.remove()
        return out[-1]

    return call


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Look at several models at once, see :func:`mcnn.modelwise.observing`."""
    with ExitStack() as stack:
        for model in models:
            stack.enter_context(observing(model))
        yield


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

    Raises
    ------
    ValueError
        If a batch has one value only for a channel, or what is measured is not finite.

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
        except ValueError as error:
            if "more than 1 value per channel" in str(error):  # of PyTorch
                raise ValueError(
                    "calibrate has a batch of a single example, which has no variance for batch "
                    "normalisation: give larger batches, DataLoader(..., drop_last=True)"
                ) from error
            raise
        finally:
            for layer, momentum in zip(layers, momenta, strict=True):
                layer.momentum = momentum
    for layer in layers:
        if not torch.isfinite(torch.stack([layer.running_mean, layer.running_var])).all():
            raise ValueError(
                "batch normalisation measures NaN or infinity on the inputs of calibrate: are they "
                "scaled as those that the model was trained on?"
            )
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
    full: nn.Module, model: nn.Module, pair: tuple[Layer, Layer], calls: Sequence[Call]
) -> bool:
    """Let the bias of a layer hold the mean difference of its outputs from the full network's.

    Parameters
    ----------
    full, model
        The network as it was, and the one whose layer has been changed.
    pair
        The layer in each of them.
    calls
        From :func:`batches`.

    Returns
    -------
    bool
        Whether it was: only linear and convolutional layers with a bias are, which the model calls
        and which share their weight with no other.
    """
    layer = pair[1]
    if not isinstance(layer.module, KINDS) or layer.bias is None or layer.shared:
        return False
    total, number = 0.0, 0
    with evaluating(full, model):
        for call in calls:
            outs = (seen(full, pair[0].module, call, True), seen(model, layer.module, call, True))
            for wanted, got in zip(*outs, strict=True):
                difference = (wanted - got).double()
                if not isinstance(layer.module, nn.Linear):  # [b, c, ...] -> [b, ..., c]
                    difference = difference.movedim(1, -1)
                difference = difference.reshape(-1, difference.shape[-1])
                total = total + difference.sum(0)
                number += len(difference)
        if number:
            if not torch.isfinite(total).all():
                raise ValueError(
                    f"layer {layer.name!r} gives NaN or infinity on the inputs of calibrate: are "
                    "they scaled as those that the model was trained on?"
                )
            layer.bias.add_((total / number).to(layer.bias.dtype))
    return number > 0
