"""Making sure that an optimiser follows a network that changes its paths.

:func:`mcnn.paths.grow` and :func:`mcnn.paths.regrow` let all optimisers follow, see
:mod:`mcnn.paths.parameter`; what is here checks that a certain one trains the network at all.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch.optim import Optimizer

from mcnn.paths.nets import PathMLP


@contextmanager
def migrate_optimizer_state(optimizer: Optimizer, net: PathMLP) -> Iterator[None]:
    """Let an optimiser follow a network whose paths change inside the block.

    Edges that stay keep what the optimiser has stored for them, such as momentum; new edges start
    with zeros, as they would in a new optimiser.
    That happens outside of the block, too; inside of it, the optimiser is sure to be the right one.

    Parameters
    ----------
    optimizer
        Any of PyTorch's whose state is, for each parameter, numbers and tensors of its length.
    net
        Trained by it.

    Raises
    ------
    ValueError
        If the optimiser does not train a layer of the network.

    Examples
    --------
    >>> import torch
    >>> from mcnn.paths import grow
    >>> net = PathMLP([8, 8, 4], paths=16)
    >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    >>> with migrate_optimizer_state(optimizer, net):
    ...     grow(net, 16)
    >>> any(p is net.layers[0].weight for p in optimizer.param_groups[0]["params"])
    True
    """
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if any(id(layer.weight) not in trained for layer in net.layers):
        raise ValueError("the optimiser does not train all layers of the network")
    yield
