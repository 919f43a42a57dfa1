r"""Networks that are built and not trained: hidden units at random, outputs by least squares.

The theorem about trees says that a network *exists*, and its proof builds it: each constituent is
approximated by a shallow network of its own, and these are put together.
Whether a training finds such a network is another question, so here is the building.

The hidden units of a node are ridge functions whose kinks go through random ones of the given
inputs, in random directions: samples, as in :mod:`mcnn.approximation.sampled`.
Their heights are those of least squares, which is a linear problem with one solution.

Source: slide "Theorem (informal statement)" of Y. Yao's talk; H. N. Mhaskar, T. Poggio, Deep vs.
shallow networks: an approximation theory perspective. Analysis and Applications 14, 2016.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mcnn.approximation.tree import TreeNet
from mcnn.errors import UsageError
from mcnn.paths import PathMLP
from mcnn.sampling import as_seed, fold_in


def fit(net: TreeNet, stages: Sequence[Tensor], seed: int | torch.Generator = 0) -> None:
    """Build a tree, or a shallow network, from what each of its levels is given and should return.

    Parameters
    ----------
    net
        Whose parameters are written.
    stages
        Values [examples, nodes] of each level, leaves first, as of
        :meth:`mcnn.approximation.targets.Compositional.stages`; two of them for a shallow network,
        the inputs and the outputs.
    seed
        Of the hidden units.

    Raises
    ------
    UsageError
        If there are not as many stages as levels and one more, a size does not fit, there is no
        example, or a value is NaN or infinite.

    Examples
    --------
    >>> from mcnn.approximation.targets import Compositional
    >>> f, generator = Compositional(4, seed=1), torch.Generator().manual_seed(1)
    >>> x = torch.randn(2000, 4, generator=generator, dtype=torch.float64)
    >>> net = TreeNet(4, 64, dtype=torch.float64)
    >>> fit(net, f.stages(x))
    >>> bool((net(x) - f(x)).square().mean() < 0.2)  # of a variance of one
    True
    """
    if len(stages) != len(net) + 1:
        raise UsageError(f"a tree of {len(net)} levels needs {len(net) + 1} stages")
    seed = as_seed(seed)
    for number, level in enumerate(net):
        _fit_level(level, stages[number], stages[number + 1], net, fold_in(seed, number))


@torch.no_grad()
def _fit_level(level: PathMLP, x: Tensor, y: Tensor, net: TreeNet, seed: int) -> None:
    """Write the parameters of one level: x [examples, nodes * arity], y [examples, nodes]."""
    below, _, nodes = level.widths
    if x.shape[1:] != (below,) or y.shape != (len(x), nodes):
        raise UsageError(
            f"a level of {below} inputs and {nodes} nodes does not fit values of shapes "
            f"{list(x.shape)} and {list(y.shape)}"
        )
    if not len(x) or not bool(x.isfinite().all() and y.isfinite().all()):
        raise UsageError("least squares need examples, and values that are finite")
    generator = torch.Generator().manual_seed(seed)
    shape = (nodes, net.width, net.arity)
    x = x.double().cpu().unflatten(1, (nodes, net.arity))  # [examples, nodes, arity]
    a = torch.randn(shape, generator=generator, dtype=torch.float64)
    a = a / a.norm(dim=2, keepdim=True)
    through = torch.randint(len(x), shape[:2], generator=generator)  # [nodes, width]
    b = -(a * x[through, torch.arange(nodes).unsqueeze(1)]).sum(2)
    hidden = torch.einsum("enk,nwk->new", x, a).add_(b.unsqueeze(1)).clamp_(min=0)
    ones = hidden.new_ones(nodes, len(x), 1)
    hidden = torch.cat([hidden, ones], 2)  # [nodes, examples, width + 1]
    heights = torch.linalg.lstsq(hidden, y.double().cpu().T.unsqueeze(2), driver="gelsd").solution
    first, last = level.layers
    # Edges are sorted by output and within it by input, so they lie as these arrays do.
    first.weight.copy_(a.flatten())
    first.bias.copy_(b.flatten())
    last.weight.copy_(heights[:, :-1].flatten())
    last.bias.copy_(heights[:, -1].flatten())
