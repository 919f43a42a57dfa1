r"""Paths, or samples of densities, drawn anew in every step of training: noise that regularises.

Dropout and drop-connect leave out units and weights by independent coins.
Sampling offers two other ways to train on a part of a network in each step:

- :func:`along_paths` keeps the edges that P random walks take, and
- :func:`from_densities` replaces the weights of a neuron by samples of its density.

Both leave each weight as it is on average, so that the whole network is what is used afterwards.
A uniform walk takes a given edge between layers of n and m units with probability 1/(nm), and P
walks leave it out with probability :math:`(1-1/(nm))^P`: less often, the smaller the layers are.
So the layer to the outputs is kept whole long before the first one is.

Source: slide "Summary" of the earlier deck, "sampling paths through neural networks instead of drop
connect and drop out".
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcnn import density

Draw = Callable[[Sequence[Tensor], torch.Generator], list[Tensor]]


class Redrawn(nn.Module):
    """A stack of layers whose linear ones have other weights in each step of training.

    In evaluation it is the stack as it is.

    Parameters
    ----------
    model
        A plain stack, such as :func:`mcnn.training.nets.mlp` returns.
    draw
        :func:`along_paths` or :func:`from_densities`, their options bound.
    seed
        Of what is drawn; the place in the stream is not part of a ``state_dict``.

    Raises
    ------
    ValueError
        If the model has no linear layer.

    Examples
    --------
    >>> from functools import partial
    >>> stack = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> net = Redrawn(stack, partial(along_paths, paths=16))
    >>> net(torch.ones(3, 8)).shape
    torch.Size([3, 2])
    """

    def __init__(self, model: nn.Sequential, draw: Draw, seed: int = 0) -> None:
        super().__init__()
        self.model, self.draw = model, draw
        self.generator = torch.Generator().manual_seed(seed)
        self.linears = [m for m in model if isinstance(m, nn.Linear)]
        if not self.linears:
            raise ValueError("the model has no linear layer: there is nothing to draw")

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the stack."""
        if not self.training:
            return self.model(x)
        drawn = iter(self.draw([m.weight for m in self.linears], self.generator))
        for module in self.model:
            linear = isinstance(module, nn.Linear)
            x = F.linear(x, next(drawn), module.bias) if linear else module(x)
        return x


def along_paths(weights: Sequence[Tensor], generator: torch.Generator, paths: int) -> list[Tensor]:
    """Keep the weights on uniform random walks from inputs to outputs, the others zero.

    What is kept is divided by the probability of being kept.

    Parameters
    ----------
    weights
        Of consecutive layers, [outputs, inputs].
    generator
        Of the walks, on the CPU.
    paths
        How many walks.

    Returns
    -------
    list of Tensor
        The shapes of the weights; differentiable.

    Raises
    ------
    ValueError
        For less than one path.
    """
    if paths < 1:
        raise ValueError(f"paths must be at least 1, got {paths}")
    widths = [weights[0].shape[1], *(len(w) for w in weights)]
    units = [torch.randint(n, (paths,), generator=generator) for n in widths]  # [paths] each
    result = []
    for w, (left, right) in zip(weights, pairwise(units), strict=True):
        mask = torch.zeros(w.numel(), device=w.device)
        mask[(right * w.shape[1] + left).to(w.device)] = 1 / kept_by(w.numel(), paths)
        result.append(w * mask.view_as(w))
    return result


def kept_by(edges: int, paths: int) -> float:
    """Return the probability that uniform walks take an edge.

    Parameters
    ----------
    edges
        All between two layers, n times m.
    paths
        How many walks.

    Examples
    --------
    >>> kept_by(4, 1), kept_by(4, 2)
    (0.25, 0.4375)
    """
    return 1 - (1 - 1 / edges) ** paths


def from_densities(
    weights: Sequence[Tensor], generator: torch.Generator, fraction: float, **options: Any
) -> list[Tensor]:
    """Replace the weights of each neuron by samples in proportion to their magnitudes.

    The gradient goes straight through, to the weights that were sampled from.

    Parameters
    ----------
    weights
        [outputs, inputs] each.
    generator
        Of the samples, on the CPU.
    fraction
        Samples of a neuron over its inputs, at least one sample.
    options
        Of :func:`mcnn.density.sample_counts`: ``method``, ``order``.

    Returns
    -------
    list of Tensor
        The shapes of the weights.

    Raises
    ------
    ValueError
        For a fraction that is not positive.
    """
    if fraction <= 0:
        raise ValueError(f"fraction must be positive, got {fraction}")
    result = []
    for w in weights:
        fixed, samples = w.detach(), max(1, round(fraction * w.shape[1]))
        counts = density.sample_counts(fixed, samples, seed=generator, **options)
        result.append(w + (density.dequantize(counts, fixed) - fixed))
    return result
