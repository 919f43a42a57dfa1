r"""The best density for a neuron: weights times the typical size of their inputs.

Sampling weight :math:`j` with any probability :math:`q_j>0` and dividing by it is unbiased:
:math:`\sum_j w_ja_j=\mathbb{E}[w_ja_j/q_j]` for :math:`j\sim q`.
The variance of one independent sample, averaged over the inputs :math:`a`, is

.. math::
    \sum_j \frac{w_j^2\,\mathbb{E}[a_j^2]}{q_j}-\mathbb{E}\Bigl[\bigl(\sum_j w_ja_j\bigr)^2\Bigr],

and the second part does not depend on :math:`q`.
By the Cauchy-Schwarz inequality, with :math:`\sum_jq_j=1`,

.. math::
    \Bigl(\sum_j |w_j|\sqrt{\mathbb{E}[a_j^2]}\Bigr)^2
    \le\sum_j \frac{w_j^2\,\mathbb{E}[a_j^2]}{q_j}\;\sum_j q_j ,

with equality for :math:`q_j\propto|w_j|\sqrt{\mathbb{E}[a_j^2]}`: the optimum of importance
sampling [1]_.
The density :math:`p_j\propto|w_j|` is optimal only where all inputs have the same second moment.

:func:`input_scales` measures :math:`s_j=\sqrt{\mathbb{E}[a_j^2]}` on a batch of inputs, for the
layers of any network, and :func:`quantize` samples in proportion to :math:`|w_j|s_j`.
The sampled weights are integers times one scale a row, divided by :math:`s_j`.
Where :math:`s_j` belongs to a neuron, that neuron's own weights and bias can be divided by it
instead, and integers are left: see :mod:`mcnn.density.folding`.

References
----------
.. [1] A. B. Owen: Monte Carlo theory, methods and examples. 2013, chapter 9.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mcnn import modelwise
from mcnn.density import model as whole_models
from mcnn.density.watch import Watch
from mcnn.modelwise import Batches, Layers, Report


def input_scales(
    model: nn.Module,
    inputs: Batches,
    layers: Layers = None,
    batch_size: int = 250,
    call: Callable[[nn.Module, Any], Any] | None = None,
) -> dict[str, Tensor]:
    r"""Measure :math:`\sqrt{\mathbb{E}[a_j^2]}` for the input that each weight meets.

    Parameters
    ----------
    model
        Any module with layers of :mod:`mcnn.modelwise.kinds` inside; run in evaluation mode, and
        left as it was, its random generator included.
    inputs
        To calibrate with: [m, ...], m inputs of the model; a dictionary of keyword inputs; a tuple;
        or a list or ``DataLoader`` of such batches, see :func:`mcnn.modelwise.run_batches`.
    layers
        As in :func:`mcnn.density.quantize`.
    batch_size
        Inputs at a time, of a tensor.
    call
        What to do with the model and a batch, in place of calling the one on the other.

    Returns
    -------
    dict of str to Tensor
        For each layer a tensor of the shape of its weight, not narrower than float32.
        In a convolution the mean is also over the places where the filter is applied; the zeros of
        padding count.

    Raises
    ------
    ValueError
        If ``inputs`` is empty, a layer is never used, or for what :func:`mcnn.modelwise.select`
        refuses.
    TypeError
        If it is not clear which parts of a batch the model takes.

    Examples
    --------
    >>> layer = nn.Linear(3, 1)
    >>> input_scales(layer, torch.tensor([[3.0, 0.0, 1.0], [4.0, 0.0, 1.0]]))[""] ** 2
    tensor([[12.5000,  0.0000,  1.0000]])
    """
    chosen = modelwise.select(model, layers)
    with modelwise.observing(model), Watch(model, chosen) as watch:
        modelwise.run_batches(model, inputs, batch_size, call)
    unused = [layer.name for layer in chosen if not watch.uses[layer.name]]
    if unused:
        raise ValueError(
            f"layer {unused[0]!r} was never used by the model on these inputs, or not by calling "
            "it: leave it out of layers"
        )
    return {x.name: (watch.squares[x.name] / watch.uses[x.name]).sqrt() for x in chosen}


def quantize(
    model: nn.Module, scales: Mapping[str, Tensor], **options: Any
) -> tuple[nn.Module, Report]:
    r"""Sample the weights of layers in proportion to :math:`|w_j|s_j` instead of :math:`|w_j|`.

    Parameters
    ----------
    model
        Any module; not changed.
    scales
        For the name of each layer that is to be sampled, :math:`s_j\ge 0`: a tensor that
        broadcasts with the weight, such as those of :func:`input_scales`.
    options
        As in :func:`mcnn.density.quantize`, but for ``layers``.

    Returns
    -------
    nn.Module
        A copy of the model, whose sampled weights are counts times the scale of a row, divided by
        :math:`s_j`, and zero where :math:`s_j=0`.
    Report
        Of the counts; the scales of inputs are not in its bytes.

    Raises
    ------
    TypeError, ValueError
        As :func:`mcnn.density.quantize`; also for scales that are negative, NaN or infinite, do not
        broadcast, or belong to no layer.

    Examples
    --------
    >>> layer = nn.Linear(100, 10)
    >>> scales = {"": torch.linspace(0, 1, 100)}  # the first input is always zero
    >>> small, report = quantize(layer, scales, samples=12)
    >>> bool((small.weight[:, 0] == 0).all())
    True
    """
    scaled, selected = modelwise.copied(model, lambda name, module: name in scales)
    layers = {layer.name: layer for layer in selected}
    unknown_layers = [name for name in scales if name not in layers]
    if unknown_layers:
        raise ValueError(
            f"scales: {unknown_layers[0]!r} is no linear or convolutional layer here, or shares "
            "its weight with one that has scales"
        )
    expanded = {name: _expanded(name, layers[name].weight, scales[name]) for name in layers}
    with torch.no_grad():
        for name, layer in layers.items():
            layer.weight.mul_(expanded[name])
        sampled, report = whole_models.quantize(
            scaled, layers=lambda name, module: name in layers, **options
        )
        for layer in modelwise.select(sampled, lambda name, module: name in layers):
            weight, scale = layer.weight, expanded[layer.name]
            weight.copy_(torch.where(scale > 0, weight / scale, 0))
    return sampled, report


def _expanded(name: str, weight: Tensor, scale: Tensor) -> Tensor:
    """Return the scale in the shape and dtype of the weight."""
    if not (torch.isfinite(scale).all() and (scale >= 0).all()):
        raise ValueError(f"scales: that of layer {name!r} is negative, NaN or infinite")
    try:
        return scale.to(weight).expand(weight.shape)
    except RuntimeError:
        raise ValueError(
            f"scales: {tuple(scale.shape)} does not broadcast with the weight of layer "
            f"{name!r}, {tuple(weight.shape)}"
        ) from None
