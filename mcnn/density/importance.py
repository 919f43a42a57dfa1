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

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mcnn import modelwise
from mcnn.density import model as whole_models
from mcnn.modelwise import Layers, Report


@torch.no_grad()
def input_scales(
    model: nn.Module, inputs: Tensor, layers: Layers = None, batch_size: int = 250
) -> dict[str, Tensor]:
    r"""Measure :math:`\sqrt{\mathbb{E}[a_j^2]}` for the input that each weight meets.

    Parameters
    ----------
    model
        Any module with linear or convolutional layers inside; run in its own mode, not changed.
    inputs
        [m, ...], a calibration batch: m inputs of the model.
    layers
        As in :func:`mcnn.density.quantize`.
    batch_size
        Inputs at a time.

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

    Notes
    -----
    A weight's derivative of the sum of all outputs is the sum of the inputs that it has met.
    So the squared inputs are sent through a copy of the layer, and differentiated: one rule for
    every kind of layer, with its strides, groups and padding.

    Examples
    --------
    >>> layer = nn.Linear(3, 1)
    >>> input_scales(layer, torch.tensor([[3.0, 0.0, 1.0], [4.0, 0.0, 1.0]]))[""] ** 2
    tensor([[12.5000,  0.0000,  1.0000]])
    """
    if len(inputs) == 0:
        raise ValueError("inputs is empty: give some inputs of the model to calibrate with")
    chosen = {layer.name: layer.module for layer in modelwise.select(model, layers)}
    squares: dict[str, Tensor] = {}
    uses = dict.fromkeys(chosen, 0)
    with _watched(chosen, squares, uses):
        for batch in inputs.split(batch_size):
            model(batch)
    unused = [name for name in chosen if not uses[name]]
    if unused:
        raise ValueError(f"layer {unused[0]!r} was never used by the model: leave it out of layers")
    return {name: (squares[name] / uses[name]).sqrt() for name in chosen}


@contextmanager
def _watched(
    chosen: Mapping[str, nn.Module], squares: dict[str, Tensor], uses: dict[str, int]
) -> Iterator[None]:
    """Add up the squared inputs of each weight, and how many outputs of a row they went to."""

    def watch(name: str, layer: nn.Module) -> Any:
        probe = copy.deepcopy(layer).requires_grad_(False)
        if probe.weight.dtype != torch.float64:
            probe = probe.float()  # squares of half precision numbers overflow, and sums drift
        weight = probe.weight.requires_grad_()

        @torch.enable_grad()
        def hook(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            out = probe(arguments[0].detach().to(weight.dtype).square())
            (grad,) = torch.autograd.grad(out.sum(), weight)
            squares[name] = squares.get(name, 0) + grad
            rows = len(weight) if isinstance(layer, nn.Linear) else layer.out_channels
            uses[name] += out.numel() // rows

        return layer.register_forward_pre_hook(hook)

    handles = [watch(name, layer) for name, layer in chosen.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


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
        broadcast, or belong to no linear or convolutional layer.

    Examples
    --------
    >>> layer = nn.Linear(100, 10)
    >>> scales = {"": torch.linspace(0, 1, 100)}  # the first input is always zero
    >>> small, report = quantize(layer, scales, samples=12)
    >>> bool((small.weight[:, 0] == 0).all())
    True
    """
    scaled, selected = modelwise.copied(model, lambda name, module: name in scales)
    layers = {layer.name: layer.module for layer in selected}
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
        for name, scale in expanded.items():
            weight = sampled.get_submodule(name).weight
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
