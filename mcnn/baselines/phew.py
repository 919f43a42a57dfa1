r"""PHEW: the edges of random walks that prefer large initial weights.

The closest relative of sampling paths among the field's methods: it, too, keeps whole paths, so no
edge ends in the middle of the network, and it needs no data.
Where paths are drawn without a look at the weights, these walks follow them: from unit j of a layer
a walk goes on to unit i of the next with probability

.. math:: p(i\mid j)=\frac{|w_{ij}|}{\sum_{i'}|w_{i'j}|},

and backward, from i to j, with :math:`|w_{ij}|/\sum_{j'}|w_{ij'}|`.
Walks begin at the inputs, in turn, and walk forward, or at the outputs, in turn, and walk backward;
the two kinds alternate.

Source: S. M. Patil, C. Dovrolis: PHEW: Constructing sparse networks that learn fast and generalize
well without training data. ICML 2021.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from mcnn.baselines.masks import Masks, weights
from mcnn.sampling import as_seed, fold_in, uniforms

_CHUNK = 4096  # walks at a time: bounds the memory for their distributions


def phew(model: nn.Module, edges: int, seed: int | torch.Generator = 0) -> Masks:
    """Return the masks of the edges of random walks biased by the magnitudes of the weights.

    Parameters
    ----------
    model
        Linear layers one after the other, at their initial weights; not changed.
    edges
        Number of weights, of all layers together.
        As many whole walks are taken as do not use more.
    seed
        Of the walks, an integer or a generator, which is advanced by one draw.

    Returns
    -------
    dict of Tensor
        bool, by the name of the layer: ``edges`` weights, or up to a walk's length fewer.

    Raises
    ------
    ValueError
        For convolutions, layers that do not fit one another, or fewer edges than a walk has.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    >>> masks = phew(net, 40, seed=1)
    >>> 38 < sum(int(mask.sum()) for mask in masks.values()) <= 40
    True
    """
    magnitudes = {name: w.detach().abs().double().cpu() for name, w in weights(model).items()}
    layers = list(magnitudes.values())
    if any(w.ndim != 2 for w in layers):
        raise ValueError("the model has convolutions: walks go through linear layers only")
    if any(len(a) != b.shape[1] for a, b in pairwise(layers)):
        raise ValueError("layers do not fit one another: they must follow in the order of names")
    if not len(layers) <= edges <= sum(w.numel() for w in layers):
        raise ValueError(f"edges must be in {len(layers)} ... all weights, got {edges}")
    walks, seed = edges, as_seed(seed)
    while True:
        keys = _edges_of(layers, walks, seed)  # [layers, walks]
        used = sum(_first_visits(key) for key in keys).cumsum(0)  # [walks], edges so far
        if used[-1] >= edges or used[-1] == sum(w.count_nonzero() for w in layers):
            break
        walks *= 2
    enough = int((used <= edges).sum())
    masks = {}
    for (name, w), key in zip(magnitudes.items(), keys, strict=True):
        mask = torch.zeros(w.numel(), dtype=torch.bool)
        mask[key[:enough]] = True
        masks[name] = mask.view(w.shape)
    return masks


def _edges_of(layers: list[Tensor], walks: int, seed: int) -> list[Tensor]:
    """Return the number of the edge, in the flat weight, that each walk takes in each layer."""
    units = [torch.empty(walks, dtype=torch.int64) for _ in range(len(layers) + 1)]
    forward, backward = slice(0, None, 2), slice(1, None, 2)
    for part, order in ((forward, range(len(layers))), (backward, range(len(layers))[::-1])):
        start = 0 if part is forward else len(layers)
        width = layers[0].shape[1] if part is forward else len(layers[-1])
        units[start][part] = _in_turn(width, len(units[start][part]), fold_in(seed, start))
        for number in order:
            near, far = (number, number + 1) if part is forward else (number + 1, number)
            numbers = torch.arange(walks)[part]
            u = uniforms(fold_in(seed, len(layers) + 1 + number), numbers)
            table = layers[number].T if part is forward else layers[number]
            units[far][part] = _step(table, units[near][part], u)
    return [units[k + 1] * w.shape[1] + units[k] for k, w in enumerate(layers)]


def _in_turn(width: int, count: int, seed: int) -> Tensor:
    order = torch.randperm(width, generator=torch.Generator().manual_seed(seed))
    return order[torch.arange(count) % width]


def _step(table: Tensor, units: Tensor, u: Tensor) -> Tensor:
    """Choose a unit for each walk, in proportion to the row [units before] of a table."""
    sums = table.cumsum(1)
    total = sums[:, -1]
    if (total[units] == 0).any():
        raise ValueError("a unit has no weight but zeros: a walk cannot go on")
    chosen = [
        torch.searchsorted(sums[j], (x * total[j])[:, None], right=True)[:, 0]
        for j, x in zip(units.split(_CHUNK), u.split(_CHUNK), strict=True)
    ]
    return torch.cat(chosen).clamp(max=table.shape[1] - 1)


def _first_visits(key: Tensor) -> Tensor:
    """Return for each walk whether it is the first on its edge, int64 [walks]."""
    distinct, place = key.unique(return_inverse=True)
    first = torch.full((len(distinct),), len(key)).scatter_reduce_(
        0, place, torch.arange(len(key)), "amin"
    )
    return torch.bincount(first, minlength=len(key))
