"""Networks of paths that grow, and that exchange paths while they are trained.

The paths of one seed are a sequence, so that the first thousand of ten thousand are the network
that a thousand would have made: networks nest, and one may grow into the next.

Methods that exchange single edges while training, such as SET [1]_ and RigL [2]_, can leave units
without any.
Exchanging whole paths cannot: what is left is still a set of paths.

References
----------
.. [1] D. C. Mocanu et al.: Scalable training of artificial neural networks with adaptive sparse
   connectivity inspired by network science. Nature Communications 9, 2018.
.. [2] U. Evci et al.: Rigging the lottery: making all tickets winners. ICML 2020.
"""

import torch
from torch import Tensor

from mcnn.paths.generators import sample_paths
from mcnn.paths.nets import PathMLP
from mcnn.paths.parameter import living_optimizers
from mcnn.sampling import fold_in


@torch.inference_mode(False)  # else what grows could never be trained
def grow(net: PathMLP, paths: int, scale: float = 1.0) -> None:
    """Add the next paths of the sequence that a network was sampled from.

    Parameters
    ----------
    net
        Grows in place.
        Its weights stay the same parameters: optimisers go on training them, and what they
        remember of edges follows these, see :mod:`mcnn.paths.parameter`.
    paths
        How many to add.
    scale
        Of the initial weights of new edges, relative to those of a new network; with 0 the
        network computes what it did before.

    Raises
    ------
    TypeError
        For anything but a PathMLP.
    ValueError
        If the paths of the network were given and not sampled, or ``paths`` is less than 1.
    UsageError
        If a weight is computed by something else, or an optimiser cannot follow.

    Examples
    --------
    >>> net = PathMLP([8, 8, 4], paths=16, seed=3)
    >>> grow(net, 16)
    >>> bool((net.paths == PathMLP([8, 8, 4], paths=32, seed=3).paths).all())
    True
    """
    _check_network(net)
    old = net.paths
    fresh = _next_paths(net, paths).to(old.device)
    origin = torch.arange(old.shape[1] + paths, device=old.device)
    origin[old.shape[1] :] = -1
    _replace(net, torch.cat([old, fresh], 1), origin, scale)


@torch.inference_mode(False)
def regrow(net: PathMLP, paths: int, scale: float = 1.0) -> Tensor:
    """Exchange the weakest paths for the next ones of the sequence.

    Parameters
    ----------
    net
        Changes in place, as in :func:`grow`.
    paths
        How many to exchange: those with the smallest :func:`strengths`.
    scale
        As in :func:`grow`.

    Returns
    -------
    Tensor
        int32 [layers, paths], what left the network.

    Raises
    ------
    ValueError
        As :func:`grow`, and if there are not more paths than are to leave.
    """
    _check_network(net)
    old = net.paths
    if paths >= old.shape[1]:
        raise ValueError(f"paths must leave some of {old.shape[1]}, got {paths}")
    fresh = _next_paths(net, paths).to(old.device)
    ranked = strengths(net).sort(stable=True).indices
    leaving, staying = ranked[:paths], ranked[paths:].sort().values
    origin = torch.cat([staying, torch.full_like(leaving, -1)])
    _replace(net, torch.cat([old[:, staying], fresh], 1), origin, scale)
    return old[:, leaving]


@torch.no_grad()
def strengths(net: PathMLP) -> Tensor:
    """Return the logarithm of the product of the absolute weights along each path, [paths]."""
    return sum(layer.weights().abs().log()[layer.edge_of_path()] for layer in net.layers)


def _check_network(net: PathMLP) -> None:
    if not isinstance(net, PathMLP):
        raise TypeError(
            f"net must be a PathMLP, whose paths go through all of its layers, got a "
            f"{type(net).__name__}: single layers have replace_paths()"
        )


def _next_paths(net: PathMLP, paths: int) -> Tensor:
    if paths < 1:
        raise ValueError(f"paths must be at least 1, got {paths}")
    if net.method is None:
        raise ValueError("the paths of the network were given: there is no sequence to go on with")
    return sample_paths(net.widths, paths, net.method, net.seed, start=int(net.sampled))


def _replace(net: PathMLP, paths: Tensor, origin: Tensor, scale: float) -> None:
    number, optimizers = int(net.sampled), living_optimizers()
    for i, layer in enumerate(net.layers):
        # Another seed for each layer and each time.
        seed = fold_in(net.seed, -(number * len(net.widths) + i) - 1)
        layer.replace_paths(paths[i : i + 2], origin, seed, scale, optimizers)
    net.sampled += int((origin < 0).sum())
