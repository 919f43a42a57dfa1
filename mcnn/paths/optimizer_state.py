"""Migrating the state of an optimiser when a network changes its paths.

:func:`mcnn.paths.grow` and :func:`mcnn.paths.regrow` make new parameters, which an optimiser has
never heard of.
Made anew, it would forget the momentum of all edges, also of the many that stay.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim import Optimizer

from mcnn.paths.base import PathLayer
from mcnn.paths.nets import PathMLP


@contextmanager
def migrate_optimizer_state(optimizer: Optimizer, net: PathMLP) -> Iterator[None]:
    """Let an optimiser follow a network whose paths change inside the block.

    Edges that stay keep what the optimiser has stored for them, such as momentum; new edges start
    with zeros, as they would in a new optimiser.

    Parameters
    ----------
    optimizer
        Any of PyTorch's whose state is, for each parameter, numbers and tensors of its shape.
    net
        Trained by it, and without duplicates of edges.

    Raises
    ------
    ValueError
        If a layer keeps an edge for each path, so that edges cannot be told apart, or if the
        optimiser does not train a layer of the network.

    Examples
    --------
    >>> from mcnn.paths import grow
    >>> net = PathMLP([8, 8, 4], paths=16)
    >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    >>> with migrate_optimizer_state(optimizer, net):
    ...     grow(net, 16)
    >>> any(p is net.layers[0].weight for p in optimizer.param_groups[0]["params"])
    True
    """
    if any(layer.duplicates == "keep" for layer in net.layers):
        raise ValueError("edges of one place cannot be told apart: take duplicates='merge'")
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if any(id(layer.weight) not in trained for layer in net.layers):
        raise ValueError("the optimiser does not train all layers of the network")
    before = [(layer.weight, _edge_keys(layer)) for layer in net.layers]
    yield
    for layer, (old, places) in zip(net.layers, before, strict=True):
        if layer.weight is old:
            continue
        for group in optimizer.param_groups:
            group["params"] = [layer.weight if p is old else p for p in group["params"]]
        now = _edge_keys(layer)  # [edges], sorted, as places are
        at = torch.searchsorted(places, now).clamp(max=len(places) - 1)  # [edges]
        # An edge that left and came back in the same change has got another weight.
        stays = (places[at] == now) & (old[at] == layer.weight)  # [edges]
        state = optimizer.state.pop(old, {})
        if state:
            optimizer.state[layer.weight] = {
                name: _migrated(value, old, at, stays) for name, value in state.items()
            }


def _edge_keys(layer: PathLayer) -> Tensor:
    """Return a number for each edge that says where it is, int64 [edges], rising."""
    edges = layer.edges
    return edges.outputs.long() * layer.in_units + edges.inputs


def _migrated(value: object, old: Tensor, at: Tensor, stays: Tensor) -> object:
    if not isinstance(value, Tensor) or value.shape != old.shape:
        return value
    return torch.where(stays.view(-1, *[1] * (value.dim() - 1)), value[at], 0)
