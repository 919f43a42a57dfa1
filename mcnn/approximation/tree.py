r"""A network whose paths are those of a tree.

A function of d variables is *compositional* along a tree if it is made of functions of few
variables each, as

.. math:: f(x_1,\ldots,x_8)=g_3(g_{21}(g_{11}(x_1,x_2),g_{12}(x_3,x_4)),\,
          g_{22}(g_{11}(x_5,x_6),g_{12}(x_7,x_8))) .

The network that fits it has a small hidden layer in the place of each g, and no edge that the
formula does not have.
Each level of the tree is a :class:`mcnn.paths.PathMLP` whose paths are given: from a child, through
a unit of its parent, to the parent.
With as many children as inputs the tree is a single node, and the network the usual shallow one.

Source: slide "Theorem (informal statement)" of Y. Yao's talk.
"""

import operator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from mcnn.errors import UsageError
from mcnn.paths import PathMLP
from mcnn.sampling import fold_in
from mcnn.seeds import layer_seed


class TreeNet(nn.Sequential):
    r"""A tree of shallow ReLU networks, one in each node.

    Parameters
    ----------
    inputs
        d, a power of the arity.
    width
        Hidden units of each node.
    arity
        Children of each node; with d children the network is shallow.
    seed
        Of the initial weights and biases, which are normal and uniform in -1 ... 1; drawn from
        PyTorch's generator by default.
    options
        Of every :class:`mcnn.paths.PathMLP`: ``kernel``, ``device``, ``dtype``.

    Raises
    ------
    UsageError
        If the inputs are no power of the arity, or a number is too small.

    Notes
    -----
    Source: H. N. Mhaskar, T. Poggio, Deep vs. shallow networks: an approximation theory
    perspective. Analysis and Applications 14, 2016.

    Examples
    --------
    >>> tree, shallow = TreeNet(8, 16), TreeNet(8, 45, arity=8)
    >>> tree(torch.zeros(5, 8)).shape, len(tree), len(shallow)
    (torch.Size([5, 1]), 3, 1)
    >>> [sum(p.numel() for p in net.parameters()) for net in (tree, shallow)]
    [455, 451]
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        arity: int = 2,
        seed: int | torch.Generator | None = None,
        **options: Any,
    ) -> None:
        inputs, width, arity = (operator.index(size) for size in (inputs, width, arity))
        if arity < 2 or width < 1:
            raise UsageError(
                f"a node needs 2 children and 1 unit at least, got {arity} and {width}"
            )
        sizes = [inputs]  # of each level, leaves first
        while sizes[-1] > 1 and sizes[-1] % arity == 0:
            sizes.append(sizes[-1] // arity)
        if inputs < 2 or sizes[-1] != 1:
            raise UsageError(f"inputs must be a power of the arity {arity}, got {inputs}")
        seed = layer_seed(seed)
        super().__init__(
            *(
                PathMLP(
                    [below, above * width, above],
                    node_paths(above, width, arity),
                    seed=fold_in(seed, level),
                    init="realised",
                    **options,
                )
                for level, (below, above) in enumerate(pairwise(sizes))
            )
        )
        self.inputs, self.width, self.arity = inputs, width, arity
        generator = torch.Generator().manual_seed(fold_in(seed, len(self)))
        for level in self:
            bias = level.layers[0].bias
            with torch.no_grad():  # kinks all over the inputs, and not all through the origin
                bias.copy_(2 * torch.rand(bias.shape, generator=generator) - 1)

    @property
    def n_weights(self) -> int:
        """Number of parameters, biases included."""
        return sum(p.numel() for p in self.parameters())


def node_paths(nodes: int, width: int, arity: int) -> Tensor:
    """Return the paths of one level: from each child through each unit of its parent.

    Parameters
    ----------
    nodes
        Parents.
    width
        Units of each.
    arity
        Children of each.

    Returns
    -------
    Tensor
        int64 [3, nodes * arity * width].

    Examples
    --------
    >>> node_paths(2, 1, 2).tolist()
    [[0, 1, 2, 3], [0, 0, 1, 1], [0, 0, 1, 1]]
    """
    child = torch.arange(nodes * arity).repeat_interleave(width)
    unit = torch.arange(width).repeat(nodes * arity)
    parent = child // arity
    return torch.stack([child, parent * width + unit, parent])


def shallow_like(
    tree: TreeNet, seed: int | torch.Generator | None = None, **options: Any
) -> TreeNet:
    """Return a shallow network that has as many weights as a tree, or a few more.

    Examples
    --------
    >>> shallow_like(TreeNet(8, 16)).width
    46
    """
    per_unit = tree.inputs + 2  # a weight for each input, a bias, and one to the output
    width = -(-(tree.n_weights - 1) // per_unit)
    return TreeNet(tree.inputs, width, tree.inputs, seed, **options)
