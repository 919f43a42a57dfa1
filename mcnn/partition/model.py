r"""Partitions in a whole network: in place of its dropout, and for a mean over masks at a test.

A network that was trained with masks is many networks, one for each mask.
At a test a single pass without masks stands for all of them.
Their own answers can be had as well: the outputs of a cycle are those of P networks, in which each
unit is left out exactly once, and how much they differ says how sure the network is.

Source: slide "Partition instead of Dropout" for the layer; the mean over masks at a test is that of
Y. Gal and Z. Ghahramani, Dropout as a Bayesian approximation, ICML 2016, with other masks.
"""

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from mcnn.errors import unknown
from mcnn.modelwise import deepcopied, exchanged
from mcnn.partition.hashed import HashedPartition
from mcnn.partition.layer import DropoutPartition
from mcnn.partition.parts import MAX_PARTS
from mcnn.sampling import as_seed

_MASKS = ("shared", "own")
_CHANNELS = nn.Dropout1d | nn.Dropout2d | nn.Dropout3d


@torch.inference_mode(False)  # else the result could never be trained
def replace_dropout(
    model: nn.Module,
    parts: int | None = None,
    *,
    seed: int | torch.Generator | None = None,
    masks: str = "shared",
    nearest: bool = False,
    **options: Any,
) -> nn.Module:
    """Return a copy of a network with partitions in place of its dropout layers.

    Parameters
    ----------
    model
        With :class:`torch.nn.Dropout`, ``Dropout1d``, ``Dropout2d`` or ``Dropout3d`` layers; one
        that stands at several places stays one layer, and one of rate 0 stays as it is.
    parts
        P; by default 1/p for each layer's own rate p.
    seed
        Of the first layer, an integer or a generator, which is advanced by one draw; every other
        layer has the next. By default each has its own from PyTorch's generator.
    masks
        ``"shared"``: a :class:`mcnn.partition.DropoutPartition`, one mask for a batch, whose number
        of units must not change.
        ``"own"``: a :class:`mcnn.partition.hashed.HashedPartition`, a mask for each example, also
        for sequences of changing length.
    nearest
        Whether a rate that is not 1/P becomes the nearest that is, with a warning that says so; by
        default it is refused.
    options
        Passed on to the layer.

    Returns
    -------
    nn.Module
        Its weights are copies, too.

    Raises
    ------
    ValueError
        If there is no such layer, or ``parts`` is not given and a rate is not near 1/P.

    Warns
    -----
    UserWarning
        Of modules that drop by themselves, as attention and recurrent layers do with their own
        ``dropout``, and still will; and of rates that were rounded.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(1 / 3), nn.Linear(8, 2))
    >>> replace_dropout(model)[2].parts
    3
    """
    if masks not in _MASKS:
        raise unknown("masks", masks, _MASKS)
    rounded: dict[str, str] = {}
    count = 0
    first = None if seed is None else as_seed(seed)

    def new(name: str, layer: nn.Module) -> nn.Module | None:
        nonlocal count
        if not isinstance(layer, nn.Dropout | _CHANNELS) or (not layer.p and parts is None):
            return None
        chosen = _parts(name, layer.p, nearest, rounded) if parts is None else parts
        own = None if first is None else first + count
        count += 1
        if masks == "own":
            if isinstance(layer, _CHANNELS):
                raise ValueError(f"layer {name!r} drops channels: take masks='shared' for it")
            return HashedPartition(chosen, seed=own, **options).train(layer.training)
        channels = {"channels": isinstance(layer, _CHANNELS)}
        made = DropoutPartition(chosen, **channels | options, seed=own)
        return made.train(layer.training)

    model = exchanged(deepcopied(model), new)
    if not count and any(isinstance(m, nn.Dropout | _CHANNELS) for m in model.modules()):
        raise ValueError("all dropout rates are 0.0, which is not near 1/P: give the parts")
    if not count:
        raise ValueError(
            "the model has no Dropout layer to replace: put DropoutPartition(parts, seed=...) "
            "into it where units should be dropped"
        )
    still = [name or type(m).__name__ for name, m in model.named_modules() if _drops(m)]
    if still:
        listed = ", ".join(still)
        warnings.warn(f"still drop units by themselves, as before: {listed}", stacklevel=2)
    if rounded:
        listed = ", ".join(f"{name}: {change}" for name, change in rounded.items())
        warnings.warn(f"rates of dropout were rounded to 1/P: {listed}", stacklevel=2)
    return model


def _parts(name: str, rate: float, nearest: bool, rounded: dict[str, str]) -> int:
    """Return P for a rate near 1/P, or the nearest, which is then noted."""
    parts = min(max(2, round(1 / rate)), MAX_PARTS)
    if abs(rate - 1 / parts) > 0.01:
        if rate > 2 / 3 or not nearest:
            raise ValueError(
                f"layer {name!r}: a dropout rate of {rate} is not near 1/P: give the parts, or "
                f"nearest=True for rates that may be rounded, here to 1/{parts}"
            )
        rounded[name] = f"{rate:g} to 1/{parts}"
    return parts


def _drops(module: nn.Module) -> bool:
    """Whether a module of another kind drops units when it is trained."""
    others = (nn.AlphaDropout, nn.FeatureAlphaDropout)
    own = (nn.MultiheadAttention, nn.RNNBase)
    return (isinstance(module, others) and module.p > 0) or (
        isinstance(module, own) and module.dropout > 0
    )


@torch.no_grad()
def cycle_outputs(model: nn.Module, x: Tensor) -> Tensor:
    """Return what a network answers with each mask of a cycle, and leave its state as it was.

    All modules but the partitions are in evaluation mode.
    The cycle is the first one of the layers' seeds, so that the answer is always the same; with
    ``redraw="never"`` that is the partition of the training.

    Parameters
    ----------
    model
        With :class:`mcnn.partition.DropoutPartition` layers.
    x
        Its input, [b, ...].

    Returns
    -------
    Tensor
        [P, b, ...]: the output for each mask; for layers with different P as many as it takes
        until all their cycles are complete.

    Raises
    ------
    ValueError
        If the model has no partition.

    Examples
    --------
    >>> model = nn.Sequential(DropoutPartition(4), nn.Linear(8, 2)).eval()
    >>> x = torch.ones(5, 8)
    >>> each = cycle_outputs(model, x)
    >>> each.shape, torch.allclose(each.mean(0), model(x))
    (torch.Size([4, 5, 2]), True)
    """
    layers = [m for m in model.modules() if isinstance(m, DropoutPartition)]
    if not layers:
        raise ValueError("the model has no DropoutPartition: there is no cycle to go through")
    modes = {module: module.training for module in model.modules()}
    states = [layer.get_extra_state() for layer in layers]
    try:
        model.eval()
        for layer in layers:
            layer.train()
            layer.set_extra_state(torch.tensor([0, 0, 0, 0, layer.parts, layer.seed]))
        return torch.stack([model(x) for _ in range(math.lcm(*(m.parts for m in layers)))])
    finally:
        for layer, state in zip(layers, states, strict=True):
            layer.set_extra_state(state)
        for module, mode in modes.items():
            module.training = mode
