r"""Partitions in a whole network: in place of its dropout, and for a mean over masks at a test.

A network that was trained with masks is many networks, one for each mask.
At a test a single pass without masks stands for all of them.
Their own answers can be had as well: the outputs of a cycle are those of P networks, in which each
unit is left out exactly once, and how much they differ says how sure the network is.

Source: slide "Partition instead of Dropout" for the layer; the mean over masks at a test is that of
Y. Gal and Z. Ghahramani, Dropout as a Bayesian approximation, ICML 2016, with other masks.
"""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from mcnn.partition.layer import DropoutPartition

_CHANNELS = nn.Dropout1d | nn.Dropout2d | nn.Dropout3d


def replace_dropout(
    model: nn.Module, parts: int | None = None, *, seed: int = 0, **options: Any
) -> nn.Module:
    """Return a copy of a network with partitions in place of its dropout layers.

    Parameters
    ----------
    model
        With :class:`torch.nn.Dropout`, ``Dropout1d``, ``Dropout2d`` or ``Dropout3d`` layers, each
        used in one place.
    parts
        P; by default 1/p for each layer's own rate p.
    seed
        Of the first layer; every other has the next.
    options
        Passed on to :class:`mcnn.partition.DropoutPartition`.

    Returns
    -------
    nn.Module
        Its weights are copies, too.

    Raises
    ------
    ValueError
        If there is no such layer, or ``parts`` is not given and a rate is not near 1/P.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(1 / 3), nn.Linear(8, 2))
    >>> replace_dropout(model)[2].parts
    3
    """
    if isinstance(model, nn.Dropout | _CHANNELS):
        return _instead(model, parts, seed, options)
    model = copy.deepcopy(model)
    replaced = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Dropout | _CHANNELS)
    ]
    if not replaced:
        raise ValueError(
            "the model has no Dropout layer to replace: put DropoutPartition(parts, seed=...) "
            "into it where units should be dropped"
        )
    new: dict[nn.Module, DropoutPartition] = {}  # a layer that has two names stays one layer
    for parent, name, child in replaced:
        if child not in new:
            new[child] = _instead(child, parts, seed + len(new), options)
        setattr(parent, name, new[child])
    return model


def _instead(
    layer: nn.Module, parts: int | None, seed: int, options: dict[str, Any]
) -> DropoutPartition:
    if parts is None:
        parts = round(1 / layer.p) if layer.p else 0
        if parts < 2 or abs(layer.p - 1 / parts) > 0.01:
            raise ValueError(f"a dropout rate of {layer.p} is not near 1/P: give the parts")
    channels = isinstance(layer, _CHANNELS)
    new = DropoutPartition(parts, **{"channels": channels} | options, seed=seed)
    return new.train(layer.training)


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
