"""Masks: which weights of a network are there, and how training keeps the others at zero."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mcnn.errors import unknown
from mcnn.modelwise import KINDS, check_writable
from mcnn.sampling import as_seed, hash_bits

Masks = dict[str, Tensor]


def weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights of linear and convolutional layers, by the name of the layer.

    A weight that several layers share stands under the first of their names.

    Raises
    ------
    ValueError
        If there are none, or something else computes one, see
        :func:`mcnn.modelwise.check_writable`.
    """
    layers: dict[str, nn.Parameter] = {}
    for name, module in model.named_modules():
        if isinstance(module, KINDS):
            check_writable(name, module)
            if not any(module.weight is known for known in layers.values()):
                layers[name] = module.weight
    if not layers:
        raise ValueError("the model has no linear or convolutional layer")
    return layers


class Masked:
    """Keeps the weights of a network inside masks: the weights now, and their gradients from now.

    Optimisers without weight decay then leave zeros alone.
    Where masks change, momentum still pushes weights that have left, so they are put back to zero
    after every step: :meth:`on_step` is one of :func:`mcnn.training.fit`.

    Parameters
    ----------
    model
        Changed in place.
    masks
        Of the shape of the weights, by the name of the layer; layers that are not named stay dense.

    Attributes
    ----------
    masks
        In the dtype and on the device of the weights.
    gradients
        The latest gradient of each masked weight, before it is masked.

    Raises
    ------
    ValueError
        If a mask is of another shape than its weights, or of no layer.
    """

    def __init__(self, model: nn.Module, masks: Mapping[str, Tensor]) -> None:
        layers = weights(model)
        self.masks: Masks = {}
        self.gradients: Masks = {}
        for name, mask in masks.items():
            if name not in layers:
                raise unknown("layer", name, layers)
            weight = layers[name]
            if mask.shape != weight.shape:
                shapes = f"{tuple(mask.shape)}, not {tuple(weight.shape)}"
                raise ValueError(f"layer {name!r}: the mask is {shapes}")
            self.masks[name] = mask.to(weight)
            weight.register_hook(lambda gradient, name=name: self._keep(name, gradient))
        self(model)

    def _keep(self, name: str, gradient: Tensor) -> Tensor:
        self.gradients[name] = gradient
        return gradient * self.masks[name]

    @torch.no_grad()
    def __call__(self, model: nn.Module, step: int = 0) -> None:
        """Put the weights outside of the masks to zero."""
        for name, weight in weights(model).items():
            if name in self.masks:
                weight.mul_(self.masks[name])

    def on_step(self, step: Any) -> None:
        """Call the instance after a :class:`mcnn.training.Step`."""
        self(step.model, step.number)


def ranked(scores: Tensor, edges: int) -> Tensor:
    """Return the mask of the largest scores, exactly ``edges`` of them.

    Raises
    ------
    ValueError
        If there are fewer scores.
    """
    if not 0 <= edges <= scores.numel():
        raise ValueError(f"edges must be in 0 ... {scores.numel()}, got {edges}")
    kept = scores.flatten().topk(edges, sorted=False).indices
    mask = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    return mask.index_fill_(0, kept, True).view(scores.shape)


def ranked_together(scores: Mapping[str, Tensor], edges: int) -> Masks:
    """Return the masks of the largest scores of all layers, ``edges`` of them altogether."""
    together = ranked(torch.cat([s.flatten() for s in scores.values()]), edges)
    parts = together.split([s.numel() for s in scores.values()])
    return {name: p.view(scores[name].shape) for name, p in zip(scores, parts, strict=True)}


def random_mask(shape: Sequence[int], edges: int, seed: int | torch.Generator = 0) -> Tensor:
    """Return a mask with ``edges`` weights, all such masks equally likely.

    Parameters
    ----------
    shape
        Of the weights.
    edges
        Number of weights that are there.
    seed
        An integer, or a generator, which is advanced by one draw.

    Returns
    -------
    Tensor
        bool, of that shape.

    Examples
    --------
    >>> int(random_mask((300, 784), 1000, seed=1).sum())
    1000
    """
    return ranked(_shuffling(tuple(shape), seed), edges)


def _shuffling(shape: tuple[int, ...], seed: int | torch.Generator) -> Tensor:
    """Return random numbers for :func:`ranked`, the same on every device."""
    n = torch.Size(shape).numel()
    return hash_bits(as_seed(seed), torch.arange(n)).view(shape)


