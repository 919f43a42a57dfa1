"""Masks from the network before training: what each weight means to the loss, or to the flow."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcnn.baselines.masks import Masks, ranked_together, weights
from mcnn.modelwise import check_all_writable


def connection_sensitivity(model: nn.Module, x: Tensor, y: Tensor) -> Masks:
    r"""Return :math:`|w\,\partial L/\partial w|` of each weight, for the cross entropy of a batch.

    It is the magnitude of the derivative of the loss by a factor in front of the weight, at one.

    Parameters
    ----------
    model
        Takes x and returns logits, [b, classes].
    x, y
        A batch and its labels.

    Returns
    -------
    dict of Tensor
        Of the shape of the weights, by the name of the layer.

    Notes
    -----
    Source: N. Lee, T. Ajanthan, P. H. S. Torr: SNIP: single-shot network pruning based on
    connection sensitivity, 2019.
    """
    layers = weights(model)
    loss = F.cross_entropy(model(x), y)
    gradients = torch.autograd.grad(loss, list(layers.values()))
    return {
        name: (w.detach() * g).abs() for (name, w), g in zip(layers.items(), gradients, strict=True)
    }


def snip(model: nn.Module, x: Tensor, y: Tensor, edges: int) -> Masks:
    """Return the masks of the weights with the largest connection sensitivity.

    Parameters
    ----------
    model, x, y
        As in :func:`connection_sensitivity`.
    edges
        Number of weights, of all layers together.
    """
    return ranked_together(connection_sensitivity(model, x, y), edges)


def synaptic_flow(model: nn.Module, shape: tuple[int, ...]) -> Masks:
    r"""Return :math:`|w|\,\partial R/\partial|w|` of each weight: how much flows through it.

    :math:`R` is the sum of the outputs for an input of ones, with all weights replaced by their
    magnitudes and without biases: the sum over all paths of the products of the magnitudes along
    them.
    So the score of a weight is the sum over the paths that contain it, and at every hidden unit
    what comes in goes out.

    Parameters
    ----------
    model
        A stack of layers with ReLUs; not changed.
    shape
        Of one input, without the batch.

    Returns
    -------
    dict of Tensor
        float64, of the shape of the weights, by the name of the layer.

    Notes
    -----
    Source: H. Tanaka, D. Kunin, D. L. K. Yamins, S. Ganguli: Pruning neural networks without any
    data by iteratively conserving synaptic flow, 2020.
    """
    check_all_writable(model)
    positive = copy.deepcopy(model).double().eval()
    for name, p in positive.named_parameters():
        p.data.abs_()
        if name.endswith("bias"):
            p.data.zero_()
    layers = weights(positive)
    ones = next(iter(layers.values())).new_ones(1, *shape)
    gradients = torch.autograd.grad(positive(ones).sum(), list(layers.values()))
    return {name: w.detach() * g for (name, w), g in zip(layers.items(), gradients, strict=True)}


def synflow(model: nn.Module, shape: tuple[int, ...], edges: int, iterations: int = 100) -> Masks:
    """Prune by synaptic flow, a little at a time, and return the masks.

    In iteration k of n the weights with the largest flow stay, total times
    (edges / total)^(k / n) of them, and the flow of those is computed anew.

    Parameters
    ----------
    model, shape
        As in :func:`synaptic_flow`; not changed.
    edges
        Number of weights in the end, of all layers together.
    iterations
        The paper's is 100.

    Raises
    ------
    ValueError
        If there are not as many weights, or no iteration.
    """
    check_all_writable(model)
    model = copy.deepcopy(model)
    layers = weights(model)
    total = sum(w.numel() for w in layers.values())
    if not 0 < edges <= total:
        raise ValueError(f"edges must be in 1 ... {total}, got {edges}")
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
    for k in range(1, iterations + 1):
        keep = edges if k == iterations else round(total * (edges / total) ** (k / iterations))
        masks = ranked_together(synaptic_flow(model, shape), keep)
        for name, w in layers.items():
            w.data.mul_(masks[name])
    return masks
