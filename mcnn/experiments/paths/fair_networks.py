"""Where the edges of each sparse method are, and with which weights they begin.

Every unit begins with normal weights of variance two over the edges that it really has, as
U. Evci, Y. Ioannou, C. Keskin and Y. Dauphin ask for (Gradient flow in sparse neural networks and
how lottery tickets win, 2020).
Weights by the fan-in of a dense layer, which a mask that is put over a dense network leaves, are
too small: for uniform paths with one percent of the weights of 784/300/300/10 by factors of about
14, 9 and 2.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from mcnn.baselines.masks import (
    apportion,
    edges_of,
    erk_densities,
    fan_in_mask,
    random_mask,
    shuffled,
    weights,
)
from mcnn.baselines.phew import phew
from mcnn.baselines.saliency import snip, synflow
from mcnn.data import Split
from mcnn.experiments.paths.common import edges, network, path_masks
from mcnn.sampling import fold_in
from mcnn.training.sparse_ensemble import Evolution, Network, SparseLayer

Masks = dict[str, Tensor]
Widths = tuple[int, ...]

PATHS = ("uniform", "pixel", "bidirectional", "permutation", "sobol", "lattice")
STATIC = ("random mask", "erk", "fan-in", "snip", "synflow", "phew")
CHANGING = ("set", "rigl")
SMALL = ("small dense, 1 hidden layer", "small dense, 2 hidden layers")
SCALE = "standard"  # mean 0 and variance 1, what the variance of the weights is meant for
_SHUFFLED, _KEPT, _DENSE = "shuffled", "weights kept", "dense fan-in"


def masks_of(method: str, model: nn.Module, train: Split, total: int, seed: int) -> Masks:
    """Return the masks of about ``total`` edges that a method chooses in a dense network."""
    if method in PATHS:
        return _paths(method, model, total, seed)
    return _MASKS[method](model, train, total, seed)


def network_of(
    method: str, widths: Widths, train: Split, total: int, seed: int, steps: int
) -> tuple[Network, Evolution | None]:
    """Return the sparse network of a method, and how its edges change in training.

    Parameters
    ----------
    method
        A name of this module, and maybe after a comma: ``shuffled``, each layer's edges at random
        places; ``weights kept``, those of the dense network that the edges were chosen in, scaled
        for each unit to the variance that others have; ``dense fan-in``, weights too small.
    widths
        Of the dense network.
    train
        What SNIP looks at.
    total
        Number of edges.
    seed
        Of the weights and of what the method draws.
    steps
        Of the training.
    """
    if method in SMALL:
        small = _small(widths, total, hidden=1 + SMALL.index(method))
        ones = {name: torch.ones_like(w) for name, w in weights(network(small, seed)).items()}
        return _sparse(ones, seed), None
    base, _, variant = method.partition(", ")
    model = network(widths, seed)
    masks = masks_of(base, model, train, total, seed)
    if variant == _SHUFFLED:
        masks = shuffled(masks, fold_in(seed, 1))
    kept = weights(model) if variant == _KEPT else None
    sparse = _sparse(masks, seed, kept, dense=variant == _DENSE)
    if base not in CHANGING:
        return sparse, None
    often = max(1, min(100, steps // 14))
    return sparse, Evolution(steps, by_gradient=base == "rigl", interval=often, seed=seed)


def masks_from(net: Network, inputs: int) -> list[Tensor]:
    """Return where a network has edges: bool [outputs, inputs], one a layer."""
    masks = []
    for ends, _, bias in net:
        mask = torch.zeros(len(bias), inputs, dtype=torch.bool)
        mask[ends[1], ends[0]] = True
        masks.append(mask)
        inputs = len(bias)
    return masks


def _sparse(
    masks: Masks, seed: int, kept: dict[str, nn.Parameter] | None = None, dense: bool = False
) -> Network:
    layers = []
    for number, (name, mask) in enumerate(masks.items()):
        ends = mask.nonzero().T.flip(0).contiguous()  # [2, edges], sorted by output
        outputs, inputs = mask.shape
        fan_in = torch.bincount(ends[1], minlength=outputs)[ends[1]]  # [edges]
        if kept is None:
            generator = torch.Generator().manual_seed(fold_in(seed, 100 + number))
            weight = torch.randn(ends.shape[1], generator=generator)
            weight *= (2 / (inputs if dense else fan_in)) ** 0.5
        else:
            weight = kept[name].detach()[mask]
            square = torch.zeros(outputs).index_add(0, ends[1], weight**2)  # [outputs]
            weight = weight * (2 / square[ends[1]]).sqrt()
        layers.append(SparseLayer(ends, weight, torch.zeros(outputs)))
    return layers


def _small(widths: Widths, total: int, hidden: int) -> Widths:
    """Return the widths of a dense network of at most ``total`` weights.

    With two hidden layers the first is as wide as if both were alike, and the second takes what is
    left of the weights.
    """
    inputs, outputs = widths[0], widths[-1]
    if hidden == 1:
        return inputs, max(1, total // (inputs + outputs)), outputs
    n = 1
    while inputs * (n + 1) + (n + 1) ** 2 + (n + 1) * outputs <= total:
        n += 1
    return inputs, n, max(1, (total - inputs * n) // (n + outputs)), outputs


def _paths(method: str, model: nn.Module, total: int, seed: int) -> Masks:
    """Take as many paths as do not have more edges."""
    few, many = 1, 2 * total
    while many - few > 1:
        middle = (few + many) // 2
        if sum(edges(path_masks(model, middle, method, seed))) <= total:
            few = middle
        else:
            many = middle
    return path_masks(model, few, method, seed)


def _random(model: nn.Module, _: Split, total: int, seed: int, erk: bool = False) -> Masks:
    """Spread edges at random: layers of one density, or of Erdős and Rényi's."""
    layers = weights(model)
    sizes = [w.numel() for w in layers.values()]
    share = total / sum(sizes)
    shapes = [tuple(w.shape) for w in layers.values()]
    densities = erk_densities(shapes, share) if erk else [share] * len(sizes)
    numbers = edges_of(densities, sizes, total)
    return {
        name: random_mask(w.shape, number, fold_in(seed, layer))
        for layer, ((name, w), number) in enumerate(zip(layers.items(), numbers, strict=True))
    }


def _fan_in(model: nn.Module, _: Split, total: int, seed: int) -> Masks:
    """Give every unit the same number of inputs, up to one."""
    layers = weights(model)
    each: Sequence[int] = apportion(total, sum(len(w) for w in layers.values()))
    masks = {}
    for layer, (name, w) in enumerate(layers.items()):
        masks[name] = fan_in_mask(w.shape, each[: len(w)], fold_in(seed, layer))
        each = each[len(w) :]
    return masks


def _snip(model: nn.Module, train: Split, total: int, seed: int) -> Masks:
    """Judge by one batch of 100, as the paper does for MNIST."""
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:100]
    return snip(model, train.inputs(order, SCALE), train.labels[order], total)


def _synflow(model: nn.Module, train: Split, total: int, seed: int) -> Masks:
    return synflow(model, train.shape, total)


def _phew(model: nn.Module, _: Split, total: int, seed: int) -> Masks:
    return phew(model, total, seed)


_MASKS: dict[str, Callable[[nn.Module, Split, int, int], Masks]] = {
    "random mask": _random,
    "erk": partial(_random, erk=True),
    "fan-in": _fan_in,
    "snip": _snip,
    "synflow": _synflow,
    "phew": _phew,
    "set": partial(_random, erk=True),
    "rigl": partial(_random, erk=True),
}