def fan_in_mask(shape: Sequence[int], fan_in: Sequence[int], seed: int = 0) -> Tensor:
    """Return a mask in which each row, a neuron, has its number of weights, at random places.

    Parameters
    ----------
    shape
        [rows, inputs].
    fan_in
        [rows] numbers of weights, at most ``inputs``.
    seed
        An integer.

    Returns
    -------
    Tensor
        bool, [rows, inputs].

    Raises
    ------
    ValueError
        If a row has fewer inputs than it should.
    """
    rows, inputs = shape
    wanted = torch.as_tensor(fan_in).view(rows, 1)  # [rows, 1]
    if int(wanted.max()) > inputs or int(wanted.min()) < 0:
        raise ValueError(f"fan_in must be in 0 ... {inputs}, got {sorted(set(fan_in))}")
    order = _shuffling((rows, inputs), seed).argsort(dim=1)  # [rows, inputs]
    return torch.zeros(rows, inputs, dtype=torch.bool).scatter_(
        1, order, torch.arange(inputs) < wanted
    )


def apportion(total: int, units: int) -> list[int]:
    """Apportion a total among units, evenly up to one.

    Examples
    --------
    >>> apportion(7, 3)
    [3, 2, 2]
    """
    return [total // units + (i < total % units) for i in range(units)]


def erk_densities(
    shapes: Sequence[Sequence[int]], density: float, kernel: bool = True
) -> list[float]:
    r"""Return the density of each layer of an Erdős–Rényi(-kernel) network.

    Layer :math:`l` with :math:`n_{l-1}` inputs, :math:`n_l` outputs and a kernel of :math:`w\times
    h` has density

    .. math:: \varepsilon\,\frac{n_{l-1}+n_l+w+h}{n_{l-1}\,n_l\,w\,h},

    the kernel left out of the sum for Erdős–Rényi.
    Layers for which that is more than one are dense, and :math:`\varepsilon` makes up for it, so
    that the number of weights is what it should be.

    Parameters
    ----------
    shapes
        Of the weights, [outputs, inputs, kernel...].
    density
        Of all weights together, in (0, 1].
    kernel
        Whether the kernel counts.

    Returns
    -------
    list of float
        One density for each layer.

    Raises
    ------
    ValueError
        For a density out of range.

    Notes
    -----
    Source: D. C. Mocanu et al., Scalable training of artificial neural networks with adaptive
    sparse connectivity inspired by network science, 2018; U. Evci et al., Rigging the lottery:
    making all tickets winners, 2020.

    Examples
    --------
    >>> [round(d, 4) for d in erk_densities([(300, 784), (300, 300), (10, 300)], 0.05)]
    [0.0379, 0.0549, 0.8504]
    """
    if not 0 < density <= 1:
        raise ValueError(f"density must be in (0, 1], got {density}")
    sizes = [torch.Size(s).numel() for s in shapes]
    raw = [(sum(s) if kernel else s[0] + s[1]) / n for s, n in zip(shapes, sizes, strict=True)]
    dense: set[int] = set()
    while True:
        left = density * sum(sizes) - sum(sizes[i] for i in dense)
        open_ = [i for i in range(len(sizes)) if i not in dense]
        scale = left / sum(raw[i] * sizes[i] for i in open_) if open_ else 0.0
        full = {i for i in open_ if raw[i] * scale > 1}
        if not full:
            return [1.0 if i in dense else raw[i] * scale for i in range(len(sizes))]
        # The official code makes the layers of the largest factor dense, one at a time.
        dense.add(max(full, key=lambda i: raw[i]))


def edges_of(densities: Sequence[float], sizes: Sequence[int], total: int) -> list[int]:
    """Round densities to numbers of weights that sum to ``total``, by largest remainders.

    Examples
    --------
    >>> edges_of([0.5, 0.25], [3, 10], 4)
    [2, 2]
    """
    exact = [d * n for d, n in zip(densities, sizes, strict=True)]
    edges = [min(int(e), n) for e, n in zip(exact, sizes, strict=True)]
    by_rest = sorted(range(len(sizes)), key=lambda i: edges[i] - exact[i])
    room = [i for i in by_rest if edges[i] < sizes[i]]
    for i in room[: total - sum(edges)]:
        edges[i] += 1
    return edges


def magnitude(model: nn.Module, edges: int | Mapping[str, int]) -> Masks:
    """Return the masks of the largest weights.

    Parameters
    ----------
    model
        Trained.
    edges
        A number: of all layers together, which then compete.
        A number for each layer: each keeps its own largest.

    Returns
    -------
    dict of Tensor
        bool, by the name of the layer.
    """
    scores = {name: w.detach().abs() for name, w in weights(model).items()}
    if isinstance(edges, int):
        return ranked_together(scores, edges)
    return {name: ranked(s, edges[name]) for name, s in scores.items()}


def shuffled(masks: Mapping[str, Tensor], seed: int | torch.Generator = 0) -> Masks:
    """Return masks with as many weights in each layer, at random places.

    What is left of the accuracy then came from the numbers, not from the places.
    """
    seed = as_seed(seed)
    return {
        name: random_mask(mask.shape, int(mask.count_nonzero()), seed ^ number).to(mask.device)
        for number, (name, mask) in enumerate(masks.items(), start=1)
    }
